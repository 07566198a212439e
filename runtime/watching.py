"""What there is to know about a run: how it stands, what it answers, how it ended.

An open run is asked through a live worker. A closed one is read by replaying its history here (`runtime.recall`), once
for all questions; a worker, which would replay it for each, is asked where the code is not here. `NoAnswer` says why a
run cannot be read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowHistory,
    WorkflowQueryFailedError,
)
from temporalio.exceptions import ApplicationError, CancelledError, FailureError, TerminatedError, TimeoutError
from temporalio.service import RPCError, RPCStatusCode

from runtime.recall import Questions, RecallFailed, recall
from runtime.sealed import reading
from runtime.settings import Settings
from runtime.stuck import why_stuck
from workflows.wire import (
    APPROVALS_QUERY,
    BUDGET_QUERY,
    CANCELLED,
    CHAIN_WORKFLOW,
    EVENTS_QUERY,
    PROGRESS_QUERY,
    STEPS_WORKFLOW,
)

Json = dict[str, Any]

ANSWER_TIMEOUT = timedelta(seconds=5)
# A live worker answers in milliseconds; without one the server itself would wait 30 s.
ANSWER_TIMEOUT_PER_EVENT = timedelta(milliseconds=2)
# A worker that is new to the run, or finds it closed, replays it first: 1.3 ms for each event on two busy cores.

PATIENCE = timedelta(seconds=1)
# A worker that has not answered by then may be gone: it stays listed for minutes, and never answers.

FIRST_TASK_EVENTS = 4
# A run whose history is shorter has not begun: start; workflow task scheduled, started, and completed or failed.
UNDECODED_EVENTS = 5
# The same and its end: the history of a run that failed at its input.

POLLER_FRESH = timedelta(seconds=70)
# A poll is open for 60 s at most, and the server lists a poller for minutes after its process is gone.

RUNNING = "running"
COMPLETED = "completed"

STATUS_WORDS = {"canceled": CANCELLED}
# Temporal spells this one status with one l; perdure's own failure type has two.


class RunNotFound(Exception):
    """No run has this id."""


class NoAnswer(Exception):
    """The run cannot be read now; the message says why and what helps."""


class NotReplayed(NoAnswer):
    """The code that is here cannot replay the run."""


class NotBegun(NoAnswer):
    """The run's own code has not begun, so there is nothing to read."""


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

    @property
    def is_open(self) -> bool:
        """Whether the run has not ended."""
        return self.closed is None

    def to_json(self) -> Json:
        """The run for programs."""
        return {
            "id": self.id,
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


class RunReader:
    """Reads one run."""

    def __init__(self, client: Client, info: RunInfo, settings: Settings, workflows: Sequence[type]) -> None:
        self.client = reading(client)
        self.info = info
        self.handle: WorkflowHandle[Any, Any] = self.client.get_workflow_handle(info.id)
        self._settings = settings
        self._workflows = workflows
        self._recalled: dict[tuple[str, tuple[Any, ...]], Any] | None = None
        """What the history of a closed run answered, by query and arguments."""
        self._not_replayed: NotReplayed | None = None

    @classmethod
    async def open(cls, client: Client, workflow_id: str, settings: Settings, workflows: Sequence[type]) -> RunReader:
        """Find a run. Raises `RunNotFound`."""
        return cls(client, await describe(client, workflow_id), settings, workflows)

    async def refresh(self) -> RunInfo:
        """How the run stands now."""
        self.info = await describe(self.client, self.info.id)
        return self.info

    async def budget(self) -> Json:
        """The `budget` query."""
        answer: Json = await self._ask(BUDGET_QUERY)
        return answer

    async def progress(self) -> Json:
        """The `progress` query."""
        answer: Json = await self._ask(PROGRESS_QUERY)
        return answer

    async def approvals(self) -> list[Json]:
        """The `approvals` query: what waits for a person's answer, oldest first."""
        answer: list[Json] = await self._ask(APPROVALS_QUERY)
        return answer

    async def events(self, after: int = -1) -> Json:
        """One page of the `events` query."""
        answer: Json = await self._ask(EVENTS_QUERY, after)
        return answer

    async def all_events(self, after: int = -1) -> Json:
        """Every page of the `events` query after an offset, as one."""
        page = await self.events(after)
        events, dropped = list(page["events"]), page.get("dropped", 0)
        while page.get("more"):
            page = await self.events(page["last_offset"])
            events += page["events"]
            dropped += page.get("dropped", 0)
        return {"events": events, "last_offset": page["last_offset"], "dropped": dropped}

    async def arguments(self) -> list[Any]:
        """What the run was started with, as plain JSON. Raises `PayloadLocked` where that takes a key."""
        async for event in self.handle.fetch_history_events(page_size=1):
            payloads = event.workflow_execution_started_event_attributes.input.payloads
            return await self.client.data_converter.decode(payloads)
        return []

    async def see_served(self) -> None:
        """Ask the run nothing. Raises `NoAnswer` where it is open and cannot go on."""
        if not (await self.refresh()).is_open:
            return
        await self._see_worker()
        failure = await why_stuck(self.client, self.info.id)
        if failure is not None:
            raise NoAnswer(self._cannot_go_on(failure))

    async def ending(self) -> Ending:
        """How the run ended; waits until it has, also across continue-as-new."""
        try:
            result = await self.handle.result()
        except WorkflowFailureError as error:
            return _failed(self.info.type, error.cause)
        return Ending(self.info.type, COMPLETED, result)

    async def _ask(self, query: str, *arguments: Any) -> Any:
        """A query's answer."""
        await self._see_begun()
        if not self.info.is_open:
            return await self._ask_closed(query, arguments)
        asked = asyncio.create_task(self._query(query, arguments))
        try:
            await asyncio.wait({asked}, timeout=PATIENCE.total_seconds())
            if not asked.done() and not (await self.refresh()).is_open:
                return await self._ask_closed(query, arguments)
            if not asked.done() and not await has_worker(self.client, self.info.task_queue):
                raise NoAnswer(no_worker(self.info.task_queue))
            return await asked
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    async def _ask_closed(self, query: str, arguments: tuple[Any, ...]) -> Any:
        """An answer from the history; from a worker where only that one has the code."""
        try:
            return await self._recall(query, arguments)
        except NotReplayed:
            if await has_worker(self.client, self.info.task_queue):
                with suppress(NoAnswer):  # what it says then helps less
                    return await self._query(query, arguments)
            raise

    async def _see_worker(self) -> None:
        """Raises `NoAnswer` where no worker polls. One that starts at this moment is given a second."""
        queue = self.info.task_queue
        if await has_worker(self.client, queue):
            return
        await asyncio.sleep(PATIENCE.total_seconds())
        if not await has_worker(self.client, queue):
            raise NoAnswer(no_worker(queue))

    async def _see_begun(self) -> None:
        """Ask nothing of a run whose input was not decoded.

        The SDK has no workflow object to ask then, takes that for a fault of its own, and fails the workflow task: a
        query that comes along with the first one keeps the run from its end for 10 s. Raises `NoAnswer`.
        """
        if self.info.is_open and self.info.events < FIRST_TASK_EVENTS:
            await self.refresh()
        name = f"Run {self.info.id!r} ({self.info.type})"
        if self.info.is_open and self.info.events < FIRST_TASK_EVENTS:
            await self._see_worker()
            raise NotBegun(f"{name} has not begun; its first workflow task is with the workers.")
        if self.info.status == "failed" and self.info.events == UNDECODED_EVENTS:
            ending = await self.ending()
            if ending.failure_type == ValidationError.__name__:
                raise NotBegun(f"{name} failed at its input, before its code began; it has nothing to tell.")

    async def _query(self, query: str, arguments: tuple[Any, ...]) -> Any:
        """A worker's answer; from its history, where the run has ended meanwhile."""
        try:
            return await self.handle.query(query, args=arguments, rpc_timeout=self._answer_timeout)
        except WorkflowQueryFailedError as error:
            told = f"Run {self.info.id!r} ({self.info.type}) does not answer {query!r}: {error}"
            raise NoAnswer(full_stop(told)) from error
        except RPCError as error:
            if error.status is RPCStatusCode.UNAVAILABLE:
                raise
            if self.info.is_open and not (await self.refresh()).is_open:
                return await self._ask_closed(query, arguments)
            raise NoAnswer(await self._why_silent(error)) from error

    @property
    def _answer_timeout(self) -> timedelta:
        return ANSWER_TIMEOUT + ANSWER_TIMEOUT_PER_EVENT * self.info.events

    async def _recall(self, query: str, arguments: tuple[Any, ...]) -> Any:
        """An answer from the history; one replay answers all that is commonly asked together."""
        recalled = self._recalled or {}
        if (query, arguments) not in recalled:
            questions: dict[str, tuple[Any, ...]] = {PROGRESS_QUERY: (), BUDGET_QUERY: (), query: arguments}
            answers = await self._replay(questions)
            recalled |= {(name, questions[name]): answer for name, answer in answers.items()}
            self._recalled = recalled
        if (query, arguments) not in recalled:
            raise NoAnswer(f"Run {self.info.id!r} ({self.info.type}) does not answer {query!r}.")
        return recalled[query, arguments]

    async def _replay(self, questions: Questions) -> dict[str, Any]:
        if self._not_replayed is not None:
            raise self._not_replayed
        history = await self.handle.fetch_history()
        await self._unlock(history)
        try:
            return await recall(history, questions, settings=self._settings, workflows=self._workflows)
        except RecallFailed as error:
            self._not_replayed = NotReplayed(
                f"Run {self.info.id!r} ({self.info.type}) has ended, no worker of task queue "
                f"{self.info.task_queue!r} answers, and its history cannot be replayed here: {full_stop(str(error))} "
                "Name the module of its workflow with --workflows, or start a worker."
            )
            raise self._not_replayed from error

    async def _unlock(self, history: WorkflowHistory) -> None:
        """Find out before a replay, which would not say why. Raises `PayloadLocked` where a key is missing."""
        started = history.events[0].workflow_execution_started_event_attributes
        await self.client.data_converter.decode(started.input.payloads)

    async def _why_silent(self, error: RPCError) -> str:
        queue = self.info.task_queue
        if not await has_worker(self.client, queue):
            return no_worker(queue)
        failure = await why_stuck(self.client, self.info.id)
        if failure is not None:
            return self._cannot_go_on(failure)
        if error.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
            return f"No worker of task queue {queue!r} has answered for {self._answer_timeout.total_seconds():.0f} s."
        return f"Run {self.info.id!r} cannot be read now: {error.message}."

    def _cannot_go_on(self, failure: str) -> str:
        return full_stop(f"Run {self.info.id!r} cannot go on; its workflow code fails and is tried again: {failure}")


async def describe(client: Client, workflow_id: str) -> RunInfo:
    """How a run stands. Raises `RunNotFound`."""
    try:
        return run_info(await client.get_workflow_handle(workflow_id).describe())
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        address = client.service_client.config.target_host
        raise RunNotFound(
            f"Run {workflow_id!r} was not found in namespace {client.namespace!r} at {address}."
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
    )


def _failed(workflow_type: str, cause: BaseException) -> Ending:
    """An ending that is no completion. Failure details hold the report of a run that reports what it did."""
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


def full_stop(text: str) -> str:
    """A text as a sentence that ends once."""
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."


def no_worker(task_queue: str) -> str:
    """What to say where nobody serves a task queue."""
    return f"no worker is polling task queue {task_queue!r}"


async def has_worker(client: Client, task_queue: str) -> bool:
    """Whether a worker has polled a task queue for workflows within the last 70 s."""
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
    )
    now = time.time()
    return any(now - poller.last_access_time.ToSeconds() < POLLER_FRESH.total_seconds() for poller in answer.pollers)
