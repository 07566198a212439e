"""Asks a dedup store on behalf of a run: an update needs a client, and workflow code has none."""

from __future__ import annotations

from typing import Any

from temporalio import activity
from temporalio.client import WithStartWorkflowOperation, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from workflows import wire


@activity.defn(name=wire.CLAIM_UNSEEN)
async def claim_unseen(claim: dict[str, Any]) -> list[bool]:
    """Which of the claim's fingerprints are new to its store, which is started where there is none.

    Running twice is safe: the store gives the same claim the same answer.
    """
    store: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
        wire.SEEN_STORE_WORKFLOW,
        id=f"{wire.SEEN_STORE_ID}{claim['store']}",
        task_queue=activity.info().task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
    try:
        answer: list[bool] = await activity.client().execute_update_with_start_workflow(
            wire.CLAIM_UPDATE, claim, start_workflow_operation=store
        )
    except WorkflowUpdateFailedError as error:
        cause = error.cause
        text = cause.message if isinstance(cause, ApplicationError) else str(cause)
        raise ApplicationError(text, type="StoreFull", non_retryable=True) from None
    return answer
