"""What the histories of runs say, for tests."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle

SCHEDULED = EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
STARTED = EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED
COMPLETED = EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED


async def most_at_once(*handles: WorkflowHandle[Any, Any], begin: EventType.ValueType = SCHEDULED) -> int:
    """The most steps that were under way together, over one run or several; each must have ended with an outcome.

    With `STARTED` as their beginning, the most that workers had in hand.
    """
    changes = {begin: 1, COMPLETED: -1}
    course = [
        (event.event_time.ToNanoseconds(), changes[event.event_type])
        for handle in handles
        async for event in handle.fetch_history_events()
        if event.event_type in changes
    ]
    return max(accumulate(change for _, change in sorted(course)))


async def signals(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """The names of the signals that a run has got, in order."""
    return [
        event.workflow_execution_signaled_event_attributes.signal_name
        async for event in handle.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    ]
