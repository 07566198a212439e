"""A child that carries steps: what is known of it, and how it is seen to its end.

Law: a child that was started always comes to an end here, with its report or with the reason why it has none; a caller
that is cancelled cancels the child, and still waits for what it returns.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import ApplicationError, CancelledError, ChildWorkflowError, FailureError, TerminatedError

from workflows.deadline import cancel_all
from workflows.handover import SliceReport
from workflows.progress import SliceRecord
from workflows.steps import Grant, RunOptions
from workflows.supply import Piece


@dataclass(slots=True)
class Child:
    """A child that was started."""

    id: str
    handle: asyncio.Task[Any]
    pieces: list[Piece]
    allotment: Grant | None
    record: SliceRecord
    is_interrupted: bool
    """Whether the caller was cancelled meanwhile."""


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
        return End(SliceReport(), _lost(child, f"has a result that cannot be read here: {error}"), is_interrupted)
    except asyncio.CancelledError:  # cancelled in the same breath in which it was started
        return End(SliceReport(is_cancelled=True), None, is_interrupted)
    except ChildWorkflowError as error:
        if isinstance(error.cause, CancelledError):  # before its code began
            return End(SliceReport(is_cancelled=True), None, is_interrupted)
        return End(SliceReport(), _lost(child, _how(error.cause)), is_interrupted)


def _lost(child: Child, how: str) -> str:
    return f"the run {child.id!r}, which carried this step, {how}"


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


def options(given: RunOptions, allotment: Grant | None, width: int) -> RunOptions:
    """Those of a child: as the run's, but for its share of the window and of the budget."""
    tokens, usd = (allotment.tokens, allotment.usd) if allotment else (None, None)
    return given.model_copy(
        update={"budget_tokens": tokens, "budget_usd": usd, "max_concurrency": width, "on_exhausted": "deny"}
    )
