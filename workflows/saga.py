"""Compensation: push what undoes, run it in reverse order in an `except`, also when the run is cancelled.

    saga = Saga(self)
    try:
        saga.push("remove the report", self.agent, undo)
        ...
    except (Exception, asyncio.CancelledError):
        await saga.compensate()
        raise

Source: the saga pattern (Garcia-Molina and Salem, 1987), backward recovery.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

from temporalio import workflow

from workflows.deadline import all_ended
from workflows.errors import PerdureError, cut
from workflows.events import CompensationFinished, CompensationStarted
from workflows.run import compensating
from workflows.steps import StepOutcome
from workflows.wire import Stored

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

P = ParamSpec("P")

MAX_ERROR_LENGTH = 2_000
# In an event; the compensation's own result keeps no more either.


class CompensationResult(Stored):
    """How one compensation ended."""

    name: str
    status: Literal["succeeded", "failed"]
    duration_ms: int
    error: str | None = None


@dataclass(frozen=True)
class _Compensation:
    name: str
    undo: Callable[[], Awaitable[Any]]


class Saga:
    """What must be undone, in the order in which it was done."""

    def __init__(self, owner: AgentWorkflow) -> None:
        self._run = owner.perdure
        self._pushed: list[_Compensation] = []

    def push(self, name: str, undo: Callable[P, Awaitable[Any]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Remember how to undo what comes next. Push before doing: what failed half-way wants undoing too."""
        self._pushed.append(_Compensation(name, lambda: undo(*args, **kwargs)))

    async def compensate(self) -> list[CompensationResult]:
        """Undo everything pushed, latest first; a second call finds nothing more to undo.

        Verbs inside it run although the run is cancelled, and are never denied by the budget. One that raises, or
        whose step fails, is reported and does not stop the others. It runs to its end: a cancel that arrives
        meanwhile is left for the verbs after it to raise.
        """
        if isinstance(sys.exc_info()[1], workflow.ContinueAsNewError):
            return []  # the run goes on: an `except BaseException` around it must not undo what it did
        pushed, self._pushed = self._pushed, []
        # A task of its own: the one that called may have a cancel pending, which would stop the first step.
        task = asyncio.create_task(self._undo(pushed[::-1]))
        is_interrupted = await all_ended([task])
        if is_interrupted and workflow.cancellation_reason() is None:
            raise asyncio.CancelledError  # by a deadline around this; a cancel of the run is raised by the next verb
        return task.result()

    async def _undo(self, latest_first: list[_Compensation]) -> list[CompensationResult]:
        compensating.set(True)  # in this task's context and those it creates, nowhere else
        return [await self._undo_one(compensation) for compensation in latest_first]

    async def _undo_one(self, compensation: _Compensation) -> CompensationResult:
        self._run.tell(CompensationStarted(name=compensation.name))
        begun = workflow.time_ns()
        error = await _error_of(compensation)
        status: Literal["succeeded", "failed"] = "failed" if error else "succeeded"
        self._run.tell(CompensationFinished(name=compensation.name, status=status, error=error))
        duration_ms = (workflow.time_ns() - begun) // 1_000_000
        return CompensationResult(name=compensation.name, status=status, duration_ms=duration_ms, error=error)


async def _error_of(compensation: _Compensation) -> str | None:
    try:
        returned = await compensation.undo()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # nothing cancels this task but an eviction
        return "it was cancelled"
    except Exception as error:  # noqa: BLE001 - the others must still run
        text = error.message if isinstance(error, PerdureError) else str(error)
        return cut(text or type(error).__name__, MAX_ERROR_LENGTH)
    outcomes = returned if isinstance(returned, list) else [returned]
    failed = [outcome for outcome in outcomes if isinstance(outcome, StepOutcome) and not outcome.success]
    return "; ".join(outcome.error or outcome.output for outcome in failed) or None
