"""What a signal to leave means: the first one asks, one that comes later insists."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ECHO_SECONDS = 0.5
# `timeout` signals the process and then its group, and terminals and wrappers do alike: one wish, heard twice.


@contextmanager
def asked_to_leave(insisted: Callable[[signal.Signals], None]) -> Iterator[asyncio.Event]:
    """An event that the first SIGTERM or SIGINT sets; each one after its echo calls `insisted`."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    first = 0.0

    def hear(number: signal.Signals) -> None:
        nonlocal first
        if not asked.is_set():
            first = loop.time()
            asked.set()
        elif loop.time() - first > ECHO_SECONDS:
            insisted(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, hear, number)
    try:
        yield asked
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
