"""A child that carries steps: what is known of it, and how it is seen to its end.

Law: a child that was started always comes to an end here, with its report or with the reason why it has none; a caller
that is cancelled cancels the child, and still waits for what it returns.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import ApplicationError, CancelledError, ChildWorkflowError, FailureError, TerminatedError

from workflows import wire
from workflows.allotment import as_told
from workflows.deadline import cancel_all
from workflows.events import SliceWaiting
from workflows.execution import since
from workflows.grants import GrantDenied
from workflows.handover import SliceAllotted, SliceReport, SliceShort
from workflows.progress import SliceRecord
from workflows.run import Run
from workflows.steps import Grant, RunOptions, Usage
from workflows.supply import Piece


@dataclass(slots=True)
class Child:
    """A child that was started."""

    id: str
    handle: workflow.ChildWorkflowHandle[Any, Any]
    pieces: list[Piece]
    allotment: Grant | None
    record: SliceRecord
    is_interrupted: bool
    """Whether the caller was cancelled meanwhile."""
    settled: Usage = Usage()  # noqa: RUF009 - frozen
    """What it has spent that the ledger knows of already."""
    topping_up: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class End:
    """How a child ended: with a report, or lost."""

    report: SliceReport
    lost: str | None
    is_interrupted: bool


async def end_of(child: Child) -> End:
    """Wait for a child's end; where the caller is cancelled, so is the child, and its end is still awaited."""
    is_interrupted = child.is_interrupted
    try:
        if not is_interrupted:
            await workflow.wait([child.handle])
    except asyncio.CancelledError:
        is_interrupted = True
    if is_interrupted:
        await cancel_all([child.handle])
    try:
        return End(SliceReport.model_validate(child.handle.result()), None, is_interrupted)
    except ValidationError as error:  # a newer worker's, read by one that was rolled back
        return End(SliceReport(), lost(child, f"has a result that cannot be read here: {error}"), is_interrupted)
    except asyncio.CancelledError:  # cancelled in the same breath in which it was started
        return End(SliceReport(is_cancelled=True), None, is_interrupted)
    except ChildWorkflowError as error:
        if isinstance(error.cause, CancelledError):  # before its code began
            return End(SliceReport(is_cancelled=True), None, is_interrupted)
        return End(SliceReport(), lost(child, _how(error.cause)), is_interrupted)


def lost(child: Child, how: str) -> str:
    """What became of what a child carried, in words."""
    carried = "it" if child.pieces[0].step is None else "this step"  # a chain or an item is more than a step
    return f"the run {child.id!r}, which carried {carried}, {how}"


def _how(cause: BaseException | None) -> str:
    match cause:
        case TerminatedError():
            return "was terminated"
        case ApplicationError():
            return f"failed: {cause.type}: {cause.message}" if cause.type else f"failed: {cause.message}"
        case FailureError():
            return f"ended: {cause.message}"
        case _:
            return "ended without a result"


class TopUp:
    """Gives a child more of the budget that ran short.

    Until then it holds nothing: what it had left is others' too, and they may be what it waits for.
    """

    def __init__(self, run: Run, child: Child) -> None:
        self._run, self._child = run, child
        self._is_waiting = False

    def begin(self, short: SliceShort) -> None:
        """Answer a child, as soon as there is an answer."""
        child = self._child
        if child.topping_up is not None and self._is_waiting:  # it asks anew, as after a reset
            child.topping_up.cancel()
        self._is_waiting = True
        child.topping_up = asyncio.create_task(self._answer(short))

    async def _answer(self, short: SliceShort) -> None:
        run, child = self._run, self._child
        run.grants.settle(child.allotment, since(child.settled, short.spent))
        child.allotment, child.settled = None, short.spent

        def waits(reason: str) -> None:
            run.tell(SliceWaiting(step_count=short.step_count, reason=reason))
            run.refresh_details()

        wants = replace(short.wants, sharing=run.sharing + short.wants.fresh)
        try:
            child.allotment = await run.grants.obtain(wants, waits)
        except GrantDenied:
            answer = SliceAllotted(refused_by=as_told(run.grants.ledger))
        else:
            held = child.allotment or Grant()
            answer = SliceAllotted(tokens=held.tokens, usd=held.usd)
        self._is_waiting = False
        try:
            await child.handle.signal(wire.SLICE_ALLOTTED_SIGNAL, answer)
        except FailureError as error:  # it has ended meanwhile, and is settled by that
            workflow.logger.debug("The run %r was not told what it may spend: %s", child.id, error)


def child_options(given: RunOptions, allotment: Grant | None, width: int) -> RunOptions:
    """The options of a child: as the run's, but for its share of the window and of the budget."""
    tokens, usd = (allotment.tokens, allotment.usd) if allotment else (None, None)
    return given.model_copy(
        update={"budget_tokens": tokens, "budget_usd": usd, "max_concurrency": width, "on_exhausted": "deny"}
    )
