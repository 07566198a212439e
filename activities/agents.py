"""`run_agent_step`: runs the agent of one step and decides what its end means.

Law: a step's end is data. Only three things are raised: a failure worth another attempt, a worker that must let go of
the step (so that Temporal tries again elsewhere), and a heartbeat that could not be recorded.

What an agent may return: a text is its output; a dict is its structured result, and its JSON the output; a StepOutcome
is taken as it is, also with an empty output, except that the step's own names and usage stand. Nothing else.
"""

from __future__ import annotations

import asyncio
import traceback
from concurrent.futures import Executor as Threads
from pathlib import Path
from typing import Any, Never

import structlog
from pydantic import JsonValue
from pydantic_core import PydanticSerializationError
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities.blobs import BlobStore, plain_json
from activities.context import Attempt, StepContext
from activities.deputy import Deputy
from activities.executors import Resources, ServiceBusy, executor_for
from activities.profiles import with_profile
from activities.registry import AgentEntry, ModelAgent, Registry
from activities.stopping import has_ended_within
from activities.tracing import Tracing
from activities.withdrawal import lost_to
from workflows import wire
from workflows.errors import (
    BudgetExceeded,
    PayloadTooLarge,
    PerdureError,
    RetryableStepError,
    StepCancelled,
    StepFailed,
    cut,
    is_retryable,
)
from workflows.graph.depth import is_deeper
from workflows.oversize import KEPT_DEPTH
from workflows.steps import AgentStepSpec, StepCall, StepOutcome, StepStatus, TokensNeeded, Usage

DEFAULT_ATTEMPTS = 5
# With the step's backoff that is some seconds: a hiccup of a service, not an outage.
STOP_SECONDS = 8.0
# What an agent may take to end when it is told to. Longer than each executor's own grace.
ERROR_CHARACTERS = 2_000
# A failure's text is shown in the UI and stored in the history twice.
TRACEBACK_FRAMES = 15
TRACEBACK_CHARACTERS = 8_000
# The innermost frames; the log is read in lines.

FAILED = "Task failed: "
CANCELLED_TEXT = "Task cancelled by caller"
NO_OUTPUT = "child agent returned no final output"

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.agents")


