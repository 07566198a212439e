"""One typed coroutine for each activity, with its timeouts, retry policy and summary; nothing else names an activity.

Law: a step's activity never raises into a verb. However it ends, its end is a StepOutcome; only an eviction passes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    RetryState,
    TimeoutError,
    TimeoutType,
)

from workflows import wire
from workflows.deadline import end
from workflows.steps import AgentStepSpec, RunOptions, StepCall, StepOutcome, StepStatus, Usage

HEARTBEAT_TIMEOUT = timedelta(seconds=6)
# A killed worker is noticed after this: three beats of two seconds.
ATTEMPT_LIMIT = timedelta(hours=24)
# Temporal wants a limit on each attempt. Heartbeats notice a dead worker and `timeout_seconds` a slow agent, so this
# one only ends an agent that beats for ever.
FIRST_RETRY = timedelta(milliseconds=200)
SLOWEST_RETRY = timedelta(seconds=30)
MAX_ATTEMPTS = 100
# A step that takes its worker down with it must end some day. Errors of agents are given up far earlier, by the
# activity itself, which knows what kind of error it was.
SUMMARY_LENGTH = 100
# One line of the UI's timeline; the server refuses more than 400 bytes.

CANCELLED_TEXT = "Task cancelled by caller"


@dataclass(frozen=True, slots=True)
class StepEnd:
    """How a scheduled step ended."""

    outcome: StepOutcome
    is_usage_known: bool = True
    """False where the worker was lost and left nothing that tells what was spent."""
    interrupted: bool = False
    """Whether the caller was cancelled meanwhile; it records the outcome, then raises CancelledError."""


async def run_agent_step(call: StepCall, options: RunOptions) -> StepEnd:
    """Schedule a step and wait for its end; cancelled, the step is cancelled and its end still awaited."""
    spec = call.spec
    attempts = spec.max_attempts or options.max_attempts or MAX_ATTEMPTS
    handle: workflow.ActivityHandle[StepOutcome] = workflow.start_activity(
        wire.RUN_AGENT_STEP,
        call,
        result_type=StepOutcome,
        task_queue=spec.task_queue or options.task_queues.get(spec.agent),
        start_to_close_timeout=ATTEMPT_LIMIT,
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=RetryPolicy(
            initial_interval=FIRST_RETRY, maximum_interval=SLOWEST_RETRY, maximum_attempts=attempts
        ),
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=_summary(call),
    )
    interrupted = False
    try:
        await workflow.wait([handle])
    except asyncio.CancelledError:
        interrupted = True
        await end([handle])
    outcome, is_usage_known = _outcome(handle, call, attempts)
    return StepEnd(outcome, is_usage_known, interrupted)


def _summary(call: StepCall) -> str:
    text = f"{call.spec.agent}: {call.spec.description or call.spec.task_id}"
    return text if len(text) <= SUMMARY_LENGTH else f"{text[: SUMMARY_LENGTH - 1]}…"


def _outcome(handle: workflow.ActivityHandle[StepOutcome], call: StepCall, attempts: int) -> tuple[StepOutcome, bool]:
    """The activity's end as an outcome, and whether its usage is known."""
    try:
        return handle.result(), True
    except asyncio.CancelledError:  # cancelled in the same breath in which it was scheduled
        return failed(call.spec, "cancelled", CANCELLED_TEXT), True
    except ActivityError as error:
        cause = error.cause
        if isinstance(cause, CancelledError):
            # Only a step that no worker runs ends so: queued, or between two attempts. Workers return an outcome.
            return failed(call.spec, "cancelled", CANCELLED_TEXT), True
        if isinstance(cause, ApplicationError):
            return _from_failure(call, cause)
        if isinstance(cause, TimeoutError):
            return _from_timeout(
                call, cause, attempts if error.retry_state is RetryState.MAXIMUM_ATTEMPTS_REACHED else 1
            )
        return failed(call.spec, "failed", f"Task failed: {cause or error}"), False


def _from_failure(call: StepCall, failure: ApplicationError) -> tuple[StepOutcome, bool]:
    """A failure that the activity raised carries the outcome so far in its details."""
    if failure.details:
        try:
            return StepOutcome.model_validate(failure.details[0]), True
        except ValidationError:
            workflow.logger.warning("The failure of step %r has details of another shape.", call.spec.task_id)
    named = f"{failure.type}: {failure.message}" if failure.type else failure.message
    return failed(call.spec, "failed", f"Task failed: {named}"), False


def _from_timeout(call: StepCall, timeout: TimeoutError, attempts: int) -> tuple[StepOutcome, bool]:
    if timeout.type is TimeoutType.HEARTBEAT:
        what = f"its worker was lost: no heartbeat for {HEARTBEAT_TIMEOUT.total_seconds():.0f} s"
    else:
        what = f"an attempt ran into the limit of {ATTEMPT_LIMIT}"
    usage = _last_usage(timeout)
    outcome = failed(call.spec, "failed", f"Task failed: {what}")
    return outcome.model_copy(update={"usage": usage or Usage(), "attempts": attempts}), usage is not None


def _last_usage(timeout: TimeoutError) -> Usage | None:
    """What the last heartbeat of a lost worker told, if it told."""
    for details in timeout.last_heartbeat_details:
        if isinstance(details, dict) and "usage" in details:
            try:
                return Usage.model_validate(details["usage"])
            except ValidationError:
                return None
    return None


def failed(spec: AgentStepSpec, status: StepStatus, output: str) -> StepOutcome:
    """The outcome of a step that no executor reported on."""
    return StepOutcome(
        task_id=spec.task_id,
        agent=spec.agent,
        output=output,
        success=False,
        status=status,
        error=output.removeprefix("Task failed: "),
    )
