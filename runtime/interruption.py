"""What becomes of a run whose code held its worker too long: it is given back, and goes on from its history.

The SDK gives up on workflow code after two seconds, which on a machine without time for it is no fault of the code. It
raises an error in the code's thread, and takes the run out of memory while that thread may still be in it. The error
may strike where a task is being woken: that task never ends, and the run would hold its worker's slot, and stand still
on that worker, for ever.

Law: one thread at a time is in a run, and a run that was interrupted is given back, whatever is left of it.
"""

from __future__ import annotations

import threading
from typing import Any

import structlog
from temporalio import workflow
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.converter import SerializationContext
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from runtime.contexts import Contexts

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.worker")

_left: list[WorkflowInstance] = []
# Kept from the garbage collector: it would end the tasks in whatever thread it runs in, among another run's code.


class InterruptibleRunner(SandboxedWorkflowRunner):
    """The SDK's sandbox, whose runs are given back also after they were interrupted."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """See base class."""
        return _Interruptible(super().create_instance(det))


class _Interruptible(WorkflowInstance):
    def __init__(self, run: WorkflowInstance) -> None:
        self._run = run
        self._turn = threading.Lock()
        self._was_interrupted = False
        self._contexts = Contexts(run)

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        """See base class."""
        with self._turn:  # an eviction waits until the thread that was interrupted has left
            self._contexts.forget()
            try:
                return self._run.activate(act)
            except RuntimeError:  # of an eviction: there are tasks that did not end
                if not self._was_interrupted or not _is_eviction(act):
                    raise
        _left.append(self._run)
        info = self.get_info()
        _log.warning(
            "given back",
            workflow_type=info.workflow_type,
            workflow_id=info.workflow_id,
            run_id=info.run_id,
            left_in_memory=len(_left),
            why="its code held the worker for more than 2 s and was interrupted; it goes on from its history",
        )
        return WorkflowActivationCompletion(run_id=act.run_id)

    def get_thread_id(self) -> int | None:
        """See base class. The SDK asks for it when it interrupts what runs there."""
        thread = self._run.get_thread_id()
        self._was_interrupted = self._was_interrupted or thread is not None
        return thread

    def get_serialization_context(self, command_info: Any) -> SerializationContext | None:
        """See base class."""
        return self._contexts.serialization(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        """See base class."""
        return self._contexts.external_store(command_info)

    def get_info(self) -> workflow.Info:
        """See base class."""
        return self._run.get_info()


def _is_eviction(act: WorkflowActivation) -> bool:
    return any(job.HasField("remove_from_cache") for job in act.jobs)
