"""What a step tells Temporal while it runs, and who keeps it from telling.

Law: the details never pass 4 KB, and every beat carries the newest ones, for a beat without details erases those of the
beat before it. A step shorter than two seconds that leaves no checkpoint beats never.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from pydantic import JsonValue
from temporalio import activity

from workflows.steps import Usage
from workflows.wire import Stored

BEAT_SECONDS = 2.0
# A third of the heartbeat timeout: a worker is lost after three beats that did not come.
THROTTLE_SECONDS = 0.5
# The worker's max_heartbeat_throttle_interval: the SDK holds a beat back until this long after the one before it.
HURRY_SECONDS = 0.25
# News that are dear wait so long for the checkpoint that makes a beat needless. Each beat is a write to the one run of
# all its activities: a hundred agents that beat twice a second each kept a server so busy that their beats came late.
FLUSH_SECONDS = 0.05
# From handing a beat to the SDK to its being sent; the server's own answer is not told to activities.

DETAILS_BYTES = 4_096
# Details live in the run's mutable state, 8 MB for all its activities together.
INLINE_BYTES = 3_072
# A checkpoint that travels in the details. The rest is for usage (250), the task id (250) and the progress text (500);
# a reference (200) stands in its place.
PROGRESS_CHARACTERS = 120
# At most four bytes each.

LAG_SAMPLE_SECONDS = 0.25
LAG_WARNING_SECONDS = 1.0
# Neighbours lose their heartbeats after six seconds; a second is too long already, and no garbage collection.

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.heartbeat")


class Beat(Stored):
    """Details of a heartbeat."""

    task: str = ""
    """The step's task id, cut: a description of the run does not tell otherwise which step an activity is."""
    progress: str | None = None
    """What the agent says that it is doing."""
    usage: Usage = Usage()
    """Over all attempts of the step; always written, for the workflow settles a lost step by it."""
    waits: int = 0
    """How many attempts ended because a service asked to wait: they are no faults of the step."""
    reference: str | None = None
    """The latest checkpoint in the blob store."""
    checkpoint: JsonValue = None
    """The latest checkpoint itself, where there is no store."""

    def details(self) -> dict[str, JsonValue]:
        """What is sent: plain JSON, so that any data converter writes it. What people look for comes first."""
        seen = self.model_dump(mode="json", include={"task", "progress"})
        rest = self.model_dump(mode="json", exclude={"task", "progress", "usage"})
        return {**seen, "usage": self.usage.model_dump(mode="json"), **rest}


class Pulse:
    """Beats for one attempt: the first after two seconds, then every two, and whenever something must not be lost.

    Made inside the activity, on its event loop.
    """

    def __init__(self, newest: Callable[[], Beat]) -> None:
        self._newest = newest
        self._loop = asyncio.get_running_loop()
        self._activity = contextvars.copy_context()
        # A beat belongs to the activity that is current where it is made, also when a thread asks for it.
        self._timer: asyncio.TimerHandle | None = None
        self._hurried: asyncio.TimerHandle | None = None
        self._sent_at = float("-inf")
        self._has_beaten = False
        self._is_stopped = False

    def start(self) -> None:
        """Beat from now on."""
        self._timer = self._loop.call_later(BEAT_SECONDS, self._tick)

    def stop(self) -> None:
        """Beat no more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self.calm()

    @property
    def has_beaten(self) -> bool:
        """Whether anything was told of this attempt."""
        return self._has_beaten

    def _tick(self) -> None:
        self.beat()
        self.start()

    def beat(self) -> None:
        """Send the newest details; on the loop."""
        self.calm()
        if self._is_stopped:
            return
        self._has_beaten = True
        now = time.monotonic()
        if self._sent_at <= now:  # else one waits in the SDK, and this one takes its place
            self._sent_at = max(now, self._sent_at + THROTTLE_SECONDS)
        self._activity.run(activity.heartbeat, self._newest().details())

    def hurry(self) -> None:
        """Beat soon where the step is one that beats: news that are dear should not wait for the next beat."""
        if self._has_beaten:
            self._loop.call_soon_threadsafe(self._soon)

    def _soon(self) -> None:
        if self._hurried is None and not self._is_stopped:
            self._hurried = self._loop.call_later(HURRY_SECONDS, self.beat)

    def calm(self) -> None:
        """There is no hurry any more; on the loop."""
        if self._hurried is not None:
            self._hurried.cancel()
            self._hurried = None

    async def flush(self) -> None:
        """Beat, and return when a beat with these details has been sent."""
        self.beat()
        await asyncio.sleep(max(0.0, self._sent_at - time.monotonic()) + FLUSH_SECONDS)


class LoopWatch:
    """Names the `async def` agents that hold the event loop: their neighbours' heartbeats stop meanwhile."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._sampler: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, agent: str) -> Iterator[None]:
        """Around the run of an `async def` agent."""
        self._running[agent] += 1
        self._seen.add(agent)
        if self._sampler is None or self._sampler.done():
            # An empty context: the sampler outlives the step that happened to start it.
            self._sampler = asyncio.get_running_loop().create_task(self._sample(), context=contextvars.Context())
        try:
            yield
        finally:
            self._running[agent] -= 1

    async def _sample(self) -> None:
        """Measure while an agent runs, and once more after: the last one may have held the loop to its end."""
        while self._seen:
            before = time.monotonic()
            await asyncio.sleep(LAG_SAMPLE_SECONDS)
            lag = time.monotonic() - before - LAG_SAMPLE_SECONDS
            if lag > LAG_WARNING_SECONDS:
                _log.warning(
                    "The event loop stood still. Write agents that compute or block as `def`: they run in threads.",
                    seconds=round(lag, 1),
                    async_agents=sorted(self._seen),
                )
            self._seen = set(+self._running)
