"""How work that was told to stop is waited for.

Law: whoever waits is not kept for longer than it says, however often it is cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Any


async def has_ended_within(seconds: float, work: asyncio.Task[Any]) -> bool:
    """Wait for the end of work that was told to stop; whether it came in so many seconds."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + seconds
    while not work.done() and (left := give_up - loop.time()) > 0:
        try:
            await asyncio.wait([work], timeout=left)
        except asyncio.CancelledError:
            continue  # it is stopping already
    leave(work)
    return work.done()


def leave(work: asyncio.Future[Any]) -> None:
    """Let work end by itself: asyncio reports an error of it that nobody has read as forgotten."""
    work.add_done_callback(lambda late: late.cancelled() or late.exception())
