"""Why a run that is open does not go on, as its history tells.

Law: only a failure of the run's own code counts. Temporal also fails workflow tasks by itself, in the course of a
cancel or a signal that came meanwhile, and goes on at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent, WorkflowTaskFailedEventAttributes
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryReverseRequest
from temporalio.client import Client
from temporalio.exceptions import FailureError

FAILED = EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
COMPLETED = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED

TEMPORALS_OWN = frozenset(
    {
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED,
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND,
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_UPDATE,
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND,
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FAILOVER_CLOSE_COMMAND,
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_STICKY_TASK_QUEUE,
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
        WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_PAUSE_REQUESTED_BEFORE_TASK_STARTED,
    }
)
"""Causes that say nothing about the code; the task is scheduled again and ends well."""


async def why_stuck(client: Client, workflow_id: str) -> str | None:
    """What the run's code fails with, again and again; None where it does not."""
    description = await client.get_workflow_handle(workflow_id).describe()
    if description.raw_description.pending_workflow_task.attempt <= 1:
        return None
    async for event in _latest_first(client, description.id, description.run_id):
        if event.event_type == COMPLETED:
            return None
        failed = event.workflow_task_failed_event_attributes
        if event.event_type == FAILED and failed.cause not in TEMPORALS_OWN:
            return await _told(client, failed)
    return None


async def _latest_first(client: Client, workflow_id: str, run_id: str) -> AsyncIterator[HistoryEvent]:
    asked = GetWorkflowExecutionHistoryReverseRequest(
        namespace=client.namespace, execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
    )
    while True:
        page = await client.workflow_service.get_workflow_execution_history_reverse(asked)
        for event in page.history.events:
            yield event
        if not page.next_page_token:
            return
        asked.next_page_token = page.next_page_token


async def _told(client: Client, failed: WorkflowTaskFailedEventAttributes) -> str:
    """The failure's text, decrypted; its cause by name where it has none."""
    error = await client.data_converter.decode_failure(failed.failure)
    text = error.message if isinstance(error, FailureError) else str(error)
    return text or WorkflowTaskFailedCause.Name(failed.cause)
