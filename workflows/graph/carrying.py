"""What a graph takes along when its run continues as new, between two of its stages.

Law: what is carried is all that the rest of the graph depends on, so the result is the same with and without. Where it
is too large to travel, the run goes on in the history that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from pydantic import Field, JsonValue

from workflows import wire
from workflows.events import rfc3339
from workflows.graph.frame import Frame
from workflows.graph.results import StageResult, Values, WorkflowResult
from workflows.oversize import size_of, trimming
from workflows.wire import Stored

FRAME_BYTES = 100_000
# For the names around what is carried, and for a codec's frame.
MAX_CARRIED_BYTES = wire.MAX_PAYLOAD_BYTES - FRAME_BYTES
# What is carried is one payload.


class CarriedGraph(Stored):
    """A graph under way, as it travels: where it goes on, its state, and what it did."""

    following: str
    """The stage that comes next."""
    executions: int
    state: Values
    results: tuple[StageResult, ...]
    """Where they are large as in the run's result: each text over 10 KB by its size and hash, which is no loss, for the
    result could not hold more either. What later stages read is in the state."""
    completed: tuple[str, ...] = ()
    """Stages that compensation undoes, in order of completion."""
    cache: dict[str, JsonValue] = Field(default_factory=dict)
    """Results of idempotent actions."""
    begun: str
    """RFC 3339."""

    @property
    def begun_at(self) -> datetime:
        """When the graph began, in the first run of the chain."""
        return datetime.fromisoformat(self.begun)


@dataclass(slots=True)
class Continuation:
    """How the run of a graph goes on in a new history."""

    begin: Callable[[dict[str, Any]], Coroutine[Any, Any, NoReturn]]
    """Ends this run, and begins the next one with what is carried, as plain JSON."""
    room_bytes: int = MAX_CARRIED_BYTES
    """What the graph's part may take."""
    is_too_large: bool = False
    """Whether the state was found too large to travel: then the run goes on in the history that it has."""


def packing(
    frame: Frame, following: str, begun: datetime, room_bytes: int
) -> Generator[None, None, dict[str, Any] | None]:
    """A `CarriedGraph` as plain JSON; None where it is too large. Yields between parts of the work.

    No model is made of what many items or agents brought: one of 100,000 outputs takes seconds to check and to write.
    """
    bare = CarriedGraph(
        following=following,
        executions=frame.executions,
        state=frame.state,
        results=(),
        completed=tuple(frame.completed),
        cache=frame.cache,
        begun=rfc3339(begun),
    )
    packed = wire.plain(bare)
    taken = wire.size(packed)
    if taken + sum(size_of(result) for result in frame.results) > room_bytes:
        room_bytes = max(room_bytes, wire.largest_payload() - FRAME_BYTES)  # a blob store takes more
    room = room_bytes - taken
    if room <= 0:
        return None
    told = WorkflowResult(
        workflow_id="",
        workflow_name="",
        status="completed",
        stages=tuple(frame.results),
        compensations=(),
        duration_ms=0,
        timestamp="",
        final_state={},
    )
    lighter = yield from trimming(told, room)
    packed = {**packed, "results": lighter["stages"]}
    return packed if wire.size(packed) <= room_bytes else None
