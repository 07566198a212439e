"""What there is to know about a run: what it answers, and how it ends.

An open run is asked through a live worker. A closed one is read by replaying its history here (`runtime.recall`), once
for all questions; a worker, which would replay it for each, is asked where the code is not here. `NoAnswer` says why a
run cannot be read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from pydantic import ValidationError
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowHistory,
    WorkflowQueryFailedError,
)
from temporalio.service import RPCError, RPCStatusCode

from runtime.pending import Pending, pending_steps, slices_in_flight
from runtime.recall import Questions, RecallFailed, recall
from runtime.sealed import reading
from runtime.settings import Settings
from runtime.standing import COMPLETED, Ending, Json, RunInfo, describe, failed_ending, run_info
from runtime.stuck import why_stuck
from runtime.texts import full_stop
from workflows.wire import APPROVALS_QUERY, BUDGET_QUERY, EVENTS_QUERY, PROGRESS_QUERY

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

FIRST_POLL_CHECKS = 500
FIRST_POLL_INTERVAL = timedelta(milliseconds=20)
# A worker that has begun asks for work within milliseconds, and on a busy machine within seconds.

POLLER_FRESH = timedelta(seconds=70)
# A poll is open for 60 s at most, and the server lists a poller for minutes after its process is gone.


class NoAnswer(Exception):
    """The run cannot be read now; the message says why and what helps."""


class NotReplayed(NoAnswer):
    """The code that is here cannot replay the run."""


class NotBegun(NoAnswer):
    """The run's own code has not begun, so there is nothing to read."""


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
        return cls(client, run_info(await describe(client, workflow_id)), settings, workflows)

    async def refresh(self) -> RunInfo:
        """How the run stands now."""
        self.info = run_info(await describe(self.client, self.info.id))
        return self.info

    async def pending(self) -> list[Pending]:
        """What the steps in flight tell by their heartbeats; how the run stands is refreshed with it."""
        description = await describe(self.client, self.info.id)
        self.info = run_info(description)
        return await pending_steps(self.client, description)

    async def budget(self) -> Json:
        """The `budget` query."""
        answer: Json = await self._ask(BUDGET_QUERY)
        return answer

    async def progress(self) -> Json:
        """The `progress` query."""
        answer: Json = await self._ask(PROGRESS_QUERY)
        return answer

    async def approvals(self) -> list[Json]:
        """What waits for a person's answer, in the run and in the children that carry steps of it; oldest first."""
        return [asked for _, asked in await self.questions()]

    async def questions(self) -> list[tuple[RunReader, Json]]:
        """The same, each with the run that takes the answer."""
        own: list[Json] = await self._ask(APPROVALS_QUERY)
        found = [(self, asked) for asked in own]
        for child in await self.slices():
            with suppress(NotBegun):
                found += await child.questions()
        return sorted(found, key=lambda each: each[1]["asked"])

    async def slices(self) -> list[RunReader]:
        """The children in flight that carry steps of the run."""
        if not self.info.is_open:
            return []
        names = slices_in_flight(await describe(self.client, self.info.id))
        children = [await RunReader.open(self.client, name, self._settings, self._workflows) for name in names]
        return [child for child in children if child.info.is_open]  # one may have ended since

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
            return failed_ending(self.info.type, error.cause)
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
                f"{self.info.task_queue!r} answers, and its history cannot be replayed here: {error}"
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
        return full_stop(f"Run {self.info.id!r} cannot be read now: {error.message}")

    def _cannot_go_on(self, failure: str) -> str:
        return full_stop(f"Run {self.info.id!r} cannot go on; its workflow code fails and is tried again: {failure}")


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


async def until_polled(client: Client, task_queue: str) -> None:
    """Wait until a worker that has just begun is seen: before that, whoever reads a run is told that it has none.

    After 10 s the wait is over; those who then read say what they find.
    """
    for _ in range(FIRST_POLL_CHECKS):
        if await has_worker(client, task_queue):
            return
        await asyncio.sleep(FIRST_POLL_INTERVAL.total_seconds())
