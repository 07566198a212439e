"""The items of a `for_each` that children carry: which of them can be, and what a child is given.

Law: an item ends as it would in the run itself. Where a child could not know all that its body may read, or would do
by itself what the run does once, the run carries the items.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue
from temporalio import workflow

from workflows import supply, wire
from workflows.calls import CANCELLED_TEXT
from workflows.errors import cut
from workflows.graph.definition import ForEachStep
from workflows.graph.keys import ITEM_KEYS
from workflows.graph.reads import reads_of
from workflows.graph.scope import Scope
from workflows.handover import BodyItem, ItemEnd, ItemsWork, SliceReport, Surroundings, Work
from workflows.place import ItemPlace, Place, current_item
from workflows.steps import StepStatus
from workflows.supply import SLICE_BYTES, Ending, Piece, Supply, size_of

MOST_COMMON_BYTES = SLICE_BYTES // 2
# Of body and state in each child's argument: what is left is for items, and every child's argument is in the history
# of the run.

ITEM_ENDED = Ending(None, "")
# One for all: what an item brought is told to `on_end`.

OnEnd = Callable[[int, ItemEnd], None]
CarryHere = Callable[[int], Awaitable[None]]


class ItemPiece(Piece):
    """One item."""

    __slots__ = ("_item", "_place")

    def __init__(self, item: BodyItem, place: str) -> None:
        super().__init__(item.index, size_of(item))
        self._item, self._place = item, place

    @property
    def item(self) -> BodyItem:
        """See base class."""
        return self._item

    @property
    def step(self) -> None:
        """See base class."""
        return

    @property
    def name(self) -> str:
        """See base class."""
        return f"{self._place}: item {self.at}"


class ItemSupply(Supply[JsonValue]):
    """The items that children carry. `on_end` is told how each ended; `carry_here` runs one that fits into no child."""

    def __init__(self, items: Sequence[JsonValue], work: ItemsWork, on_end: OnEnd, carry_here: CarryHere) -> None:
        super().__init__(items)
        self.common_bytes = wire.measure(work)
        self._work, self._on_end, self._carry_here = work, on_end, carry_here
        self._ended_steps = 0

    @property
    def expected(self) -> int:
        """See base class."""
        return self._ended_steps

    @property
    def has_bodies(self) -> bool:
        """See base class."""
        return True

    def _piece(self, at: int, thing: JsonValue) -> Piece:
        return ItemPiece(BodyItem(index=at, item=thing), f"{self._work.place}.{self._work.path}{self._work.first + at}")

    def work(self, pieces: Sequence[Piece]) -> Work:
        """See base class."""
        items = tuple(piece.item for piece in pieces if isinstance(piece, ItemPiece))
        return self._work.model_copy(update={"items": items})

    async def carried_here(self, piece: Piece) -> Ending | None:
        """See base class."""
        before = current_item.get()
        current_item.set(place_of(self._work, piece.at))
        try:
            await self._carry_here(piece.at)
        finally:
            current_item.set(before)  # not by its token: a coroutine that is evicted is closed in another context
        return ITEM_ENDED

    def ended(self, piece: Piece, told: dict[str, Any]) -> Ending:
        """See base class."""
        end = ItemEnd.model_validate(told)
        if end.is_cut_off and end.failure is None:  # the child was cancelled; where the run was too, nobody asks
            end = end.model_copy(update={"failure": CANCELLED_TEXT})
        self._on_end(piece.at, end)
        return ITEM_ENDED

    def resumed(self, piece: Piece, told: dict[str, Any]) -> Piece:
        """See base class. A child begins no item that it does not end."""
        raise ValueError(f"the piece {piece.name!r} came back half done: {cut(repr(told))}")

    def stopped(self, piece: Piece, status: StepStatus, output: str) -> Ending:
        """See base class."""
        self._on_end(piece.at, ItemEnd(failure=output.removeprefix("Task failed: "), is_cut_off=True))
        return ITEM_ENDED

    def settled(self, report: SliceReport) -> None:
        """See base class."""
        self._ended_steps += report.succeeded + report.failed


def place_of(work: ItemsWork, index: int) -> ItemPlace:
    """Where the steps of an item are."""
    return ItemPlace(work.place, f"{work.path}{work.first + index}")


@dataclass(frozen=True, slots=True)
class Slicing:
    """How children carry the items of a `for_each`."""

    place: Place
    """Where their steps are shown."""
    work: ItemsWork
    """What each child is given beside its items."""


def slicing_of(scope: Scope, step: ForEachStep, items: Sequence[JsonValue]) -> Slicing | None:
    """How children carry the items; None where the run itself does: where they are few, or where only it can."""
    if len(items) <= supply.INLINE_STEPS or not workflow.patched(wire.FOR_EACH_SLICES_PATCH):
        return None
    around, why = _surroundings(scope, step)
    if why is None:
        work = ItemsWork(place="", body=step.body, around=around)
        if (size := _size(work)) <= MOST_COMMON_BYTES:
            place = scope.frame.run.place()
            path, first = place.items(len(items))
            return Slicing(place, work.model_copy(update={"place": place.id, "path": path, "first": first}))
        limit = MOST_COMMON_BYTES / 1e6
        why = f"takes {size / 1e6:.1f} MB with the state that it reads, and a child is given {limit:.1f} MB"
    told = f"stage '{scope.stage.id}' runs its {len(items):,} items in the history of the run: its body {why}."
    scope.frame.owner.log("info", told, {"stage": scope.stage.id})
    return None


def _size(work: ItemsWork) -> int:
    try:
        return wire.measure(work)
    except ValueError:  # what no JSON can hold
        return SLICE_BYTES + 1


def _surroundings(scope: Scope, step: ForEachStep) -> tuple[Surroundings, str | None]:
    """What the body finds around it, and what it does that no child can do for the run."""
    frame, stage = scope.frame, scope.stage
    has_templates = frame.uses_templates(stage)
    reads = reads_of(step.body, frame.policies, has_templates=has_templates)
    read = sorted(reads.keys.difference(ITEM_KEYS))
    others = f"foreach.{stage.id}."
    why = reads.shares or reads.computes
    if why is None and any(key.startswith(others) for key in read):
        why = f"reads results of other items, at '{others}'"
    around = Surroundings(
        graph=frame.graph.id,
        stage=stage.id,
        goal=frame.graph.goal,
        policies=frame.policies,
        has_templates=has_templates,
        layer=scope.layer,
        state={key: scope.state[key] for key in read if key in scope.state},
        referred=None
        if scope.referred is None
        else {key: scope.referred[key] for key in read if key in scope.referred},
    )
    return around, why
