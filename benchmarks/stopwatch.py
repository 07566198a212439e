"""How long workflow code holds a worker's thread: every activation is timed where the SDK calls it.

The wall time of `WorkflowInstance.activate` is what the SDK's deadlock detector limits to 2 s; it includes waiting for
the interpreter while other threads of the worker hold it. CPU time of the thread tells both apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

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


class TimedRunner(SandboxedWorkflowRunner):
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
