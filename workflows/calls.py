"""One typed coroutine for each activity, with its timeouts, retry policy and summary; nothing else names an activity.

Law: an activity never raises into a verb. However it ends, a step's end is a StepOutcome and an action's is an
ActionOutcome; only an eviction passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    RetryState,
    TimeoutError,
    TimeoutType,
)

from workflows import actions, wire
from workflows.actions import ActionCall, ActionOutcome
from workflows.deadline import cancel_all
from workflows.errors import OptionsRejected
from workflows.parsing import parse
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
FIRST_ACTION_RETRY = timedelta(milliseconds=100)
SLOWEST_ACTION_RETRY = timedelta(hours=1)
# car waits 100 ms x 2^(n-1) after the n-th attempt; doubling on from here, at the 16th, would outlast any run.
LOST_WORKER_ATTEMPTS = 10
# Of an action, beside the retries that it asks for: where its worker was lost or left it runs again, also one that is
# not to be retried and one in its last attempt. One that takes its worker down with it ends here.
LONGEST_TIMEOUT = timedelta(days=365)
# Temporal holds durations in 64 bits of nanoseconds; a longer one would keep the run's workflow task failing.
TIMEOUT_MARGIN = timedelta(seconds=15)
# The activity ends a tool at its time limit, says so, and gives it some seconds to stop. This limit comes after.
SHORT_LIMIT = timedelta(seconds=30)
# Of an activity that asks something and is done.
VERIFY_LIMIT = timedelta(minutes=5)
# Judging 3 MB takes seconds, and many times that on a machine that is starved; beginning anew would not help it.
SUMMARY_LENGTH = 100
# One line of the UI's timeline. Temporal's own limit is 400 bytes, to which its server (1.32) holds no activity yet.

T = TypeVar("T")

CANCELLED_TEXT = "Task cancelled by caller"


@dataclass(frozen=True, slots=True)
class StepEnd:
    """How a scheduled step ended."""

    outcome: StepOutcome
    is_usage_known: bool = True
    """False where the worker was lost and left nothing that tells what was spent."""
    is_interrupted: bool = False
    """Whether the caller was cancelled meanwhile; it records the outcome, then raises CancelledError."""
    is_late: bool = False
    """Whether its deadline came first; of the outcome, usage and output count."""


async def run_agent_step(call: StepCall, options: RunOptions, limit: timedelta | None) -> StepEnd:
    """Schedule a step and wait for its end; at its limit, or cancelled, it is cancelled and its end still awaited.

    Never raises CancelledError: however it ends, what it spent must be settled first.
    """
    spec = call.spec
    attempts = spec.max_attempts or options.max_attempts or MAX_ATTEMPTS
    handle: workflow.ActivityHandle[Any] = workflow.start_activity(
        wire.RUN_AGENT_STEP,
        call,
        task_queue=spec.task_queue or options.task_queues.get(spec.agent),
        start_to_close_timeout=ATTEMPT_LIMIT,
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=RetryPolicy(
            initial_interval=FIRST_RETRY, maximum_interval=SLOWEST_RETRY, maximum_attempts=attempts
        ),
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=_summary(call),
        priority=_priority(options),
    )
    is_late, is_interrupted = await _end_of(handle, limit)
    outcome, is_usage_known = _outcome(handle, call, attempts)
    return StepEnd(outcome, is_usage_known, is_interrupted, is_late)


def _priority(options: RunOptions) -> Priority:
    """Where a run's work stands among that of others; unset, as the run itself was started."""
    return Priority(options.priority, options.fairness_key, options.fairness_weight)


def _priority_of_run() -> Priority:
    """The same, for activities whose callers do not know the run's options."""
    given = workflow.memo_value(wire.OPTIONS_MEMO, None)
    if given is None:
        return Priority.default
    return _priority(parse(RunOptions, given, f"memo {wire.OPTIONS_MEMO}", OptionsRejected))


async def _end_of(handle: workflow.ActivityHandle[Any], limit: timedelta | None = None) -> tuple[bool, bool]:
    """Wait for an activity's end; whether its limit came first, and whether the caller was cancelled meanwhile."""
    seconds = None if limit is None else limit.total_seconds()
    try:
        in_time, _ = await workflow.wait([handle], timeout=seconds)
    except asyncio.CancelledError:
        await cancel_all([handle])
        return False, True
    return (False, False) if in_time else (True, await cancel_all([handle]))


def _summary(call: StepCall) -> str:
    return one_line(f"{call.spec.agent}: {call.spec.description or call.spec.task_id}")


def one_line(text: str) -> str:
    """A text as a summary takes it."""
    return text if len(text) <= SUMMARY_LENGTH else f"{text[: SUMMARY_LENGTH - 1]}…"


def _outcome(handle: workflow.ActivityHandle[Any], call: StepCall, attempts: int) -> tuple[StepOutcome, bool]:
    """The activity's end as an outcome, and whether its usage is known."""
    try:
        return StepOutcome.model_validate(handle.result()), True
    except ValidationError as error:  # a newer worker's, read by one that was rolled back
        return failed(call.spec, "failed", f"Task failed: its outcome cannot be read here: {error}"), False
    except asyncio.CancelledError:  # cancelled in the same breath in which it was scheduled
        return failed(call.spec, "cancelled", CANCELLED_TEXT), True
    except ActivityError as error:
        cause = error.cause
        if isinstance(cause, CancelledError):
            # Only a step that no worker runs ends so: queued, or between two attempts. Workers return an outcome.
            # Temporal does not tell which of the two it was, nor what an earlier attempt had spent.
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


