"""What the histories of runs say, for tests."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle

BEGINNING_AND_END = {
    EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: 1,
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: -1,
}


async def most_at_once(*handles: WorkflowHandle[Any, Any]) -> int:
    """The most steps that were under way together, over one run or several; each must have ended with an outcome."""
    changes = [
        (event.event_time.ToNanoseconds(), BEGINNING_AND_END[event.event_type])
        for handle in handles
        async for event in handle.fetch_history_events()
        if event.event_type in BEGINNING_AND_END
    ]
    return max(accumulate(change for _, change in sorted(changes)))


async def signals(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """The names of the signals that a run has got, in order."""
    return [
        event.workflow_execution_signaled_event_attributes.signal_name
        async for event in handle.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    ]
