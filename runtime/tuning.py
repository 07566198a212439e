"""How much a worker takes on at once, by its settings, and how seldom its interpreter stops to collect garbage.

Law: without `max_cpu`, `max_memory` and `max_pollers` the numbers of slots are fixed and the pollers are the SDK's own.
"""

from __future__ import annotations

import gc

from temporalio.worker import (
    FixedSizeSlotSupplier,
    PollerBehaviorAutoscaling,
    ResourceBasedSlotConfig,
    ResourceBasedSlotSupplier,
    ResourceBasedTunerConfig,
    WorkerConfig,
    WorkerTuner,
)

from runtime.settings import Settings

NO_LIMIT = 1.0
# Of a resource that has no setting: all of it may be used.

LOCAL_ACTIVITY_SLOTS = 100
NEXUS_SLOTS = 100
# The SDK's own numbers; perdure's local activity does nothing, and nothing of it uses Nexus.

FIRST_POLLERS = 5
# As many as the SDK has where their number is fixed: scaling goes on from there.

COLLECTED_AFTER = (20_000, 5, 200)
# Objects made, and collections of each kind before one of the next. A worker holds hundreds of thousands of objects of
# open runs, and Python's own (700, 10, 10) has it look through all of them again and again, in the middle of an
# activation: of 20,000 steps in one call the longest took 0.19 s of CPU, and 0.11 s so, for some 70 MB. The second kind
# looks through 100,000 objects, in 0.15 to 0.2 s; with four times as many it took 0.47 s.


def collect_seldom() -> None:
    """Have this process look for garbage less often, and never in what it has loaded so far."""
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)


def slots(settings: Settings, *, is_fixed: bool = False) -> WorkerConfig:
    """How many steps and workflow tasks a worker has at once; `is_fixed` passes over what the machine can bear."""
    if is_fixed or (settings.max_cpu is None and settings.max_memory is None):
        return {
            "max_concurrent_activities": settings.max_concurrent_steps,
            "max_concurrent_workflow_tasks": settings.max_concurrent_workflow_tasks,
        }
    return {"tuner": _by_resources(settings)}


def _by_resources(settings: Settings) -> WorkerTuner:
    """Steps as long as processors and memory allow, at most `max_concurrent_steps`, and never none.

    Workflow tasks stay at their fixed number: they share one interpreter, which is full long before the machine is.
    """
    targets = ResourceBasedTunerConfig(
        target_memory_usage=NO_LIMIT if settings.max_memory is None else settings.max_memory,
        target_cpu_usage=NO_LIMIT if settings.max_cpu is None else settings.max_cpu,
    )
    steps = ResourceBasedSlotConfig(minimum_slots=1, maximum_slots=settings.max_concurrent_steps)
    return WorkerTuner.create_composite(
        workflow_supplier=FixedSizeSlotSupplier(settings.max_concurrent_workflow_tasks),
        activity_supplier=ResourceBasedSlotSupplier(steps, targets),
        local_activity_supplier=FixedSizeSlotSupplier(LOCAL_ACTIVITY_SLOTS),
        nexus_supplier=FixedSizeSlotSupplier(NEXUS_SLOTS),
    )


def pollers(settings: Settings) -> WorkerConfig:
    """How many requests for work a worker has open at once, for each kind of work."""
    if settings.max_pollers is None:
        return {}
    behavior = PollerBehaviorAutoscaling(
        minimum=1, maximum=settings.max_pollers, initial=min(FIRST_POLLERS, settings.max_pollers)
    )
    return {"workflow_task_poller_behavior": behavior, "activity_task_poller_behavior": behavior}


def rate(settings: Settings) -> WorkerConfig:
    """How many steps a second the task queue hands out; Temporal holds it for all its workers together."""
    if settings.max_steps_per_second is None:
        return {}
    return {"max_task_queue_activities_per_second": settings.max_steps_per_second}
