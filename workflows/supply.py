"""What one call has to do, in its order, taken slice by slice.

Law: whatever was taken and came back is taken again, before anything new. A list is looked through for repeated ids
before anything is scheduled; a generator as it goes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Generic, TypeVar

from workflows import budget, wire
from workflows.budget import Bundle
from workflows.calls import failed
from workflows.errors import DuplicateTaskIds
from workflows.events import Unit
from workflows.handover import Begun, SliceReport, StepItem, StepsWork, Work, restored
from workflows.steps import AgentStepSpec, Grant, StepOutcome, StepStatus

INLINE_STEPS = 1_000
# Of one call, in the run's own history: 3,300 events and 0.8 MB, replayed in two seconds. What is larger runs in
# children.
SLICE_STEPS = 400
# Of one child, whose history then has 1,300 events. Each child costs its parent up to nine, however much it carries.
FORMER_SLICE_STEPS = 250
# Of a child in histories without `LARGER_SLICES_PATCH`.
LEAST_SLICE = 100
# Towards the end of a call slices get smaller, so that the last ones end together; smaller than this a child costs more
# than it saves.
SLICE_BYTES = 1_000_000
# Of one child's argument. With what its run starts beside it, it must stay below what one message takes.
SMALL_ITEM = 4_000
# What takes less is not measured exactly but bounded, by up to six times of what it takes. A slice of nothing but such
# items may be cut short by that, never below 250.

Source = TypeVar("Source")


class Piece(ABC):
    """A step, a chain or an item on its way, and its place in the call."""

    __slots__ = ("at", "size")

    def __init__(self, at: int, size: int) -> None:
        self.at, self.size = at, size

    @property
    @abstractmethod
    def item(self) -> wire.Stored:
        """As a child is given it."""

    @property
    @abstractmethod
    def step(self) -> StepItem | None:
        """The step that comes next; None where only a chain's stage, or an item's body, can tell."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Identity of that step, or what tells the piece from others."""

    @property
    def begun(self) -> Begun | None:
        """Where the step stands, if it began in an earlier child."""
        return self.step.begun if self.step else None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a piece ended."""

    outcome: StepOutcome | None
    name: str
    """Identity of the step whose outcome it is."""
    crash: str | None = None
    """What a stage of a chain raised."""


class Supply(ABC, Generic[Source]):
    """What one call has to do: taken in slices, ended one by one. Each of it takes at most `steps_each` steps."""

    def __init__(self, source: Iterable[Source], steps_each: int = 1) -> None:
        most_inline = INLINE_STEPS // steps_each
        is_counted = isinstance(source, Sized)
        rest = iter(source)
        head = list(rest if is_counted else islice(rest, most_inline + 1))
        self.inline: list[Source] | None = head if len(head) <= most_inline else None
        """All of it, where it is not too much for the run itself."""
        self.head: Sequence[Source] = head
        """What is known from the beginning."""
        self.known = len(head)
        """How many there are, as far as that is known."""
        self.has_more = not is_counted and self.inline is None
        """Whether others may follow."""
        self.endings: list[Ending | None] = []
        self._steps_each = steps_each
        self.slice_length = max(1, SLICE_STEPS // steps_each)
        """Of one child, at most."""
        self.common_bytes = 0
        """What each child is given beside its pieces."""
        self._source: Iterator[Source] = chain(head, rest) if self.has_more else iter(head)
        self._came_back: deque[Piece] = deque()

    @property
    def unit(self) -> Unit:
        """What is told of its pieces: steps, or items that may take any number of them."""
        return "item"

    def slice_as_formerly(self) -> None:
        """Slices of the length that they had in histories before `LARGER_SLICES_PATCH`."""
        self.slice_length = max(1, min(SLICE_STEPS, FORMER_SLICE_STEPS) // self._steps_each)

    def take(self, lanes: int) -> list[Piece]:
        """The next slice; empty when there is nothing more. A piece that fits into no slice comes alone.

        Raises whatever a generator raises, and what `_piece` raises.
        """
        taken: list[Piece] = []
        size, most = 0, self._most(lanes)
        while len(taken) < most and (piece := self._next()) is not None:
            size += piece.size
            if taken and size > self.room_bytes:
                self._came_back.appendleft(piece)
                break
            taken.append(piece)
        return taken

    @property
    def room_bytes(self) -> int:
        """What pieces may take of one child's argument."""
        return SLICE_BYTES - self.common_bytes

    def is_too_large(self, piece: Piece) -> bool:
        """Whether a piece fits into no child's argument, so that the run carries it itself."""
        return piece.size > self.room_bytes

    def put_back(self, pieces: Sequence[Piece]) -> None:
        """Take these again, first of all."""
        self._came_back.extendleft(reversed(pieces))

    def _most(self, lanes: int) -> int:
        """At the beginning of a generator and at the end of a list less, so that no lane stands idle."""
        if self.has_more:
            share = -(-self.known // lanes)
        else:
            share = -(-(self.known - len(self.endings) + len(self._came_back)) // (2 * lanes))
        return min(self.slice_length, max(LEAST_SLICE, share))

    def _next(self) -> Piece | None:
        if self._came_back:
            return self._came_back.popleft()
        try:
            thing = next(self._source)
        except StopIteration:
            self.has_more = False
            return None
        piece = self._piece(len(self.endings), thing)
        self.endings.append(None)
        self.known = max(self.known, len(self.endings))
        return piece

    @property
    @abstractmethod
    def expected(self) -> int:
        """Steps of the call, as far as they are known."""

    @abstractmethod
    def _piece(self, at: int, thing: Source) -> Piece:
        """What stands at a place of the call."""

    @abstractmethod
    def work(self, pieces: Sequence[Piece]) -> Work:
        """What a child is given."""

    @abstractmethod
    def ended(self, piece: Piece, told: dict[str, Any]) -> Ending:
        """How a piece ended, as a child tells it."""

    @abstractmethod
    def resumed(self, piece: Piece, told: dict[str, Any]) -> Piece:
        """A piece that a child could not pay for, as it stands now."""

    @abstractmethod
    def stopped(self, piece: Piece, status: StepStatus, output: str) -> Ending:
        """The end of a piece that goes no further."""

    async def carried_here(self, piece: Piece) -> Ending | None:
        """The end of a piece that is too large for a child and no step; None where the run cannot carry it either."""
        return None

    @property
    def has_bodies(self) -> bool:
        """Whether a piece is more than its steps: it begins although nothing pays for them, and may have stages."""
        return False

    def settled(self, report: SliceReport) -> None:
        """A child has ended."""


class StepPiece(Piece):
    """One step of a fan-out."""

    __slots__ = ("_item", "_name")

    def __init__(self, at: int, item: StepItem, name: str, size: int) -> None:
        super().__init__(at, size)
        self._item, self._name = item, name

    @property
    def item(self) -> StepItem:
        """See base class."""
        return self._item

    @property
    def step(self) -> StepItem:
        """See base class."""
        return self._item

    @property
    def name(self) -> str:
        """See base class."""
        return self._name


class StepSupply(Supply[AgentStepSpec]):
    """The steps of a `parallel`, a `phase`, or a round of a `loop`."""

    def __init__(self, verb: str, specs: Iterable[AgentStepSpec]) -> None:
        super().__init__(specs)
        self.prefix = ""
        """What the identities of the steps begin with; set before anything is taken."""
        self._verb = verb
        counted = Counter(spec.task_id for spec in self.head)
        if len(counted) < len(self.head):
            raise DuplicateTaskIds(verb, [task_id for task_id, count in counted.items() if count > 1])
        self._seen: set[str] | None = set() if self.has_more else None

    @property
    def unit(self) -> Unit:
        """See base class."""
        return "step"

    @property
    def expected(self) -> int:
        """See base class."""
        return self.known

    def _piece(self, at: int, thing: AgentStepSpec) -> Piece:
        if self._seen is not None:
            if thing.task_id in self._seen:
                raise DuplicateTaskIds(self._verb, [thing.task_id])
            self._seen.add(thing.task_id)
        return StepPiece(at, StepItem(spec=thing), f"{self.prefix}:{thing.task_id}", size_of(thing))

    def work(self, pieces: Sequence[Piece]) -> Work:
        """See base class."""
        return StepsWork(
            prefix=self.prefix, items=tuple(piece.item for piece in pieces if isinstance(piece, StepPiece))
        )

    def ended(self, piece: Piece, told: dict[str, Any]) -> Ending:
        """See base class."""
        return Ending(restored(_spec(piece), told), piece.name)

    def resumed(self, piece: Piece, told: dict[str, Any]) -> Piece:
        """See base class."""
        item = StepItem(spec=_spec(piece), begun=Begun.model_validate(told))
        return StepPiece(piece.at, item, piece.name, size_of(item))

    def stopped(self, piece: Piece, status: StepStatus, output: str) -> Ending:
        """See base class."""
        return Ending(unfinished(StepItem(spec=_spec(piece), begun=piece.begun), status, output), piece.name)


def _spec(piece: Piece) -> AgentStepSpec:
    if piece.step is None:
        raise TypeError(f"the piece {piece.name!r} has no step")
    return piece.step.spec


def unfinished(step: StepItem, status: StepStatus, output: str) -> StepOutcome:
    """The outcome of a step that goes no further: what it has spent so far is in it."""
    outcome = failed(step.spec, status, output)
    if step.begun is None:
        return outcome
    spent = {"usage": step.begun.resume.usage, "attempts": max(1, step.begun.attempts)}
    return outcome.model_copy(update=spent)


def bundle(pieces: Sequence[Piece], sharing: int) -> Bundle:
    """What the pieces ask for together."""
    fresh = [piece.step.spec.max_tokens if piece.step else None for piece in pieces if piece.begun is None]
    begun = [piece.begun for piece in pieces if piece.begun is not None]
    previous = [(each, each.previous or Grant()) for each in begun]
    return Bundle(
        fresh=len(fresh),
        sharing=sharing,
        first_tokens=sum(min(cap or budget.FIRST_GRANT_TOKENS, budget.FIRST_GRANT_TOKENS) for cap in fresh),
        resumed_tokens=sum(2 * max(each.at_least, held.tokens or 0) for each, held in previous),
        resumed_usd=sum(2 * max(each.at_least_nanodollars, budget.nano(held.usd) or 0) for each, held in previous),
        at_least=0 if fresh else min(each.at_least for each in begun),
        at_least_usd=0 if fresh else min(each.at_least_nanodollars for each in begun),
    )


def size_of(item: wire.Stored) -> int:
    """Bytes of a child's argument that an item takes at most; what no JSON can hold fits into none."""
    try:
        return wire.measure(item, SMALL_ITEM)
    except ValueError:
        return SLICE_BYTES + 1
