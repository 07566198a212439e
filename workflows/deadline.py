"""The one way to put a limit on work, and the one way to wait for its end.

Law: the timer decides, never what the cancelled work returns; and a cancel of the caller is never lost, also when it
arrives while something is being ended. A failed step is data here, so `asyncio.wait_for` around one never raises: the
cancelled step returns an outcome like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from temporalio import workflow

T = TypeVar("T")

LONGEST = timedelta(days=36_500)
# Temporal holds durations in 64 bits of nanoseconds, and dates end with the year 9999: a longer limit would keep the
# run's workflow task failing.

TICKS_OF_A_COMPLETION = 8
# Turns of the event loop that a completion needs to reach the task which waits for it, and two to spare. A completion
# and a cancel may arrive in one activation; cancelling at once would throw the result, and the usage in it, away.


@dataclass(frozen=True)
class Finished(Generic[T]):
    """The work ended before its deadline."""

    value: T


@dataclass(frozen=True)
class TimedOut(Generic[T]):
    """The deadline came first. `left` is what the cancelled work still returned, if it returned."""

    left: T | None


def milliseconds(count: int) -> timedelta:
    """A limit as a definition writes it; a hundred years where it is longer."""
    return timedelta(milliseconds=min(count, LONGEST // timedelta(milliseconds=1)))


async def within(work: Coroutine[Any, Any, T], limit: timedelta | None) -> Finished[T] | TimedOut[T]:
    """Run work until it ends or its deadline comes; no limit is no timer in the history, one that has passed no work.

    Raises what the work raises before its deadline, and CancelledError, after the work has ended, when the caller
    is cancelled.
    """
    if limit is not None and limit <= timedelta(0):
        work.close()
        return TimedOut(None)
    task = asyncio.create_task(work)
    seconds = None if limit is None else limit.total_seconds()
    try:
        in_time, _ = await workflow.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        await cancel_all([task])
        raise
    if in_time:
        return Finished(task.result())
    if await cancel_all([task]):
        raise asyncio.CancelledError
    failed = task.cancelled() or task.exception() is not None
    return TimedOut(None if failed else task.result())


async def first_of(answer: asyncio.Future[Any], limit: timedelta | None, summary: str) -> bool:
    """Wait for an answer or its deadline, whichever is first; whether there is an answer.

    No limit is no timer in the history; the Temporal UI shows the `summary` beside one. Raises CancelledError when the
    caller is cancelled.
    """
    with suppress(asyncio.TimeoutError):
        await workflow.wait_condition(answer.done, timeout=limit, timeout_summary=summary)
    return answer.done()  # one that was accepted in the deadline's own activation counts


async def cancel_all(tasks: Sequence[asyncio.Task[Any]]) -> bool:
    """Cancel tasks and return when all of them have ended; whether the caller was cancelled meanwhile.

    A completion that is on its way is let through first.
    """
    interrupted = False
    for _ in range(TICKS_OF_A_COMPLETION):
        if all(task.done() for task in tasks):
            return interrupted
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            interrupted = True
    for task in tasks:
        task.cancel()
    return await all_ended(tasks) or interrupted


async def all_ended(tasks: Sequence[asyncio.Task[Any]]) -> bool:
    """Return when all tasks have ended; whether the caller was cancelled meanwhile.

    The caller decides what such a cancel means to it. An eviction ends the tasks, and so this.
    """
    interrupted = False
    while pending := [task for task in tasks if not task.done()]:
        try:
            await workflow.wait(pending)
        except asyncio.CancelledError:
            interrupted = True
    return interrupted
