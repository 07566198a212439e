"""What a step tells Temporal while it runs, and when.

Law: the details never pass 4 KB, and every beat carries the newest ones, for a beat without details erases those of the
beat before it. A step shorter than two seconds that leaves no checkpoint beats never, unless it came in late or the
loop stands still.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import JsonValue
from temporalio import activity
from temporalio.client import AsyncActivityCancelledError
from temporalio.converter import ActivitySerializationContext
from temporalio.service import RPCError, RPCStatusCode

from activities.deputy import Deputy
from workflows.errors import RetryableStepError
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

    Made inside the activity, on its event loop; the deputy beats where that loop does not.
    """

    def __init__(self, newest: Callable[[], Beat], deputy: Deputy) -> None:
        self._newest = newest
        self._deputy = deputy
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
        self._deputy.join(self._beat_elsewhere)
        self._await_tick()

    def stop(self) -> None:
        """Beat no more."""
        self._is_stopped = True
        self._deputy.leave(self._beat_elsewhere)
        if self._timer is not None:
            self._timer.cancel()
        self.calm()

    @property
    def has_beaten(self) -> bool:
        """Whether anything was told of this attempt."""
        return self._has_beaten

    def _await_tick(self) -> None:
        self._timer = self._loop.call_later(BEAT_SECONDS, self._tick)

    def _tick(self) -> None:
        self.beat()
        self._await_tick()

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

    def _beat_elsewhere(self) -> None:
        """Send the newest details in another thread, on the event loop that runs there: ours stands still.

        The SDK encodes and sends a beat on whichever loop it is made.
        """
        if not self._is_stopped:
            # A copy, for ours may be just what the loop stands still in.
            self._activity.copy().run(activity.heartbeat, self._newest().details())

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

    async def confirm(self) -> None:
        """Where this attempt reached us late: tell Temporal at once, and learn whether it still waits for it.

        A loop that stood still or has much to do begins its steps late. One that was given up meanwhile runs again
        already, and would do, and pay for, what that one does. Raises `RetryableStepError`.
        """
        info = activity.info()
        # Where the clocks of server and worker differ by more, each step asks once, which harms nobody.
        late_seconds = (datetime.now(UTC) - info.started_time).total_seconds()
        if info.heartbeat_timeout is None or late_seconds < BEAT_SECONDS:
            return
        handle = activity.client().get_async_activity_handle(task_token=info.task_token)
        try:
            await handle.with_context(_context(info)).heartbeat(self._newest().details())
        except AsyncActivityCancelledError:
            return  # the SDK hears of it at our next beat, and cancels us as ever
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise RetryableStepError(
                    f"This attempt reached its worker {late_seconds:.1f} s late, when Temporal had given it up."
                ) from None
            # else the server cannot be asked now; our beats will tell

    async def flush(self) -> None:
        """Beat, and return when a beat with these details has been sent."""
        self.beat()
        await asyncio.sleep(max(0.0, self._sent_at - time.monotonic()) + FLUSH_SECONDS)


def _context(info: activity.Info) -> ActivitySerializationContext:
    """What the SDK says of an activity where it encodes its heartbeats."""
    return ActivitySerializationContext(
        namespace=info.namespace,
        workflow_id=info.workflow_id,
        workflow_type=info.workflow_type,
        activity_type=info.activity_type,
        activity_id=info.activity_id,
        activity_task_queue=info.task_queue,
        is_local=info.is_local,
    )
