"""When the next request to a service may go out: evenly spaced, and none while it asks to be left alone.

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
