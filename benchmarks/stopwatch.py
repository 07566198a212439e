"""How long workflow code holds a worker's thread, and how long a step's activity takes: timed where the SDK calls them.

The wall time of `WorkflowInstance.activate` is what the SDK's deadlock detector limits to 2 s; it includes waiting for
the interpreter while other threads of the worker hold it. CPU time of the thread tells both apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    WorkflowInstance,
    WorkflowInstanceDetails,
)

from runtime.interruption import InterruptibleRunner

Activate = Callable[[WorkflowActivation], WorkflowActivationCompletion]


@dataclass(frozen=True)
class Activation:
    """One call of workflow code."""

    workflow_type: str
    jobs: int
    """What it was told at once: results, signals, timers."""
    wall_seconds: float
    cpu_seconds: float


ACTIVATIONS: list[Activation] = []
"""Of this process, in the order in which they ended. Appending is atomic, so threads need no lock."""


class TimedRunner(InterruptibleRunner):
    """The sandbox of every perdure worker, with a stopwatch around it."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """See base class."""
        instance = super().create_instance(det)
        timed = _timed(instance.activate, det.info.workflow_type)
        instance.activate = timed  # type: ignore[method-assign,assignment]
        return instance


def _timed(activate: Activate, workflow_type: str) -> Activate:
    def timed(act: WorkflowActivation) -> WorkflowActivationCompletion:
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            return activate(act)
        finally:
            seconds, of_cpu = time.perf_counter() - wall, time.thread_time() - cpu
            ACTIVATIONS.append(Activation(workflow_type, len(act.jobs), seconds, of_cpu))

    return timed


STEP_SECONDS: list[float] = []
"""Of each activity of this process: from its call by the SDK to its result."""


class StepWatch(Interceptor):
    """Times every activity of a worker."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See base class."""
        return _Timed(super().intercept_activity(next))


class _Timed(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        begun = time.perf_counter()
        try:
            return await self.next.execute_activity(input)
        finally:
            STEP_SECONDS.append(time.perf_counter() - begun)
