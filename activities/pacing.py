"""When a conversation may begin, and when the next request to a service may go out.

Requests go out evenly spaced, and none while their service asks to be left alone.
Law: holds for all steps of one worker. What several workers do together is limited by Temporal, on the task queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

LONGEST_HOLD = timedelta(seconds=30)
# Of the others, when a service has refused one: a step that finds it busy for longer makes room for steps of other
# services, and is tried again by Temporal.
LOOK_SECONDS = 1.0
# How often a step that waits says that it is alive.
QUIET_TURNS, QUIET_SECONDS = 4, 0.02
# Without a newcomer; nothing beside the time that a model takes.
LONGEST_MUSTER_SECONDS = 10.0
# Where steps come in all the time. A hundred come in within a second, on a machine with much other work within five.
TURNS_BETWEEN = 4
# Of the event loop between two requests: in so many it takes in two more steps.


class Paces:
    """The pace of each service that the steps of a worker share."""

    def __init__(self) -> None:
        self._free_at: dict[str, float] = {}

    async def turn(self, service: str, per_second: float | None, alive: Callable[[], None]) -> None:
        """Return when a request may go out; in the order of asking. Without a limit: unless the service is held."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._free_at.get(service, now))
        if per_second is not None:
            self._free_at[service] = at + 1 / per_second
        while (left := at - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, LOOK_SECONDS))
            alive()

    def hold(self, service: str, wait: timedelta) -> None:
        """Send nothing for a while: the service has said that it is busy."""
        until = asyncio.get_running_loop().time() + min(wait, LONGEST_HOLD).total_seconds()
        self._free_at[service] = max(until, self._free_at.get(service, until))


class Muster:
    """Lets conversations that come together begin together: none asks its model while others are still coming in.

    The SDK takes in one step for each turn or two of the event loop. Where each turn prepares the requests of those
    that came first, the last of a hundred come in after seconds, and Temporal waits six for a sign of each.
    """

    def __init__(self) -> None:
        self._came = 0

    async def gather(self) -> None:
        """Return when no other has come in for some turns of the loop, or after a while."""
        self._came += 1
        give_up_at = asyncio.get_running_loop().time() + LONGEST_MUSTER_SECONDS
        came = 0
        while came != self._came and asyncio.get_running_loop().time() < give_up_at:
            came = self._came
            for _ in range(QUIET_TURNS):
                await asyncio.sleep(QUIET_SECONDS / QUIET_TURNS)


class Turns:
    """Lets one request be prepared at a time, and the event loop turn a few times between two.

    To prepare one takes up to 25 ms of the loop; a hundred in one turn of it would keep all else waiting: heartbeats,
    answers, steps that come in.
    """

    def __init__(self) -> None:
        self._preparing = asyncio.Lock()

    async def take(self) -> None:
        """Return when the next request may be prepared, at once; in the order of asking."""
        async with self._preparing:
            for _ in range(TURNS_BETWEEN):
                await asyncio.sleep(0)
