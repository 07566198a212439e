"""What the steps in flight of a run tell by their heartbeats, and who carries steps of it, as Temporal's description of
the run holds it.

Law: no worker is asked and nothing is added to the history. A step tells nothing before its first heartbeat, which
comes after two seconds, unless an attempt of it has failed before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import Client, WorkflowExecutionDescription
from temporalio.exceptions import ApplicationError, FailureError

from runtime.standing import Json
from workflows.steps import task_label
from workflows.wire import RUN_AGENT_STEP, SLICE_WORKFLOW


@dataclass(frozen=True)
class Pending:
    """What is known of a step that a worker has, or is to have again."""

    task: str
    """Its task id, as heartbeats name it: cut."""
    scheduled: datetime
    progress: str | None = None
    """What its agent says that it is doing."""
    tokens: int = 0
    """What it has spent so far, over all its attempts."""
    attempt: int = 1
    next_attempt: datetime | None = None
    """When it is tried again; None while a worker has it."""
    failure: str | None = None
    """What the last attempt failed with."""

    @property
    def is_telling(self) -> bool:
        """Whether there is more to say than that the step runs."""
        return bool(self.progress or self.tokens or self.attempt > 1)

    def to_json(self) -> Json:
        """What is known, for programs."""
        told = {
            "progress": self.progress,
            "total_tokens": self.tokens,
            "attempt": self.attempt,
            "next_attempt_time": self.next_attempt.isoformat() if self.next_attempt else None,
            "failure": self.failure,
        }
        return {name: value for name, value in told.items() if value is not None}


def slices_in_flight(description: WorkflowExecutionDescription) -> list[str]:
    """Workflow ids of the children that carry steps of a run."""
    children = description.raw_description.pending_children
    return [child.workflow_id for child in children if child.workflow_type_name == SLICE_WORKFLOW]


async def pending_steps(client: Client, description: WorkflowExecutionDescription) -> list[Pending]:
    """The steps in flight that have told something. Raises `PayloadLocked` where that takes a key."""
    told = [
        await _pending(client, activity)
        for activity in description.raw_description.pending_activities
        if activity.activity_type.name == RUN_AGENT_STEP
    ]
    return [one for one in told if one is not None]


async def _pending(client: Client, activity: PendingActivityInfo) -> Pending | None:
    """What an activity tells; None where it does not even say which step it is."""
    beat, failure = await _beat(client, activity), await _failure(client, activity)
    left = failure.details[0] if isinstance(failure, ApplicationError) and failure.details else None
    known = beat or (_from_outcome(left) if isinstance(left, dict) else {})
    task = known.get("task")
    if not isinstance(task, str):
        return None
    usage, progress = known.get("usage"), known.get("progress")
    tokens = usage.get("total_tokens", 0) if isinstance(usage, dict) else 0
    return Pending(
        task=task,
        scheduled=_moment(activity.scheduled_time),
        progress=progress if isinstance(progress, str) else None,
        tokens=tokens if isinstance(tokens, int) else 0,
        attempt=activity.attempt,
        next_attempt=_moment(activity.next_attempt_schedule_time)
        if activity.HasField("next_attempt_schedule_time")
        else None,
        failure=failure.message if isinstance(failure, FailureError) else None,
    )


async def _beat(client: Client, activity: PendingActivityInfo) -> dict[str, Any]:
    """The details of the last heartbeat; those of a newer version are read as far as they go."""
    for details in await client.data_converter.decode(activity.heartbeat_details.payloads):
        if isinstance(details, dict) and "task" in details:
            return details
    return {}


async def _failure(client: Client, activity: PendingActivityInfo) -> BaseException | None:
    if not activity.HasField("last_failure"):
        return None
    return await client.data_converter.decode_failure(activity.last_failure)


def _from_outcome(outcome: dict[str, Any]) -> dict[str, Any]:
    """What a failed attempt said at its end, as a heartbeat would."""
    task_id = outcome.get("task_id")
    return {"task": task_label(task_id), "usage": outcome.get("usage")} if isinstance(task_id, str) else {}


def _moment(time: Timestamp) -> datetime:
    return time.ToDatetime(UTC)


def by_step(steps: Iterable[Json], pending: Sequence[Pending]) -> dict[str, Pending]:
    """What each step in flight tells, by its identity in the run.

    A heartbeat knows only the task id. Of several steps with one task id it is of the one that began last before it was
    scheduled.
    """
    begun = sorted(((datetime.fromisoformat(step["begun"]), step["step"]) for step in steps), reverse=True)
    found: dict[str, Pending] = {}
    for one in sorted(pending, key=lambda one: one.scheduled):
        for since, step in begun:
            label = task_label(step.partition(":")[2])
            if label == one.task and since <= one.scheduled and step not in found:
                found[step] = one
                break
    return found
