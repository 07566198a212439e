"""Where steps are shown, and what their identities begin with.

Law: no two steps of a run share an identity, whoever carries them. Pure.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from workflows.progress import PhaseRecord


@dataclass(slots=True)
class ItemPlace:
    """The item of a `for_each` that children carry: no step of it has the name of another's, whoever carries that."""

    place: str
    """Phase index, or call name."""
    path: str
    """The item's number; with those of the items around it."""
    rounds: int = 0

    def take(self) -> int:
        """The number of the next round of steps, whichever call it belongs to."""
        self.rounds += 1
        return self.rounds - 1

    def round(self) -> str:
        """The same as the identities of its steps write it."""
        number = self.take()
        return f"{self.path}.{number}" if number else self.path


current_item: ContextVar[ItemPlace | None] = ContextVar("perdure_item", default=None)
"""The item that this task works for, where children carry its `for_each`."""


class Place:
    """Where the steps of one call are shown: by themselves, or under the stage of a graph that made the call."""

    def __init__(self, prefix: str, stage: PhaseRecord | None, item: ItemPlace | None = None) -> None:
        self.id = prefix
        """Phase index, or call name."""
        self._rounds: dict[int, int | str] = {}
        self.stage = stage
        self._item = item

    def name(self, round_number: int, task_id: str) -> str:
        """A step's identity."""
        return f"{self.round(round_number)}:{task_id}"

    def round(self, round_number: int) -> str:
        """What the identities of a round begin with. A stage counts the rounds of all its calls: no two share one."""
        if self._item is not None and round_number not in self._rounds:
            self._rounds[round_number] = self._item.round()
        elif self.stage is not None and round_number not in self._rounds:
            self._rounds[round_number] = self.stage.rounds
            self.stage.rounds += 1
        return f"{self.id}.{self._rounds.get(round_number, round_number)}"

    def items(self, count: int) -> tuple[str, int]:
        """For so many items that children carry: what stands before their numbers, and the first of these."""
        if self._item is not None:
            return f"{self._item.path}.{self._item.take()}.", 0
        if self.stage is None:
            return "", 0
        first, self.stage.rounds = self.stage.rounds, self.stage.rounds + count
        return "", first

    def expect(self, count: int) -> None:
        """Tell the stage that so many more steps come."""
        if self.stage is not None:
            self.stage.step_count += count
