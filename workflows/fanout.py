"""A fan-out that is too large for one history: children of type `Slice` carry it, slice by slice.

Law: every step of the call ends in exactly one outcome, at its own place. What a child did not begin or could not pay
for goes to a later one; what it spent is settled here, and its steps in flight never pass its share of the window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from temporalio import workflow

from workflows import budget, calls, wire
from workflows.allotment import as_told
from workflows.budget import Ledger
from workflows.children import Child, End, TopUp, child_options, end_of, lost
from workflows.deadline import all_ended, cancel_all
from workflows.errors import cut
from workflows.events import Log, SliceDenied, SliceFinished, SliceStarted, SliceWaiting, StepWarning, UsageUnknown
from workflows.execution import execute, explained, since
from workflows.grants import GrantDenied
from workflows.handover import SliceChunk, SliceInput, SlicePhase, SliceReport
from workflows.history import refuses_slices
from workflows.progress import PhaseRecord
from workflows.run import Announced, Run, Slot, compensating, current_stage
from workflows.steps import Grant, StepStatus, Usage
from workflows.supply import SLICE_BYTES, Ending, Piece, Supply, bundle
from workflows.window import sliding_window

MOST_AT_ONCE = 4
# Children of one fan-out. Their shares of the window are fixed, so the last steps of a slice leave the others' places
# empty: more children waste less, and cost more workflow tasks for the same steps.
REFUSED_AT_ONCE = 2_000
# Steps that end in one activation because nothing pays for them: about 0.1 s of a slow core.
MAX_CRASH_LENGTH = 2_000
# As the message of any log event.


@dataclass(frozen=True, slots=True)
class Lane:
    """A share of the window, for one child after the other."""

    width: int
    """Steps in flight at once."""
    at_once: int | None
    """Pieces under way at once, where these are no steps."""


class FanOut:
    """One call on its way through children.

    `place` begins the children's ids; `phase` shows the steps; `expect` is told of steps that were not known before;
    `width` is how many steps may be in flight at once, and `at_once` how many pieces may, where these are no steps.
    """

    def __init__(
        self,
        run: Run,
        supply: Supply[Any],
        place: str,
        phase: PhaseRecord | None,
        expect: Callable[[int], None],
        width: int,
        at_once: int | None = None,
    ) -> None:
        if not workflow.patched(wire.LARGER_SLICES_PATCH):
            supply.slice_as_formerly()
        self._run, self._supply = run, supply
        self._place, self._phase = place, phase
        self._announced, self._known = Announced(run, supply.known), supply.known
        self._expect, self._expected = expect, supply.expected
        self._starting = asyncio.Lock()
        self._number = 0
        self._refused = 0
        self._lanes = _lanes(width, at_once)

    async def endings(self) -> list[Ending]:
        """How each piece ended, in their order."""
        with self._announced:
            await sliding_window(self._lanes, len(self._lanes), self._drive)
        return [ending for ending in self._supply.endings if ending is not None]

    async def _drive(self, lane: Lane) -> None:
        """Carry one slice after the other."""
        while await self._carry_next(lane):
            pass

    async def _carry_next(self, lane: Lane) -> bool:
        """Carry the next slice; whether there was one."""
        run = self._run
        async with Slot(run, lane.width) as slot:
            with run.executing():
                async with self._starting:  # one after the other: each is built in an activation of its own
                    await self._give_way()
                    run.raise_if_cancelled()
                    pieces = self._take()
                    if not pieces:
                        return False
                    is_too_large = self._supply.is_too_large(pieces[0])
                    child = None if is_too_large else await self._begin(pieces, lane)
                if child is not None:
                    await self._see_through(child)
            slot.give_back()
            if is_too_large:
                await self._carry_here(pieces[0])
        return True

    async def _give_way(self) -> None:
        """Where nothing is paid for any more, nothing is waited for either: pause by and by."""
        if self._refused >= REFUSED_AT_ONCE:
            self._refused = 0
            await calls.give_way()

    def _take(self) -> list[Piece]:
        pieces = self._supply.take(len(self._lanes))
        self._announced.add(self._supply.known - self._known)
        self._known = self._supply.known
        self._expect_more()
        return pieces

    def _expect_more(self) -> None:
        self._expect(self._supply.expected - self._expected)
        self._expected = self._supply.expected

    async def _carry_here(self, piece: Piece) -> None:
        """A step that fits into no child's argument; where it fits into no activity's either, its outcome says so."""
        if (ending := await self._supply.carried_here(piece)) is not None:
            self._announced.begin()
            self._supply.endings[piece.at] = ending
            return
        if piece.step is None:
            size, limit = piece.size / 1e6, SLICE_BYTES / 1e6
            told = f"an item of a pipeline takes {size:.1f} MB and the limit is {limit:.1f} MB"
            self._refuse([piece], "failed", f"{told}. Shorten it, or pass a reference to it.")
            return
        self._announced.begin()
        outcome = await execute(self._run, piece.step.spec, piece.name, self._phase, piece.begun)
        self._supply.endings[piece.at] = Ending(outcome, piece.name)

    async def _begin(self, pieces: list[Piece], lane: Lane) -> Child | None:
        """Start a child with the pieces; None where they were refused, or put back."""
        if full := refuses_slices():
            self._refuse(pieces, "failed", full)
            return None
        exhausted: Ledger | None = None
        try:
            allotment = await self._allotted(pieces)
        except GrantDenied as denied:
            if not self._supply.has_bodies:
                self._refuse(pieces, "budget_exceeded", str(denied))
                return None
            allotment, exhausted = Grant(tokens=0), as_told(self._run.grants.ledger)
        try:
            return await self._started(pieces, allotment, lane, self._given(pieces, lane, exhausted))
        except BaseException as error:
            self._run.grants.settle(allotment, budget.NOTHING)
            if not isinstance(error, Exception):
                raise
            self._set_apart(pieces, error)
            return None

    async def _allotted(self, pieces: Sequence[Piece]) -> Grant | None:
        if compensating.get():
            return None  # what undoes is never denied; what it spends is charged all the same

        def waits(reason: str) -> None:
            self._run.tell(SliceWaiting(step_count=len(pieces), unit=self._supply.unit, reason=reason))
            self._run.refresh_details()

        sharing = self._run.sharing
        if self._supply.has_more:  # at least as many as would keep all lanes busy
            sharing += self._supply.slice_length * len(self._lanes)
        return await self._run.grants.obtain(bundle(pieces, sharing), waits)

    async def _started(self, pieces: list[Piece], allotment: Grant | None, lane: Lane, given: SliceInput) -> Child:
        run = self._run
        await run.make_room(self._supply.common_bytes + sum(piece.size for piece in pieces))
        # A fixed id would make a reset to before the child's start fail.
        child_id = f"{workflow.info().workflow_id}/{self._place}.{self._number}-{workflow.uuid4().hex[:8]}"
        self._number += 1
        run.sent_ahead[child_id] = []
        # A task of its own: a start that is under way is not cancelled, for a child that was begun must be settled.
        starting = asyncio.create_task(
            workflow.start_child_workflow(
                wire.SLICE_WORKFLOW,
                given,
                id=child_id,
                memo={wire.OPTIONS_MEMO: child_options(run.options, allotment, lane.width)},
                static_summary=_summary(pieces, self._phase),
            )
        )
        is_interrupted = await all_ended([starting])
        handle = starting.result()
        self._announced.begin(len(pieces))
        unit = self._supply.unit
        record = run.board.open_slice(child_id, self._phase, len(pieces), workflow.now(), unit)
        run.tell(
            SliceStarted(
                workflow_id=child_id,
                phase=self._phase.index if self._phase else None,
                first=pieces[0].name,
                step_count=len(pieces),
                unit=unit,
                tokens=allotment.tokens if allotment else None,
            )
        )
        run.refresh_details()
        child = Child(child_id, handle, pieces, allotment, record, is_interrupted)
        if self._supply.has_bodies:  # no other asks: it hands back what it cannot pay for
            run.topping_up[child_id] = TopUp(run, child).begin
        return child

    def _given(self, pieces: Sequence[Piece], lane: Lane, exhausted: Ledger | None) -> SliceInput:
        phase, is_stage = self._phase, current_stage.get() is self._phase
        return SliceInput(
            work=self._supply.work(pieces),
            phase=SlicePhase(name=phase.name, index=phase.index, is_stage=is_stage) if phase else None,
            is_compensating=compensating.get(),
            at_once=lane.at_once,
            next_phase=self._run.phase_index if self._supply.has_bodies else 0,
            exhausted=exhausted,
        )

    def _set_apart(self, pieces: Sequence[Piece], error: Exception) -> None:
        """No child could be started. A step that no JSON can hold is carried here, where it fails alone."""
        unstorable = [piece for piece in pieces if not _is_storable(piece)]
        if not unstorable:
            self._refuse(pieces, "failed", f"its slice could not be started: {type(error).__name__}: {error}")
            return
        for piece in unstorable:
            piece.size = SLICE_BYTES + 1
        self._supply.put_back(pieces)

    async def _see_through(self, child: Child) -> None:
        """Wait for a child's end, whatever that is, and settle it."""
        end = await self._end_of(child)
        left = self._settle(child, end)
        self._announced.add(len(left))
        if end.lost is not None:
            self._refuse(left, "failed", end.lost, is_told=True)
        elif end.is_interrupted:  # of those that have not begun nothing is told, as of any step
            self._refuse([piece for piece in left if piece.begun], "cancelled", None)
        elif end.report.is_cancelled:  # the child alone was cancelled, by hand
            self._refuse(left, "cancelled", None)
        else:
            self._put_back(left)
        self._run.refresh_details()
        if end.is_interrupted:
            raise asyncio.CancelledError

    async def _end_of(self, child: Child) -> End:
        end = await end_of(child)
        self._run.topping_up.pop(child.id, None)
        if child.topping_up is not None and await cancel_all([child.topping_up]):
            return replace(end, is_interrupted=True)
        return end

    def _settle(self, child: Child, end: End) -> list[Piece]:
        """Charge a child, and keep what it brought; the pieces that it did not end."""
        run, supply, report = self._run, self._supply, end.report
        spent = since(child.settled, report.spent) if end.lost is None else budget.whole(child.allotment)
        run.grants.settle(child.allotment, spent)
        parts = [
            *run.sent_ahead.pop(child.id),
            SliceChunk(slice=child.id, ended=report.ended, returned=report.returned),
        ]
        left = dict(enumerate(child.pieces))
        # By their places: a child that was reset tells again what it had sent ahead, and anybody can send a signal.
        ended = {at: told for part in parts for at, told in part.ended if at in left}
        endings = [(piece := left.pop(at), self._ending(child, piece, told)) for at, told in ended.items()]
        returned = {at: standing for part in parts for at, standing in part.returned if at in left}
        for at, standing in returned.items():
            try:
                left[at] = supply.resumed(left[at], standing)
            except ValueError as error:
                endings.append((piece := left.pop(at), self._unreadable(child, piece, error)))
        if end.lost is not None:  # what it had sent ahead has ended all the same
            report = _counted(endings)
        supply.settled(report)
        self._expect_more()
        run.board.close_slice(child.record, "done" if end.lost is None else "lost", report.succeeded, report.failed)
        self._keep(endings)
        run.phase_index = max(run.phase_index, report.next_phase)
        self._tell_end(child, end, report, child.settled + spent, len(left))
        return list(left.values())

    def _tell_end(self, child: Child, end: End, report: SliceReport, spent: Usage, left: int) -> None:
        run, is_lost = self._run, end.lost is not None
        for unknown in report.usage_unknown:
            run.tell(unknown)
        if is_lost:
            charged = budget.whole(child.allotment).total_tokens if child.allotment else None
            run.tell(UsageUnknown(step=child.id, charged_tokens=charged))
        run.tell(
            SliceFinished(
                workflow_id=child.id,
                succeeded=report.succeeded,
                failed=report.failed + (left if is_lost else 0),
                returned=0 if is_lost else left,
                items=len(child.pieces) - left if self._supply.unit == "item" else None,
                total_tokens=spent.total_tokens,
                error=end.lost,
            )
        )

    def _ending(self, child: Child, piece: Piece, told: dict[str, Any]) -> Ending:
        try:
            return self._explained(self._supply.ended(piece, told))
        except ValidationError as error:
            return self._unreadable(child, piece, error)

    def _unreadable(self, child: Child, piece: Piece, error: ValueError) -> Ending:
        """The end of a piece of which a newer worker, or a stranger, told what cannot be read here."""
        why = lost(child, f"told what cannot be read: {error}")
        return self._supply.stopped(piece, "failed", f"Task failed: {why}")

    def _explained(self, ending: Ending) -> Ending:
        """A child knows only its allotment; this run knows whether the budget is exhausted."""
        if ending.outcome is None:
            return ending
        outcome = explained(self._run, ending.outcome)
        return ending if outcome is ending.outcome else replace(ending, outcome=outcome)

    def _put_back(self, pieces: Sequence[Piece]) -> None:
        """Let a later child have them; a suspended step that can never be paid for is denied at once."""
        kept: list[Piece] = []
        denied: dict[str, list[Piece]] = {}
        for piece in pieces:
            reason = None if piece.begun is None else self._run.grants.refusal(bundle([piece], sharing=1))
            if reason is None:
                kept.append(piece)
            else:
                denied.setdefault(reason, []).append(piece)
        self._supply.put_back(kept)
        for reason, those in denied.items():
            self._refuse(those, "budget_exceeded", reason)

    def _refuse(
        self, pieces: Sequence[Piece], status: StepStatus, reason: str | None, *, is_told: bool = False
    ) -> None:
        """End steps that go no further."""
        if not pieces:
            return
        output = calls.CANCELLED_TEXT if reason is None else f"Task failed: {reason}"
        stopped = [(piece, self._supply.stopped(piece, status, output)) for piece in pieces]
        self._announced.begin(len(pieces))
        self._refused += len(pieces)
        self._expect_more()
        self._run.board.count(self._phase, 0, sum(ending.outcome is not None for _, ending in stopped))
        self._keep(stopped)
        if not is_told:
            unit = self._supply.unit
            self._run.tell(SliceDenied(step_count=len(pieces), unit=unit, reason=reason or calls.CANCELLED_TEXT))

    def _keep(self, ended: Iterable[tuple[Piece, Ending]]) -> None:
        run, now = self._run, workflow.now()
        for piece, ending in ended:
            self._supply.endings[piece.at] = ending
            if ending.crash is not None:
                run.tell(Log(level="error", message=cut(ending.crash, MAX_CRASH_LENGTH), fields={}))
            if ending.outcome is None:
                continue
            run.board.keep(ending.name, ending.outcome, self._phase, now)
            for warning in ending.outcome.warnings:
                run.tell(StepWarning(step=ending.name, message=warning))


def _summary(pieces: Sequence[Piece], phase: PhaseRecord | None) -> str:
    """The child's line in the Temporal UI."""
    of_phase = f" ({phase.name})" if phase and phase.name else ""
    return calls.one_line(f"{len(pieces)} from {pieces[0].name}{of_phase}")


def _counted(endings: Sequence[tuple[Piece, Ending]]) -> SliceReport:
    outcomes = [ending.outcome for _, ending in endings if ending.outcome is not None]
    succeeded = sum(outcome.success for outcome in outcomes)
    return SliceReport(succeeded=succeeded, failed=len(outcomes) - succeeded)


def _lanes(window: int, at_once: int | None) -> list[Lane]:
    """The window, divided among children, and so the pieces under way."""
    count = min(MOST_AT_ONCE, window, window if at_once is None else at_once)
    pieces: Sequence[int | None] = [None] * count if at_once is None else _shares(at_once, count)
    return [Lane(*each) for each in zip(_shares(window, count), pieces, strict=True)]


def _shares(whole: int, count: int) -> list[int]:
    return [whole // count + (share < whole % count) for share in range(count)]


def _is_storable(piece: Piece) -> bool:
    try:
        wire.encode(piece.item)
    except ValueError:
        return False
    return True
