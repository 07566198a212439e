"""One step, from its first grant to its outcome.

A step is scheduled with a grant, settled when it ends, and scheduled again when it was suspended and has what it asked
for: more tokens, or the answers of specialists and people.
Law: every step that began ends in the board, in the log and in the ledger, whatever becomes of it and of its run; a
grant that was obtained is settled exactly once. A step that a child hands back has not ended there: its parent's does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import assert_never

from pydantic import JsonValue
from temporalio import workflow

from workflows import budget, calls, metrics, wire
from workflows.budget import Request
from workflows.errors import PayloadTooLarge
from workflows.events import StepFinished, StepResumed, StepStarted, StepWaiting, StepWarning, UsageUnknown
from workflows.grants import GrantDenied
from workflows.handover import Begun
from workflows.progress import PhaseRecord, StepRecord
from workflows.run import Run, Slot, compensating
from workflows.steps import (
    AgentStepSpec,
    AnswersNeeded,
    Grant,
    Resume,
    StepCall,
    StepOutcome,
    StepStatus,
    TokensNeeded,
    Usage,
)
from workflows.suspension import Suspended, answers

NOTHING = Usage()


@dataclass(slots=True)
class Past:
    """What a step has behind it: all its schedulings, also those in the run that handed it over."""

    begun_ms: int
    settled: Usage = field(default_factory=Usage)
    """What it has spent and the ledger was charged with."""
    attempts: int = 0


class HandedBack(Exception):
    """This run cannot pay for the step; the run that handed it over goes on with it, from `begun` or from nothing."""

    def __init__(self, reason: str, begun: Begun | None) -> None:
        super().__init__(reason)
        self.begun = begun


async def execute(
    run: Run, spec: AgentStepSpec, step: str, phase: PhaseRecord | None, begun: Begun | None = None
) -> StepOutcome:
    """The outcome of one step. A failure is data; raises CancelledError when the run, or the caller, is cancelled.

    `begun` says where a step stands that was suspended in another run.
    """
    outcome, is_interrupted = await carry_out(run, spec, step, phase, begun)
    if is_interrupted:
        raise asyncio.CancelledError
    run.raise_if_cancelled()
    return outcome


async def carry_out(
    run: Run, spec: AgentStepSpec, step: str, phase: PhaseRecord | None, begun: Begun | None = None
) -> tuple[StepOutcome, bool]:
    """The outcome of one step, and whether the caller was cancelled meanwhile.

    Raises CancelledError where it was cancelled before the step began, and `HandedBack` in a run that hands back.
    """
    run.raise_if_cancelled()
    async with Slot(run) as slot:
        run.raise_if_cancelled()  # the run may have been cancelled while this step waited for its slot
        with run.executing():
            past = Past(begun.begun_ms, begun.resume.usage, begun.attempts) if begun else Past(_now_ms())
            record = run.board.begin(step, spec.agent, phase, workflow.now())
            run.tell(StepStarted(step=step, agent=spec.agent))
            run.refresh_details()
            try:
                outcome, is_interrupted = await _to_its_end(run, spec, record, slot, past, begun)
            except HandedBack as handed_back:
                run.board.withdraw(record)
                run.tell(StepWaiting(step=step, reason=f"{handed_back}; the parent run goes on with it"))
                raise
            outcome = outcome.model_copy(update={"duration_ms": _now_ms() - past.begun_ms})
            _record(run, record, outcome)
    return outcome, is_interrupted


async def _to_its_end(
    run: Run, spec: AgentStepSpec, record: StepRecord, slot: Slot, past: Past, begun: Begun | None
) -> tuple[StepOutcome, bool]:
    """Schedule the step until it is suspended no more; its outcome, and whether the caller was cancelled."""
    try:
        return await _Schedulings(run, spec, record, slot, past, begun).until_done()
    except HandedBack:
        raise
    except (GrantDenied, budget.NothingToGain) as denied:
        return _ended(spec, "budget_exceeded", str(denied), past), False
    except asyncio.CancelledError:  # while it waited: nothing of it is scheduled
        return _ended(spec, "cancelled", None, past), True
    except Exception as error:  # noqa: BLE001 - a step that cannot even be scheduled is data too
        return _ended(spec, "failed", f"{type(error).__name__}: {error}", past), False


class _Schedulings:
    """Schedules one step, and again each time that it was suspended and has what it asked for."""

    def __init__(
        self, run: Run, spec: AgentStepSpec, record: StepRecord, slot: Slot, past: Past, begun: Begun | None
    ) -> None:
        self._run, self._record, self._slot, self._past = run, record, slot, past
        self._call = StepCall(spec=spec, key=str(workflow.uuid4()), max_attempts=run.options.max_attempts)
        self._request = Request(sharing=run.sharing, at_most=spec.max_tokens)
        self._limit_ms = self._left_ms = _limit_ms(run, spec)
        self._suspended = Suspended(spec, record.step)
        if begun is not None:
            self._go_on_from(begun)

    def _go_on_from(self, begun: Begun) -> None:
        cap = self._call.spec.max_tokens
        at_most = None if cap is None else cap - begun.resume.usage.total_tokens
        self._call = self._call.model_copy(update={"key": begun.key, "resume": begun.resume})
        self._request = Request(self._run.sharing, begun.at_least, at_most, begun.previous, begun.at_least_nanodollars)
        self._left_ms, self._suspended.asked = begun.left_ms, dict(begun.asked)

    async def until_done(self) -> tuple[StepOutcome, bool]:
        """The step's outcome, and whether the caller was cancelled meanwhile.

        Raises `GrantDenied`, `NothingToGain` and `HandedBack`, and CancelledError while nothing is scheduled.
        """
        while True:
            grant = await self._obtain()
            settled_before, scheduled_ms = self._past.settled, _now_ms()
            end = await self._schedule(grant)
            outcome = self._settle(end)
            if end.is_late:
                return _timed_out(outcome, self._limit_ms or 0), end.is_interrupted
            if outcome.needs is None or end.is_interrupted:
                return explained(self._run, outcome), end.is_interrupted
            if self._left_ms is not None:  # what it waits for from here on is no time of its own
                self._left_ms = max(1, self._left_ms - (_now_ms() - scheduled_ms))
            await self._prepare(outcome, outcome.needs, made_progress=self._past.settled != settled_before)

    async def _obtain(self) -> Grant | None:
        run, record = self._run, self._record
        if compensating.get():
            return None  # what undoes is never denied; what it spends is charged all the same

        def waits(reason: str) -> None:
            record.status = "waiting"
            run.tell(StepWaiting(step=record.step, reason=reason))
            run.refresh_details()

        try:
            grant = await run.grants.obtain(self._request, waits)
        except GrantDenied as denied:
            if not run.hands_back:
                raise
            raise HandedBack(str(denied), self._standing()) from None
        record.status = "running"
        return grant

    def _standing(self) -> Begun | None:
        """Where the step stands; None where nothing of it was scheduled yet."""
        if self._call.resume is None:
            return None
        return Begun(
            key=self._call.key,
            resume=self._call.resume,
            attempts=self._past.attempts,
            at_least=self._request.at_least,
            at_least_nanodollars=self._request.at_least_usd,
            previous=self._request.previous,
            left_ms=self._left_ms,
            asked=self._suspended.asked,
            begun_ms=self._past.begun_ms,
        )

    async def _schedule(self, grant: Grant | None) -> calls.StepEnd:
        run = self._run
        try:
            if self._call.grant != grant:
                self._call = self._call.model_copy(update={"grant": grant})
            if not wire.fits(self._call):
                return calls.StepEnd(_too_large(self._call))
            await run.make_room(wire.measure(self._call))
            limit = None if self._left_ms is None else timedelta(milliseconds=self._left_ms)
            return await calls.run_agent_step(self._call, run.options, limit)
        except BaseException:
            run.grants.settle(grant, NOTHING)  # it was never scheduled
            raise

    def _settle(self, end: calls.StepEnd) -> StepOutcome:
        """Charge one scheduling; the outcome with the usage and attempts of all of them."""
        run, past, call = self._run, self._past, self._call
        if end.is_usage_known:
            spent = since(past.settled, end.outcome.usage)
        else:
            spent = budget.whole(call.grant)
            run.tell(UsageUnknown(step=self._record.step, charged_tokens=call.grant.tokens if call.grant else None))
        run.grants.settle(call.grant, spent)
        metrics.count_spent(call.spec.agent, spent)
        past.settled = past.settled + spent
        past.attempts += end.outcome.attempts
        for warning in end.outcome.warnings:
            run.tell(StepWarning(step=self._record.step, message=warning))
        if end.outcome.attempts == past.attempts and end.outcome.usage == past.settled:
            return end.outcome
        return end.outcome.model_copy(update={"usage": past.settled, "attempts": past.attempts})

    async def _prepare(self, outcome: StepOutcome, needs: TokensNeeded | AnswersNeeded, *, made_progress: bool) -> None:
        """Get the answers that a suspended step needs; what it resumes with, and what it asks for of the budget."""
        cap, run = self._call.spec.max_tokens, self._run
        match needs:
            case TokensNeeded():
                given = self._call.resume.answers if self._call.resume else {}
                self._request = budget.request_more(
                    needs=needs,
                    held=self._call.grant,
                    spent=outcome.usage,
                    made_progress=made_progress,
                    cap=cap,
                    sharing=run.sharing,
                )
            case AnswersNeeded(delegations=(), approvals=()):
                raise budget.NothingToGain("it was suspended, and asked nobody for anything")
            case AnswersNeeded():
                given = await self._answers(needs)
                self._request = budget.request_again(spent=outcome.usage, cap=cap, sharing=run.sharing)
            case never:
                assert_never(never)
        resume = Resume(transcript=outcome.transcript, usage=outcome.usage, answers=given)
        self._call = self._call.model_copy(update={"resume": resume})
        run.tell(StepResumed(step=self._record.step, at_least=self._request.at_least))

    async def _answers(self, needs: AnswersNeeded) -> dict[str, JsonValue]:
        """What specialists and people answer. The step's slot is others' meanwhile: its own specialists need one."""
        run, record = self._run, self._record
        record.status = "waiting"
        run.tell(StepWaiting(step=record.step, reason=_asked(needs)))
        run.refresh_details()
        self._slot.give_back()
        # In no phase: a phase counts the steps that it was given, and a specialist's failure need not be its step's.
        given = await answers(run, self._suspended, needs, lambda spec, step: execute(run, spec, step, None))
        await self._slot.take()
        run.raise_if_cancelled()
        return given


def _asked(needs: AnswersNeeded) -> str:
    specialists = [f"the specialist {call.specialist!r}" for call in needs.delegations]
    people = [f"a person's decision on the tool {call.tool!r}" for call in needs.approvals]
    return f"it waits for {' and '.join([*specialists, *people])}"


def since(settled: Usage, total: Usage) -> Usage:
    """What was spent since the last settlement; a step and a child count from their beginning."""
    if settled == NOTHING:
        return total
    cost = None if total.cost_usd is None else max(0.0, total.cost_usd - (settled.cost_usd or 0.0))
    return Usage(
        input_tokens=max(0, total.input_tokens - settled.input_tokens),
        output_tokens=max(0, total.output_tokens - settled.output_tokens),
        total_tokens=max(0, total.total_tokens - settled.total_tokens),
        requests=max(0, total.requests - settled.requests),
        tool_calls=max(0, total.tool_calls - settled.tool_calls),
        cost_usd=cost,
    )


def explained(run: Run, outcome: StepOutcome) -> StepOutcome:
    """A step denied inside its activity knows only its grant; the run knows whether the budget is exhausted.

    A run with an allotment knows no more than that, so it leaves this to its parent.
    """
    if outcome.status != "budget_exceeded" or run.has_allotment or not run.grants.ledger.is_exhausted:
        return outcome
    reason = budget.exhausted_reason(run.grants.ledger)
    return outcome.model_copy(update={"output": f"Task failed: {reason}", "error": reason})


def _ended(spec: AgentStepSpec, status: StepStatus, error: str | None, past: Past) -> StepOutcome:
    """The outcome of a step that ended outside its activity."""
    outcome = calls.failed(spec, status, calls.CANCELLED_TEXT if error is None else f"Task failed: {error}")
    return outcome.model_copy(update={"usage": past.settled, "attempts": max(1, past.attempts)})


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
    metrics.count_ended(outcome)
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
        owner=f"step {spec.task_id!r}", field=largest, size=wire.size(call), limit=wire.largest_payload()
    )
    return calls.failed(spec, "failed", f"Task failed: {error.message}")


def _now_ms() -> int:
    return workflow.time_ns() // 1_000_000
