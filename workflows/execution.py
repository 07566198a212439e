"""One step, from its first grant to its outcome.

A step is scheduled with a grant, settled when it ends, and scheduled again with more when it was suspended for tokens.
Law: every step that began ends in the board, in the log and in the ledger, also when the run is cancelled.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import assert_never

from temporalio import workflow

from workflows import budget, calls, wire
from workflows.budget import Request
from workflows.deadline import Finished, TimedOut, within
from workflows.errors import PayloadTooLarge
from workflows.events import StepFinished, StepResumed, StepStarted, StepWaiting, StepWarning, UsageUnknown
from workflows.grants import GrantDenied
from workflows.progress import PhaseRecord, StepRecord
from workflows.run import Run, compensating
from workflows.steps import AgentStepSpec, Grant, Resume, StepCall, StepOutcome, TokensNeeded, Usage


@dataclass(slots=True)
class Spending:
    """What a step has spent and the ledger has settled, over all its schedulings."""

    settled: Usage = field(default_factory=Usage)
    attempts: int = 0


async def execute(run: Run, spec: AgentStepSpec, step: str, phase: PhaseRecord | None) -> StepOutcome:
    """The outcome of one step. A failure is data; raises CancelledError when the run, or the caller, is cancelled."""
    run.raise_if_cancelled()
    async with run.slots:
        run.raise_if_cancelled()  # the run may have been cancelled while this step waited for its slot
        begun_ms = _now_ms()
        record = run.board.begin(step, spec.agent, phase, workflow.now())
        run.tell(StepStarted(step=step, agent=spec.agent))
        run.refresh_details()
        interrupted = False
        try:
            outcome, interrupted = await _to_its_end(run, spec, record)
        except asyncio.CancelledError:  # while it waited for tokens: nothing is scheduled
            outcome, interrupted = calls.failed(spec, "cancelled", calls.CANCELLED_TEXT), True
        outcome = outcome.model_copy(update={"duration_ms": _now_ms() - begun_ms})
        _record(run, record, outcome)
    if interrupted:
        raise asyncio.CancelledError
    run.raise_if_cancelled()
    return outcome


async def _to_its_end(run: Run, spec: AgentStepSpec, record: StepRecord) -> tuple[StepOutcome, bool]:
    """Schedule the step as often as it needs more tokens; its outcome, and whether the caller was cancelled."""
    call = StepCall(spec=spec, key=str(workflow.uuid4()), max_attempts=run.options.max_attempts)
    request = Request(sharing=_sharing(run), at_most=spec.max_tokens)
    spending = Spending()
    left_ms = _limit_ms(run, spec)
    while True:
        try:
            grant = await _obtain(run, record, request)
        except GrantDenied as denied:
            return _denied(spec, str(denied), spending), False
        call = call.model_copy(update={"grant": grant})
        begun_ms, settled_before = _now_ms(), spending.settled
        end, timed_out = await _scheduled(run, call, left_ms)
        left_ms = None if left_ms is None else max(1, left_ms - (_now_ms() - begun_ms))
        outcome = _settled(run, record, call, end, spending)
        if timed_out:
            return _timed_out(outcome, _limit_ms(run, spec) or 0), False
        if outcome.needs is None or end.interrupted:
            return _explained(run, outcome), end.interrupted
        at_least = _needed(outcome.needs, grant, made_progress=outcome.usage != settled_before)
        spent = outcome.usage.total_tokens
        if spec.max_tokens is not None and spent + max(1, at_least) > spec.max_tokens:
            return _denied(spec, f"step token limit reached ({spent} / {spec.max_tokens} tokens)", spending), False
        at_most = None if spec.max_tokens is None else spec.max_tokens - spent
        request = Request(sharing=_sharing(run), at_least=at_least, at_most=at_most, previous=grant)
        call = call.model_copy(update={"resume": Resume(transcript=outcome.transcript, usage=outcome.usage)})
        run.tell(StepResumed(step=record.step, at_least=at_least))


def _sharing(run: Run) -> int:
    """Steps that share what the budget has left."""
    return run.announced + run.board.running


def _needed(needs: TokensNeeded, grant: Grant | None, *, made_progress: bool) -> int:
    """Tokens without which scheduling the step again would end as it did before.

    A step that spent nothing and does not know what it needs would go round for ever with the same grant.
    """
    held = grant.tokens if grant else None
    return needs.at_least if made_progress or held is None else max(needs.at_least, held + 1)


async def _obtain(run: Run, record: StepRecord, request: Request) -> Grant | None:
    if compensating.get():
        return None  # what undoes is never denied; what it spends is charged all the same

    def waits(reason: str) -> None:
        record.status = "waiting"
        run.tell(StepWaiting(step=record.step, reason=reason))
        run.refresh_details()

    grant = await run.grants.obtain(request, waits)
    record.status = "running"
    return grant


async def _scheduled(run: Run, call: StepCall, left_ms: int | None) -> tuple[calls.StepEnd, bool]:
    """The end of one scheduling, and whether the step's own deadline brought it about."""
    if not wire.fits(call):
        return calls.StepEnd(_too_large(call)), False
    if left_ms is None:
        return await calls.run_agent_step(call, run.options), False
    ended = await within(calls.run_agent_step(call, run.options), timedelta(milliseconds=left_ms))
    match ended:
        case Finished(end):
            return end, False
        case TimedOut(left):
            end = left or calls.StepEnd(calls.failed(call.spec, "timed_out", ""), is_usage_known=False)
            return replace(end, interrupted=False), True
        case _:
            assert_never(ended)


