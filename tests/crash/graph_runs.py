"""How a run of a graph ended, and what its history scheduled: what a test compares with a run that lost no worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import ActivityTaskScheduledEventAttributes
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError

from tests.crash.diary import Diary, Work
from tests.crash.histories import Finish, finished_twice, started_again
from workflows import wire
from workflows.actions import ActionCall
from workflows.steps import StepCall

CLOCKS = ("duration_ms", "total_duration_ms", "timestamp")
"""Fields of a result that tell the time, and so differ from run to run."""


@dataclass(frozen=True)
class Ending:
    """How a run ended: the type of its failure, None where it completed, with its message; and its result."""

    failure: tuple[str | None, str] | None
    result: Any


async def ending_of(run: WorkflowHandle[Any, Any]) -> Ending:
    """The end of a graph's run, without durations and timestamps."""
    try:
        return Ending(None, _without_clocks(await run.result()))
    except WorkflowFailureError as failed:
        cause = failed.cause
        assert isinstance(cause, ApplicationError), f"the run failed with {cause!r}, which tells no result"
        return Ending((cause.type, cause.message), _without_clocks(cause.details[0]))


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clocks(item) for key, item in value.items() if key not in CLOCKS}
    return [_without_clocks(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Course:
    """What a run scheduled, as its history and the diary tell."""

    scheduled: dict[str, str]
    """The name of each step and each tool call by its key, in the order in which they were scheduled."""
    finishes: tuple[Finish, ...]
    """Those that completed, in the order of their completion; a tool call that failed for good has completed too."""
    work: tuple[Work, ...]
    """Their attempts, in the order in which they began."""

    @property
    def finished(self) -> list[str]:
        """The names of what completed, in the order of completion."""
        return [finish.task_id for finish in self.finishes]

    @property
    def held(self) -> list[Work]:
        """What is under way, once nothing else is going on; empty before."""
        flying = [work for work in self.work if work.finished is None]
        done = {finish.key for finish in self.finishes} | {work.key for work in flying}
        return flying if done.issuperset(self.scheduled) else []

    @property
    def again(self) -> dict[str, list[int]]:
        """The attempts, by name, of what was begun more than once. Different work of one name is told as one."""
        found: dict[str, list[int]] = {}
        for key, name in self.scheduled.items():
            attempts = [work.attempt for work in self.work if work.key == key]
            if len(attempts) > 1:
                found.setdefault(name, []).extend(attempts)
        return found


async def course_of(run: WorkflowHandle[Any, Any], diary: Diary) -> Course:
    """The course of a run so far."""
    by_event: dict[int, tuple[str, str]] = {}
    finishes: list[Finish] = []
    async for event in run.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            by_event[event.event_id] = await _name_and_key(event.activity_task_scheduled_event_attributes)
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            completed = event.activity_task_completed_event_attributes
            name, key = by_event[completed.scheduled_event_id]
            time = event.event_time.seconds + event.event_time.nanos / 1e9
            finishes.append(Finish(name, key, time, completed.identity))
    scheduled = {key: name for name, key in by_event.values()}
    assert len(scheduled) == len(by_event), "two scheduled steps or tool calls have one key"
    return Course(scheduled, tuple(finishes), tuple(work for work in diary.work() if work.key in scheduled))


async def _name_and_key(scheduled: ActivityTaskScheduledEventAttributes) -> tuple[str, str]:
    """What names an activity here: the name under which the diary has it, and its idempotency key."""
    payloads = scheduled.input.payloads
    if scheduled.activity_type.name == wire.RUN_AGENT_STEP:
        [step] = await pydantic_data_converter.decode(payloads, [StepCall])
        return step.spec.task_id, step.key
    assert scheduled.activity_type.name == wire.RUN_ACTION, f"the graphs run no {scheduled.activity_type.name!r}"
    [action] = await pydantic_data_converter.decode(payloads, [ActionCall])
    return str(action.parameters["name"]), action.key


async def lawful_course(run: WorkflowHandle[Any, Any], diary: Diary) -> Course:
    """The course of a run, after checking that nothing that had finished began again or finished twice."""
    course = await course_of(run, diary)
    again = started_again(course.work, course.finishes)
    assert not again, f"{len(again)} of {len(course.finishes)} finished steps and calls were started again: {again}"
    twice = finished_twice(course.finishes)
    assert not twice, f"{len(twice)} of {len(course.finishes)} steps and calls finished twice: {twice}"
    misnamed = [work for work in course.work if work.task_id != course.scheduled[work.key]]
    assert not misnamed, f"keys were given to other steps or calls: {misnamed}"
    return course
