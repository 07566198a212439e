"""The steps of one call, in their order, taken slice by slice.

Law: whatever was taken and came back is taken again, before anything new. A list is looked through for repeated ids
before anything is scheduled; a generator as it goes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from workflows import wire
from workflows.calls import failed
from workflows.errors import DuplicateTaskIds
from workflows.handover import Begun, StepItem, StepsWork, restored
from workflows.steps import AgentStepSpec, StepOutcome, StepStatus

INLINE_STEPS = 1_000
# Of one call, in the run's own history: 3,300 events and 0.8 MB, replayed in two seconds. What is larger runs in
# children.
SLICE_STEPS = 250
# Of one child.
LEAST_SLICE = 100
# Towards the end of a call slices get smaller, so that the last ones end together; smaller than this a child costs more
# than it saves.
SLICE_BYTES = 1_000_000
# Of one child's argument. With what its run starts beside it, it must stay below what one message takes.
SMALL_ITEM = SLICE_BYTES // SLICE_STEPS
# A step that takes less is not measured exactly: a slice of such steps is not too large, whatever they take.


@dataclass(slots=True)
class Piece:
    """A step on its way, and its place in the call."""

    at: int
    item: StepItem
    size: int

    @property
    def spec(self) -> AgentStepSpec:
        """The step."""
        return self.item.spec

    @property
    def begun(self) -> Begun | None:
        """Where it stands, if it began in an earlier child."""
        return self.item.begun


class Supply:
    """The steps of one call. Up to `INLINE_STEPS` of them are all in `inline`; else they are taken in slices."""

    def __init__(self, verb: str, specs: Iterable[AgentStepSpec]) -> None:
        self._verb = verb
        is_counted = isinstance(specs, Sized)
        source = iter(specs)
        head = list(source if is_counted else islice(source, INLINE_STEPS + 1))
        counted = Counter(spec.task_id for spec in head)
        if len(counted) < len(head):
            raise DuplicateTaskIds(verb, [task_id for task_id, count in counted.items() if count > 1])
        self.inline: list[AgentStepSpec] | None = head if len(head) <= INLINE_STEPS else None
        self.known = len(head)
        """Steps that are known so far."""
        self.more = not is_counted and self.inline is None
        """Whether others may follow."""
        self.outcomes: list[StepOutcome | None] = []
        self._source: Iterator[AgentStepSpec] = iter(head)
        self._seen: set[str] | None = None
        if self.more:
            self._source, self._seen = chain(head, source), set()
        self._came_back: deque[Piece] = deque()

    def take(self, lanes: int) -> list[Piece]:
        """The next slice; empty when there is nothing more. A piece that fits into no slice comes alone.

        Raises `DuplicateTaskIds`, and whatever a generator raises.
        """
        taken: list[Piece] = []
        size, most = 0, self._most(lanes)
        while len(taken) < most and (piece := self._next()) is not None:
            size += piece.size
            if taken and size > SLICE_BYTES:
                self._came_back.appendleft(piece)
                break
            taken.append(piece)
        return taken

    def put_back(self, pieces: Sequence[Piece]) -> None:
        """Take these again, first of all."""
        self._came_back.extendleft(reversed(pieces))

    def _most(self, lanes: int) -> int:
        """Towards the end less, so that no lane works long after the others."""
        if self.more:
            return SLICE_STEPS
        left = self.known - len(self.outcomes) + len(self._came_back)
        return min(SLICE_STEPS, max(LEAST_SLICE, -(-left // (2 * lanes))))

    def _next(self) -> Piece | None:
        if self._came_back:
            return self._came_back.popleft()
        spec = next(self._source, None)
        if spec is None:
            self.more = False
            return None
        if self._seen is not None:
            if spec.task_id in self._seen:
                raise DuplicateTaskIds(self._verb, [spec.task_id])
            self._seen.add(spec.task_id)
        piece = Piece(len(self.outcomes), StepItem(spec=spec), _size(spec))
        self.outcomes.append(None)
        self.known = max(self.known, len(self.outcomes))
        return piece

    def work(self, pieces: Sequence[Piece]) -> StepsWork:
        """What a child is given."""
        return StepsWork(items=tuple(piece.item for piece in pieces))

    def ended(self, piece: Piece, told: dict[str, Any]) -> StepOutcome:
        """The outcome that a child tells."""
        return restored(piece.spec, told)

    def resumed(self, piece: Piece, told: dict[str, Any]) -> Piece:
        """A step that a child could not pay for."""
        begun = Begun.model_validate(told)
        size = _size(piece.spec) + wire.measure(begun, SMALL_ITEM)
        return Piece(piece.at, StepItem(spec=piece.spec, begun=begun), size)

    def unbegun(self, piece: Piece, status: StepStatus, output: str) -> StepOutcome:
        """The outcome of a step that goes no further."""
        outcome = failed(piece.spec, status, output)
        if piece.begun is None:
            return outcome
        spent = {"usage": piece.begun.resume.usage, "attempts": max(1, piece.begun.attempts)}
        return outcome.model_copy(update=spent)


def _size(spec: AgentStepSpec) -> int:
    try:
        return wire.measure(spec, SMALL_ITEM)
    except ValueError:  # what no JSON can hold fails alone, in the run itself
        return SLICE_BYTES + 1