@dataclass(frozen=True, slots=True)
class ActionEnd:
    """How a scheduled action ended."""

    outcome: ActionOutcome
    is_interrupted: bool = False
    """Whether the caller was cancelled meanwhile; it records the outcome, then raises CancelledError."""


async def run_action(call: ActionCall) -> ActionEnd:
    """Schedule a tool call and wait for its end; cancelled, it is cancelled and its end still awaited."""
    limit = None if call.timeout_ms is None else _duration(call.timeout_ms)
    attempts = call.attempts - 1 + LOST_WORKER_ATTEMPTS  # the activity itself makes the last failure the result
    handle: workflow.ActivityHandle[ActionOutcome] = workflow.start_activity(
        wire.RUN_ACTION,
        call,
        result_type=ActionOutcome,
        start_to_close_timeout=ATTEMPT_LIMIT if limit is None else limit + TIMEOUT_MARGIN,
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=RetryPolicy(
            initial_interval=FIRST_ACTION_RETRY,
            backoff_coefficient=2.0,
            maximum_interval=SLOWEST_ACTION_RETRY,
            maximum_attempts=attempts,
        ),
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=one_line(f"{call.tool} ({call.action})"),
        priority=_priority_of_run(),
    )
    _, is_interrupted = await _end_of(handle)
    return ActionEnd(_action_outcome(handle, attempts), is_interrupted)


def _duration(milliseconds: int) -> timedelta:
    return timedelta(milliseconds=min(milliseconds, LONGEST_TIMEOUT // timedelta(milliseconds=1)))


def _action_outcome(handle: workflow.ActivityHandle[ActionOutcome], attempts: int) -> ActionOutcome:
    try:
        return handle.result()
    except asyncio.CancelledError:  # cancelled in the same breath in which it was scheduled
        return ActionOutcome(status="failed", error=actions.CANCELLED_TEXT)
    except ActivityError as error:
        cause = error.cause
        made = attempts if error.retry_state is RetryState.MAXIMUM_ATTEMPTS_REACHED else 1
        if isinstance(cause, CancelledError):  # no worker ran it: queued, or between two attempts
            return ActionOutcome(status="failed", error=actions.CANCELLED_TEXT)
        if isinstance(cause, TimeoutError):
            return ActionOutcome(status="failed", error=_lost(cause), attempts=made)
        text = cause.message if isinstance(cause, ApplicationError) else str(cause or error)
        return ActionOutcome(status="failed", error=text, attempts=made)


def _lost(timeout: TimeoutError) -> str:
    if timeout.type is TimeoutType.HEARTBEAT:
        return f"its worker was lost: no heartbeat for {HEARTBEAT_TIMEOUT.total_seconds():.0f} s"
    return "its worker did not end it at its time limit"


async def claim_unseen(claim: dict[str, Any], store: str) -> list[bool] | str:
    """Which items are new to a dedup store, or why it cannot tell; raises CancelledError if the caller is cancelled."""
    return await _short(wire.CLAIM_UNSEEN, [claim], f"dedup store {store}", list[bool])


async def verify_graph(definition: Any, given: Sequence[str]) -> dict[str, Any] | str:
    """The verdict on a graph that is too large to be judged in one workflow task, or why there is none.

    `given` are the state keys that its start brings.
    """
    arguments = [definition, list(given)] if given else [definition]
    return await _short(wire.VERIFY_GRAPH, arguments, "verify the graph", dict, limit=VERIFY_LIMIT)


async def give_way() -> None:
    """Let the worker serve others: what comes after this is in an activation of its own.

    Costs the history one event. A timer would do as well and takes a second. Raises CancelledError if the caller is
    cancelled.
    """
    handle: workflow.ActivityHandle[Any] = workflow.start_local_activity(
        wire.GIVE_WAY, start_to_close_timeout=SHORT_LIMIT, retry_policy=RetryPolicy(maximum_attempts=1)
    )
    try:
        await handle
    except ActivityError as error:
        if isinstance(error.cause, CancelledError):
            raise asyncio.CancelledError from None
        workflow.logger.warning("A pause between stages failed, which changes nothing: %s", error.cause or error)


async def _short(
    name: str, arguments: Sequence[Any], summary: str, result_type: type[T], limit: timedelta = SHORT_LIMIT
) -> T | str:
    """An activity of some seconds at most, safe to repeat: its result, or why it failed for good."""
    handle: workflow.ActivityHandle[T] = workflow.start_activity(
        name,
        args=arguments,
        result_type=result_type,
        start_to_close_timeout=limit,
        retry_policy=RetryPolicy(initial_interval=FIRST_RETRY, maximum_interval=SLOWEST_RETRY),
        summary=one_line(summary),
        priority=_priority_of_run(),
    )
    try:
        return await handle
    except ActivityError as error:
        if isinstance(error.cause, CancelledError):
            raise asyncio.CancelledError from None
        return error.cause.message if isinstance(error.cause, ApplicationError) else str(error.cause or error)
