"""What a history says about its steps, and the laws that it and the diary must keep together.

*Finished* means: a completion is in the history. A suspended step is not finished; it is scheduled again on purpose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter

from tests.crash.diary import Work
from workflows import StepOutcome
from workflows.steps import StepCall


@dataclass(frozen=True)
class Finish:
    """The completion of a step."""

    task_id: str
    key: str
    time: float
    """Seconds since the epoch, by the server's clock, which is this machine's."""
    identity: str
    """The worker that reported it: `<process id>@<host>`."""


async def finishes(handle: WorkflowHandle[Any, Any]) -> list[Finish]:
    """Every finished step of a run, in the order of their completion."""
    calls: dict[int, StepCall] = {}
    found: list[Finish] = []
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            payloads = event.activity_task_scheduled_event_attributes.input.payloads
            [calls[event.event_id]] = await pydantic_data_converter.decode(payloads, [StepCall])
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            completed = event.activity_task_completed_event_attributes
            [outcome] = await pydantic_data_converter.decode(completed.result.payloads, [StepOutcome])
            if outcome.needs is None:
                call = calls[completed.scheduled_event_id]
                time = event.event_time.seconds + event.event_time.nanos / 1e9
                found.append(Finish(call.spec.task_id, call.key, time, completed.identity))
    return found


def started_again(work: Iterable[Work], finished: Iterable[Finish]) -> list[Work]:
    """Attempts that began although their step had finished: there must be none."""
    when = {finish.key: finish.time for finish in finished}
    return [each for each in work if each.key in when and each.started > when[each.key]]


def finished_twice(finished: Iterable[Finish]) -> list[str]:
    """Keys with more than one completion: there must be none."""
    counts: defaultdict[str, int] = defaultdict(int)
    for finish in finished:
        counts[finish.key] += 1
    return [key for key, count in counts.items() if count > 1]


def repeated(work: Iterable[Work]) -> dict[str, list[Work]]:
    """Attempts by task id, of the steps that have several."""
    by_id: defaultdict[str, list[Work]] = defaultdict(list)
    for each in work:
        by_id[each.task_id].append(each)
    return {task_id: attempts for task_id, attempts in by_id.items() if len(attempts) > 1}
