"""The deputy of a worker's event loop: it beats for the loop's steps while the loop stands still.

Heartbeats go out from the loop that agents run on. Whatever holds it, an `async def` agent that blocks or a hundred
model requests that are prepared in one go, would cost each step of the worker its attempt, and what such a step has
just asked of a model would be asked and paid for again. So a thread looks on, and sends the beats meanwhile.

Law: a loop that has stood still for a minute is taken for hung: nobody beats for it any more, and others take its
steps. What holds the whole interpreter (an extension that keeps the GIL) holds the deputy too.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

LOOK_SECONDS = 0.25
STILL_SECONDS = 1.0
# A loop that has not answered for so long stands still. The beat in its stead then comes 3.5 s after the loop's own
# last one at the latest, of the six that Temporal waits; and a second is too long for any garbage collection.
AGAIN_SECONDS = 2.0
# As often as the loop itself would beat.
HUNG_SECONDS = 60.0
# What an agent may take that computes where it should not. A step that waits for ever must not seem alive for ever.
LINGER_SECONDS = 5.0
# Without a step the thread ends, but not between one step and the next.
TOLD_FRAMES = 3
# Of the loop's thread: what holds it, and who called that.

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.heartbeat")


@dataclass(frozen=True, slots=True)
class _Standstill:
    """What was found when the loop did not answer."""

    at: str
    async_agents: list[str]


class Deputy:
    """Looks after the event loop of whoever joins, from a thread that lives while there is a step to beat for."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._thread_id: int
        """Both of whoever joined last; without one there is no thread that would look."""
        self._changing = threading.Lock()
        self._beats: set[Callable[[], None]] = set()
        self._async_agents: Counter[str] = Counter()
        self._is_watching = False
        self._needed_at = float("-inf")
        self._asked_at: float | None = None
        """When the loop was asked for an answer that it has not given yet."""
        self._beaten_at = float("-inf")
        self._standstill: _Standstill | None = None
        self._is_hung = False

    def join(self, beat: Callable[[], None]) -> None:
        """Call this every two seconds, in a thread with an event loop of its own, while the running loop stands still.

        To be called on that loop.
        """
        with self._changing:
            self._beats.add(beat)
            self._loop = asyncio.get_running_loop()
            self._thread_id = threading.get_ident()
            if self._is_watching:
                return
            self._is_watching, self._needed_at, self._asked_at = True, time.monotonic(), None
        # A daemon: a process that leaves does not wait for it.
        threading.Thread(target=lambda: asyncio.run(self._watch()), name="perdure-deputy", daemon=True).start()

    def leave(self, beat: Callable[[], None]) -> None:
        """Call this no more."""
        with self._changing:
            self._beats.discard(beat)

    @contextmanager
    def watching(self, agent: str) -> Iterator[None]:
        """Around the run of an `async def` agent: it is named where the loop stands still meanwhile."""
        with self._changing:
            self._async_agents[agent] += 1
        try:
            yield
        finally:
            with self._changing:
                self._async_agents[agent] -= 1

    async def _watch(self) -> None:
        while self._is_needed():
            await asyncio.sleep(LOOK_SECONDS)
            still_seconds = self._ask()
            if still_seconds >= STILL_SECONDS and self._beats:  # without a step it only lingers
                self._stand_in(still_seconds)

    def _is_needed(self) -> bool:
        now = time.monotonic()
        with self._changing:
            if self._beats:
                self._needed_at = now
            if now - self._needed_at > LINGER_SECONDS or self._loop.is_closed():
                self._is_watching = False
            return self._is_watching

    def _ask(self) -> float:
        """For how long the loop has owed an answer."""
        asked_at = self._asked_at
        if asked_at is not None:
            return time.monotonic() - asked_at
        self._asked_at = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # closed meanwhile: the next look sees it
            self._asked_at = None
        return 0.0

    def _answer(self) -> None:
        """The loop turns; called on it."""
        asked_at, self._asked_at = self._asked_at, None
        found, self._standstill = self._standstill, None
        self._is_hung = False
        still_seconds = 0.0 if asked_at is None else time.monotonic() - asked_at
        if found is None or still_seconds < STILL_SECONDS:  # it turned just when the thread went to look where it was
            return
        cure = (
            "Write agents that compute or block as `def`: they run in threads."
            if found.async_agents
            else "The worker has more to do at once than one process can: give it fewer slots."
        )
        _log.warning(
            f"The event loop stood still. {cure}",
            seconds=round(still_seconds, 1),
            async_agents=found.async_agents,
            at=found.at,
        )

    def _stand_in(self, still_seconds: float) -> None:
        now = time.monotonic()
        found = self._standstill = self._standstill or self._found()
        if still_seconds > HUNG_SECONDS:
            self._give_up(found)
        elif now - self._beaten_at >= AGAIN_SECONDS:
            self._beaten_at = now
            with self._changing:
                beats = list(self._beats)
            for beat in beats:
                self._beat_by(beat)

    def _beat_by(self, beat: Callable[[], None]) -> None:
        try:
            beat()
        except Exception as error:  # noqa: BLE001 - an interceptor's; the other steps are beaten for
            _log.warning("A heartbeat could not be sent.", error=f"{type(error).__name__}: {error}")

    def _give_up(self, found: _Standstill) -> None:
        if self._is_hung:
            return
        self._is_hung = True
        _log.error(
            "The event loop hangs. Its steps are left to other workers; end this one.",
            seconds=HUNG_SECONDS,
            async_agents=found.async_agents,
            at=found.at,
        )

    def _found(self) -> _Standstill:
        with self._changing:
            agents = sorted(+self._async_agents)
        return _Standstill(_place_of(self._thread_id), agents)


def _place_of(thread_id: int) -> str:
    """Where a thread is: its innermost frames, the innermost first."""
    frame = sys._current_frames().get(thread_id)
    places: list[str] = []
    while frame is not None and len(places) < TOLD_FRAMES:
        places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(places)