def _settled(run: Run, record: StepRecord, call: StepCall, end: calls.StepEnd, spending: Spending) -> StepOutcome:
    """Charge one scheduling; the outcome with the usage and attempts of all of them."""
    if end.is_usage_known:
        spent = _since(spending.settled, end.outcome.usage)
    else:
        charged = call.grant.tokens if call.grant else None
        spent = Usage(total_tokens=charged or 0, cost_usd=call.grant.usd if call.grant else None)
        run.tell(UsageUnknown(step=record.step, charged_tokens=charged))
    run.grants.settle(call.grant, spent)
    spending.settled = spending.settled + spent
    spending.attempts += end.outcome.attempts
    for warning in end.outcome.warnings:
        run.tell(StepWarning(step=record.step, message=warning))
    return end.outcome.model_copy(update={"usage": spending.settled, "attempts": spending.attempts})


def _since(settled: Usage, total: Usage) -> Usage:
    """What was spent since the last settlement; an outcome counts from the step's beginning."""
    cost = None if total.cost_usd is None else max(0.0, total.cost_usd - (settled.cost_usd or 0.0))
    return Usage(
        input_tokens=max(0, total.input_tokens - settled.input_tokens),
        output_tokens=max(0, total.output_tokens - settled.output_tokens),
        total_tokens=max(0, total.total_tokens - settled.total_tokens),
        requests=max(0, total.requests - settled.requests),
        tool_calls=max(0, total.tool_calls - settled.tool_calls),
        cost_usd=cost,
    )


def _explained(run: Run, outcome: StepOutcome) -> StepOutcome:
    """A step denied inside its activity knows only its grant; the run knows whether the budget is exhausted."""
    if outcome.status != "budget_exceeded" or not run.grants.ledger.is_exhausted:
        return outcome
    reason = budget.exhausted_reason(run.grants.ledger)
    return outcome.model_copy(update={"output": f"Task failed: {reason}", "error": reason})


def _denied(spec: AgentStepSpec, reason: str, spending: Spending) -> StepOutcome:
    outcome = calls.failed(spec, "budget_exceeded", f"Task failed: {reason}")
    return outcome.model_copy(update={"usage": spending.settled, "attempts": max(1, spending.attempts)})


def _timed_out(outcome: StepOutcome, limit_ms: int) -> StepOutcome:
    """The timer has decided; of what the cancelled step returned, usage and output are kept."""
    reason = f"step {outcome.task_id!r} timed out after {limit_ms}ms"
    kept = f"\n\n{outcome.output}" if outcome.status == "ok" and outcome.output else ""
    return outcome.model_copy(
        update={
            "success": False,
            "status": "timed_out",
            "output": f"Task failed: {reason}{kept}",
            "error": reason,
            "needs": None,
        }
    )


def _record(run: Run, record: StepRecord, outcome: StepOutcome) -> None:
    run.board.end(record, outcome)
    run.tell(
        StepFinished(
            step=record.step,
            status=outcome.status,
            duration_ms=outcome.duration_ms,
            attempts=outcome.attempts,
            total_tokens=outcome.usage.total_tokens,
            error=outcome.error,
        )
    )
    run.refresh_details()


def _limit_ms(run: Run, spec: AgentStepSpec) -> int | None:
    seconds = spec.timeout_seconds or run.options.step_timeout_seconds
    return None if seconds is None else max(1, round(seconds * 1000))


def _too_large(call: StepCall) -> StepOutcome:
    spec = call.spec
    largest = max(type(spec).model_fields, key=lambda name: wire.size(getattr(spec, name)))
    error = PayloadTooLarge(
        owner=f"step {spec.task_id!r}", field=largest, size=wire.size(call), limit=wire.MAX_PAYLOAD_BYTES
    )
    return calls.failed(spec, "failed", f"Task failed: {error.message}")


def _now_ms() -> int:
    return workflow.time_ns() // 1_000_000