class AgentActivities:
    """The activity `run_agent_step` over a registry of agents, a blob store (or none) and threads for `def` agents."""

    def __init__(
        self,
        registry: Registry,
        store: BlobStore | None,
        *,
        threads: Threads,
        workspace: Path | None = None,
        tracing: Tracing | None = None,
        deputy: Deputy | None = None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._resources = Resources(
            threads=threads,
            workspace=workspace,
            registry=registry,
            tracing=tracing,
            deputy=Deputy() if deputy is None else deputy,
        )

    async def close(self) -> None:
        """Let go of models and servers of tools, once the worker has drained."""
        await asyncio.gather(self._resources.close(), *(source.close() for source in self._registry.sources.values()))

    @activity.defn(name=wire.RUN_AGENT_STEP)
    async def run_agent_step(self, call: StepCall) -> StepOutcome:
        """Run one step and return how it ended.

        It runs twice where a worker is lost before Temporal knows the outcome: the agent starts again with the same
        idempotency key and its latest checkpoint, and what the lost attempt had told of its usage counts.
        """
        attempt = Attempt(call, self._store, self._resources.deputy)
        attempt.pulse.start()
        try:
            return _storable(await self._run(call, attempt), attempt)
        finally:
            attempt.close()

    async def _run(self, call: StepCall, attempt: Attempt) -> StepOutcome:
        try:
            entry = self._entry(call.spec)
        except StepFailed as error:
            return _failed(attempt, error.message)
        work = asyncio.create_task(self._work(entry, attempt), name=f"agent {entry.name}")
        try:
            await asyncio.wait([work], timeout=entry.timeout_seconds)
        except asyncio.CancelledError:
            if not work.done():  # else it ended in the same breath, and that is its end
                await _stop(work, attempt)
                return _cancelled(attempt)
        if not work.done():
            await _stop(work, attempt)
            text = f"agent {entry.name!r} did not answer within its {entry.timeout_seconds:g} s ('timeout_seconds')"
            return _failed(attempt, text, status="timed_out")
        try:
            return await _end(work, attempt)
        except asyncio.CancelledError:  # while its output was checked
            return _cancelled(attempt)

    def _entry(self, spec: AgentStepSpec) -> AgentEntry:
        """The agent of a step. Raises `StepFailed` where there is none."""
        if spec.profile is None:
            entry = self._registry.get(spec.agent)
            if entry is None:
                raise StepFailed(f"Unknown agent type: '{spec.agent}'")
            return entry
        entry = self._registry.get(spec.profile.name)
        return with_profile(spec.profile, entry) if entry is None or isinstance(entry, ModelAgent) else entry

    async def _work(self, entry: AgentEntry, attempt: Attempt) -> Any:
        await attempt.restore()
        await attempt.pulse.confirm()  # only now: what it tells stands in the place of what earlier attempts told
        return await executor_for(entry, self._resources).run(attempt.call, StepContext(attempt))


async def _stop(work: asyncio.Task[Any], attempt: Attempt) -> None:
    """Cancel an agent and wait for its end, some seconds at most, however often we are cancelled meanwhile."""
    attempt.is_stopping = True
    work.cancel()
    if not await has_ended_within(STOP_SECONDS, work):
        attempt.log.warning(
            "An agent did not end when it was cancelled, and was left behind.", waited_seconds=STOP_SECONDS
        )


def _cancelled(attempt: Attempt) -> StepOutcome:
    """The end of a step that Temporal cancelled: an outcome if the run asked for it, else another attempt elsewhere."""
    if (lost := lost_to()) is not None:
        kind, text = lost
        _raise_retryable(attempt, text, kind=kind, category=ApplicationErrorCategory.BENIGN)
    return _outcome(attempt, output=CANCELLED_TEXT, status="cancelled", error=CANCELLED_TEXT)


async def _end(work: asyncio.Task[Any], attempt: Attempt) -> StepOutcome:
    """The end of an agent that ended by itself."""
    if work.cancelled():
        return _failed(attempt, "the agent cancelled itself: asyncio.CancelledError left it")
    error = work.exception()
    if isinstance(error, Exception):
        return _from_error(_single(error), attempt)
    outcome = _from_result(work.result(), attempt)
    if outcome.success and attempt.call.spec.output_schema is not None:
        return await _validated(outcome, attempt.call.spec.output_schema)
    return outcome


def _single(error: Exception) -> Exception:
    """What a task group failed with, where that is one thing."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _from_error(error: Exception, attempt: Attempt) -> StepOutcome:
    if isinstance(error, BudgetExceeded):
        return _out_of_budget(error, attempt)
    text = _told(error)
    if is_retryable(error) and _has_another(error, attempt):
        attempt.waits += isinstance(error, ServiceBusy)
        after = error.after if isinstance(error, RetryableStepError) else None
        _raise_retryable(attempt, text, kind=type(error).__name__, next_retry_delay=after)
    if not isinstance(error, (PerdureError, RetryableStepError)):  # those say all there is to say
        trace = "".join(traceback.format_exception(error, limit=-TRACEBACK_FRAMES))
        attempt.log.warning("An agent failed.", error=cut(text), traceback=cut(trace, TRACEBACK_CHARACTERS))
    return _failed(attempt, text)


def _has_another(error: Exception, attempt: Attempt) -> bool:
    """Whether a failed attempt is followed by another one, by whichever of the step's limits is the smallest.

    Where nobody has set a limit, being told to wait is no fault: only the policy's own limit ends that.
    """
    policy = activity.info().retry_policy
    most = policy.maximum_attempts if policy and policy.maximum_attempts else None
    if most is not None and attempt.number >= most:
        return False
    limit = attempt.call.spec.max_attempts or attempt.call.max_attempts
    if limit is not None:
        return attempt.number < limit
    return isinstance(error, ServiceBusy) or attempt.number - attempt.waits < DEFAULT_ATTEMPTS


def _out_of_budget(error: BudgetExceeded, attempt: Attempt) -> StepOutcome:
    """Suspended where going on from the latest checkpoint costs nothing twice, else denied."""
    text = _told(error)
    if attempt.call.grant is None or attempt.is_unsaved:
        return _failed(attempt, text, status="budget_exceeded")
    return _outcome(
        attempt,
        output=_failure_text(text),
        status="suspended",
        error=text,
        needs=TokensNeeded(at_least=max(0, error.needed), at_least_usd=max(0.0, error.needed_usd)),
        transcript=attempt.transcript,
    )


def _raise_retryable(attempt: Attempt, text: str, *, kind: str, **options: Any) -> Never:
    """Fail this attempt. The details let the workflow settle it where no other one follows."""
    if attempt.has_spent or attempt.waits:
        attempt.pulse.beat()  # the next attempt counts on from it
    message = cut(_clean(text), ERROR_CHARACTERS).removeprefix(f"{kind}: ")  # the type is shown in front of it
    raise ApplicationError(message, _failed(attempt, text), type=kind, **options) from None


def _from_result(result: Any, attempt: Attempt) -> StepOutcome:
    """What an agent returned, as an outcome."""
    match result:
        case StepOutcome():
            return _taken(result, attempt)
        case None:
            return _failed(attempt, NO_OUTPUT)
        case str():
            return _outcome(attempt, output=result) if result.strip() else _failed(attempt, NO_OUTPUT)
        case dict():
            try:
                return _outcome(attempt, output=plain_json(result), structured=result)
            except ValueError as error:
                return _failed(attempt, f"the agent returned a dict that is not JSON: {error}")
        case _:
            kind = type(result).__name__
            return _failed(attempt, f"the agent returned {kind!r}; an agent returns str, dict or StepOutcome")


def _taken(outcome: StepOutcome, attempt: Attempt) -> StepOutcome:
    """An agent's own outcome under the step's names. Its usage counts where the agent recorded none."""
    if not attempt.has_spent and outcome.usage != Usage():
        attempt.spend(outcome.usage)
    status = outcome.status
    if outcome.success or status == "ok":
        status = "ok" if outcome.success else "failed"
    named = _outcome(attempt, output=outcome.output, status=status)
    return named.model_copy(
        update={
            "structured": outcome.structured,
            "error": outcome.error or (None if outcome.success else cut(outcome.output, ERROR_CHARACTERS)),
            "needs": outcome.needs,
            "transcript": outcome.transcript or (attempt.transcript if status == "suspended" else None),
            "warnings": (*outcome.warnings, *named.warnings),
        }
    )


async def _validated(outcome: StepOutcome, schema: dict[str, JsonValue]) -> StepOutcome:
    """The outcome with what its schema asks for in `structured`, or demoted."""
    from activities.structured import StructuredOutputFailed, checked

    try:
        # In a thread: a large answer takes longer than the event loop may be held.
        structured = await asyncio.to_thread(checked, outcome.structured, outcome.output, schema)
    except StructuredOutputFailed as error:
        text = f"structured output failed: {_clean(str(error))}"
        demoted = {"success": False, "status": "failed", "error": text, "structured": None}
        return outcome.model_copy(update={**demoted, "output": f"{outcome.output}\n\n[{text}]"})
    return outcome.model_copy(update={"structured": structured})


def _storable(outcome: StepOutcome, attempt: Attempt) -> StepOutcome:
    """The outcome if a history can hold it, else a failed one that says why, with its usage."""
    if is_deeper(outcome.structured, KEPT_DEPTH):  # the run could not read it
        return _failed(attempt, f"the agent returned JSON of more than {KEPT_DEPTH} levels. Return a flatter result.")
    try:
        taken = wire.size(outcome)
        if taken <= wire.MAX_PAYLOAD_BYTES or taken <= wire.largest_payload():
            return outcome
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        return _failed(attempt, f"what the agent returned cannot be stored as JSON: {error}")
    sizes = {field: wire.size(getattr(outcome, field)) for field in ("output", "structured")}
    field = max(sizes, key=lambda name: sizes[name])
    limit = wire.largest_payload()
    is_one = sizes[field] > limit
    too_large = PayloadTooLarge(
        owner=f"step {attempt.call.spec.task_id!r}",
        field=field if is_one else "output with structured",
        size=sizes[field] if is_one else wire.size(outcome),
        limit=limit,
    )
    return _failed(attempt, too_large.message)


def _told(error: Exception) -> str:
    """An error's text. Errors of ours are sentences; of others the type is half of what they say."""
    if isinstance(error, PerdureError):
        return error.message
    if isinstance(error, (RetryableStepError, BudgetExceeded, StepCancelled)):
        return str(error)
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _failed(attempt: Attempt, text: str, *, status: StepStatus = "failed") -> StepOutcome:
    return _outcome(attempt, output=_failure_text(text), status=status, error=text)


def _failure_text(text: str) -> str:
    return f"{FAILED}{cut(_clean(text), ERROR_CHARACTERS)}"


def _clean(text: str) -> str:
    """A text that any JSON can hold: half a surrogate pair is written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _outcome(
    attempt: Attempt,
    *,
    output: str,
    status: StepStatus = "ok",
    structured: JsonValue = None,
    error: str | None = None,
    needs: TokensNeeded | None = None,
    transcript: str | None = None,
) -> StepOutcome:
    spec = attempt.call.spec
    return StepOutcome(
        task_id=spec.task_id,
        agent=spec.agent,
        output=output,
        success=status == "ok",
        structured=structured,
        status=status,
        error=None if error is None else cut(_clean(error), ERROR_CHARACTERS),
        usage=attempt.usage,
        attempts=attempt.number,
        needs=needs,
        transcript=transcript,
        warnings=tuple(cut(_clean(text), ERROR_CHARACTERS) for text in attempt.warnings),
    )
