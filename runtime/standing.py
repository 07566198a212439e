"""How a run stands and how it ended, as Temporal itself tells; its own code is asked nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionDescription
from temporalio.exceptions import ApplicationError, CancelledError, FailureError, TerminatedError, TimeoutError
from temporalio.service import RPCError, RPCStatusCode

from workflows.wire import CANCELLED, CHAIN_WORKFLOW, STEPS_WORKFLOW

Json = dict[str, Any]

COMPLETED = "completed"

STATUS_WORDS = {"canceled": CANCELLED}
# Temporal spells this one status with one l; perdure's own failure type has two.


class RunNotFound(Exception):
    """No run has this id."""


@dataclass(frozen=True)
class RunInfo:
    """How a run stands, as Temporal itself tells."""

    id: str
    run_id: str
    type: str
    status: str
    task_queue: str
    started: datetime
    closed: datetime | None
    events: int
    """Length of its history."""
    parent: str | None = None
    """The run whose steps it carries, or that started it otherwise."""

    @property
    def is_open(self) -> bool:
        """Whether the run has not ended."""
        return self.closed is None

    def to_json(self) -> Json:
        """The run for programs."""
        parent = {} if self.parent is None else {"parent": self.parent}
        return {
            "id": self.id,
            **parent,
            "run_id": self.run_id,
            "type": self.type,
            "status": self.status,
            "task_queue": self.task_queue,
            "start_time": self.started.isoformat(),
            "close_time": self.closed.isoformat() if self.closed else None,
            "history_length": self.events,
        }


@dataclass(frozen=True)
class Ending:
    """How a run ended. A run that was stopped may still have a result: what it did before."""

    type: str
    status: str
    result: Any = None
    failure_type: str | None = None
    failure: str | None = None

    @property
    def is_success(self) -> bool:
        """Whether the run did what it was for: it completed and, for `Steps`, no step failed."""
        if self.status != COMPLETED:
            return False
        return self.counts is None or self.counts[1] == 0

    @property
    def counts(self) -> tuple[int, int] | None:
        """Steps that succeeded and failed, where the run was `Steps` and has a report."""
        if self.type != STEPS_WORKFLOW or not isinstance(self.result, dict):
            return None
        return self.result["succeeded"], self.result["failed"]

    def to_json(self) -> Json:
        """The ending for programs."""
        failure = None if self.failure is None else {"type": self.failure_type, "message": self.failure}
        return {"status": self.status, "result": self.result, "failure": failure}


def outcomes(report: Any) -> list[Json]:
    """The step outcomes in the report of a `Steps` run; none in any other value."""
    phases = report.get("phases") if isinstance(report, dict) else None
    return [outcome for phase in phases or () for outcome in phase.get("outcomes", ())]


async def describe(client: Client, workflow_id: str) -> WorkflowExecutionDescription:
    """All that Temporal tells of a run. Raises `RunNotFound`."""
    try:
        return await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        address = client.service_client.config.target_host
        raise RunNotFound(
            f"Run {workflow_id!r} was not found in namespace {client.namespace!r} at {address}. "
            "`perdure list` has those that are there."
        ) from error


def run_info(description: WorkflowExecution) -> RunInfo:
    """A run as a list or a description tells it."""
    status = description.status.name.lower() if description.status else "unknown"
    return RunInfo(
        id=description.id,
        run_id=description.run_id,
        type=description.workflow_type,
        status=STATUS_WORDS.get(status, status),
        task_queue=description.task_queue,
        started=description.start_time,
        closed=description.close_time,
        events=description.history_length,
        parent=description.parent_id,
    )


def failed_ending(workflow_type: str, cause: BaseException) -> Ending:
    """The ending of a run that did not complete. Failure details hold the report of a run that reports what it did."""
    if isinstance(cause, ApplicationError):
        status = CANCELLED if cause.type == CANCELLED else "failed"
        return Ending(workflow_type, status, report_of(workflow_type, cause.details), cause.type, _told(cause))
    if isinstance(cause, CancelledError):
        return Ending(workflow_type, CANCELLED, None, None, _told(cause))
    if isinstance(cause, TerminatedError):
        return Ending(workflow_type, "terminated", None, None, _told(cause))
    if isinstance(cause, TimeoutError):
        return Ending(workflow_type, "timed_out", None, None, _told(cause))
    return Ending(workflow_type, "failed", None, type(cause).__name__, _told(cause))


def report_of(workflow_type: str, details: Sequence[Any]) -> Any:
    """What a run reports that did not complete, in the shape that it has when it does: a chain tells every graph."""
    report, *more = details or (None,)
    if workflow_type != CHAIN_WORKFLOW or report is None:
        return report
    before = more[0] if more and isinstance(more[0], list) else []
    return [*before, report]


def _told(error: BaseException) -> str:
    """A failure and its causes in one line, the outermost first."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        parts.append(cause.message if isinstance(cause, FailureError) else str(cause))
        cause = cause.__cause__
    return ": ".join(part for part in dict.fromkeys(parts) if part)
