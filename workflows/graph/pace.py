"""How much of a graph runs in one go.

Stages that wait for nothing (a state_write, an assertion, an empty loop) never give the worker back by themselves, and
the SDK gives up on workflow code that holds it for 2 s: such a run would be tried again for ever.
Law: whatever a graph does, one activation does a bounded part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar

from workflows import calls
from workflows.deadline import all_ended

T = TypeVar("T")

MOST_AT_ONCE = 100.0
# Stages, or items of a `for_each`, in one activation: about 0.05 s of a slow core, and three times that where Python
# collects its garbage meanwhile. A machine that gives a worker a tenth of its time must still do.
KEYS_PER_STAGE = 3_000
# Reading and copying a state of so many keys takes about as long as running a small stage.
CHARACTERS_PER_STAGE = 2_000
# Storing an answer of so many does too, where it is many small values.


class Pace:
    """What may still be done before a pause; one for the whole run.

    It counts everything, also what waited for an activity: to know what happened in this activation alone it would have
    to ask Temporal, and a pause costs one event of the history for hundreds.
    """

    def __init__(self) -> None:
        self._done = 0.0
        self._resumed: asyncio.Event | None = None
        """Set when the pause that is under way has ended."""

    async def keep(self, state_keys: int) -> None:
        """Before a stage: return at once, or after a pause where enough was done."""
        await self.spend(1 + state_keys / KEYS_PER_STAGE)

    async def spend(self, stages: float) -> None:
        """The same before what takes as long as so many stages."""
        while self._done >= MOST_AT_ONCE:
            await self.pause()
        self._done += stages

    def charge(self, characters: int) -> None:
        """Count an answer that was written."""
        self._done += characters / CHARACTERS_PER_STAGE

    async def pause(self) -> None:
        """Give the worker back; those who ask meanwhile wait for the same pause."""
        if self._resumed is not None:
            await self._resumed.wait()
            return
        self._resumed = resumed = asyncio.Event()
        try:
            await calls.give_way()
            self._done = 0.0
        finally:
            self._resumed = None
            resumed.set()


async def in_parts(work: Generator[None, None, T]) -> T:
    """What long work comes to, with a pause wherever it yields; a cancel meanwhile does not stop it."""
    task = asyncio.create_task(_in_parts(work))
    await all_ended([task])
    return task.result()


async def _in_parts(work: Generator[None, None, T]) -> T:
    pace = Pace()
    while True:
        try:
            next(work)
        except StopIteration as end:
            value: T = end.value
            return value
        await pace.pause()
