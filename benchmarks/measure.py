"""Runs a case by verbs and by hand, in turns, against one server and one worker, and reads what it cost.

Law: both sides of a ratio come from the same server, worker and minute; pairs alternate in who goes first.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.worker import Replayer

from benchmarks.by_hand import FanOutByHand, SequenceByHand
from benchmarks.by_verbs import FanOut, row_of_stages
from benchmarks.by_verbs import Sequence as Row
from benchmarks.stopwatch import ACTIVATIONS, STEP_SECONDS, Activation
from runtime.plugin import PerdurePlugin
from runtime.settings import Settings
from workflows import AgentStepSpec, StageGraph, wire

TASK_QUEUE = "benchmark"
WORKFLOWS: list[type] = [FanOut, Row, FanOutByHand, SequenceByHand]

REPLAYS = 5
# Of each history; one takes well under a second, so the median of five costs little.

ACTIVITY_EVENTS = {
    EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
}
WORKFLOW_TASK_EVENTS = {
    EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
    EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
    EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED,
}


@dataclass(frozen=True)
class Case:
    """Work of a size, and who does it."""

    name: str
    by_verbs: type
    by_hand: type
    steps: int
    window: int

    @property
    def specs(self) -> list[AgentStepSpec]:
        """Echo steps with a short prompt each."""
        return [
            AgentStepSpec(task_id=f"step-{number}", agent="echo", prompt=f"prompt {number}")
            for number in range(self.steps)
        ]

    def arguments(self, side: type) -> list[Any]:
        """What a workflow of this case is started with."""
        return [row_of_stages(self.steps)] if side is StageGraph else [self.specs, self.window]

    def succeeded(self, result: Any) -> int:
        """How many steps of a run's result succeeded, as JSON."""
        if isinstance(result, dict):
            return sum(stage["status"] == "succeeded" for stage in result["stages"])
        return sum(outcome["success"] for outcome in result)


@dataclass(frozen=True)
class Cost:
    """What one run cost."""

    wall_seconds: float
    cpu_seconds: float
    """Of this process: worker, agents and client together. Other processes of the machine do not change it."""
    workflow_seconds: float
    """In activations: workflow code, and what the SDK does around it."""
    step_seconds: float
    """In activities."""
    activity_events: int
    workflow_task_events: int
    history_bytes: int
    history: WorkflowHistory


@dataclass(frozen=True)
class Ratio:
    """Verbs by hand: the median of the pairs, and between which it lies."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, verbs: Sequence[float], hand: Sequence[float]) -> Ratio:
        """The ratio of each pair, summed up."""
        ratios = [one / other for one, other in zip(verbs, hand, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.least:.3f} to {self.most:.3f})"


@dataclass(frozen=True)
class Comparison:
    """A case by verbs and by hand."""

    case: Case
    verbs: list[Cost]
    hand: list[Cost]
    verbs_replay_seconds: list[float]
    hand_replay_seconds: list[float]


async def compare(client: Client, case: Case, pairs: int, tell: Callable[[str], None]) -> Comparison:
    """Run a case so many times each way, in turns, and replay what the last ones left."""
    costs: dict[type, list[Cost]] = {case.by_verbs: [], case.by_hand: []}
    for number in range(pairs):
        for side in _turns(case, number):
            costs[side].append(await run(client, case, side))
        verbs, hand = (costs[side][-1].wall_seconds for side in (case.by_verbs, case.by_hand))
        tell(f"{case.name}, pair {number + 1} of {pairs}: {verbs:.2f} s by verbs, {hand:.2f} s by hand")
    replays: dict[type, list[float]] = {case.by_verbs: [], case.by_hand: []}
    for number in range(REPLAYS):
        for side in _turns(case, number):
            replays[side].append(await _replay(costs[side][-1].history))
    return Comparison(case, costs[case.by_verbs], costs[case.by_hand], replays[case.by_verbs], replays[case.by_hand])


def _turns(case: Case, number: int) -> tuple[type, type]:
    """Who goes first alternates."""
    return (case.by_hand, case.by_verbs) if number % 2 else (case.by_verbs, case.by_hand)


async def run(client: Client, case: Case, side: type) -> Cost:
    """Run a case one way; what it cost."""
    workflow_id = f"{side.__name__}-{uuid.uuid4()}"
    ACTIVATIONS.clear()
    STEP_SECONDS.clear()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    handle = await client.start_workflow(
        side.__name__,
        args=case.arguments(side),
        id=workflow_id,
        task_queue=TASK_QUEUE,
        memo={wire.OPTIONS_MEMO: {"max_concurrency": case.window}},
    )
    result = await handle.result()
    wall_seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    if case.succeeded(result) != case.steps:
        raise AssertionError(f"{workflow_id}: {case.steps} steps should succeed, and the result is {result!r}")
    history = await handle.fetch_history()
    types = Counter(event.event_type for event in history.events)
    execution = (await handle.describe()).raw_description.workflow_execution_info
    return Cost(
        wall_seconds=wall_seconds,
        cpu_seconds=cpu_seconds,
        workflow_seconds=sum(activation.wall_seconds for activation in ACTIVATIONS),
        step_seconds=sum(STEP_SECONDS),
        activity_events=sum(types[kind] for kind in ACTIVITY_EVENTS),
        workflow_task_events=sum(types[kind] for kind in WORKFLOW_TASK_EVENTS),
        history_bytes=execution.history_size_bytes,
        history=history,
    )


async def _replay(history: WorkflowHistory) -> float:
    replayer = Replayer(workflows=WORKFLOWS, plugins=[PerdurePlugin(Settings())])
    begun = time.perf_counter()
    await replayer.replay_workflow(history)
    return time.perf_counter() - begun


async def longest_activation(client: Client, case: Case, side: type, runs: int) -> Activation:
    """The longest activation of a run, and of several runs the median one; the worker must run in this process."""
    longest = []
    for _ in range(runs):
        await run(client, case, side)
        longest.append(max(ACTIVATIONS, key=_wall))
    return sorted(longest, key=_wall)[len(longest) // 2]


def _wall(activation: Activation) -> float:
    return activation.wall_seconds


def quiet_runtime() -> Runtime:
    """An SDK core that tells errors only: what it would warn of is in the figures."""
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(TelemetryFilter("ERROR", "ERROR"))))


def largest_memory_mib() -> float:
    """The most memory that this process had so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS tells bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
