"""Many at once: a sliding window over work, with a barrier at its end.

A slot that falls free takes the next piece of work at once; nothing waits for a batch. Results keep the order of the
input.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

from temporalio import workflow

from workflows.deadline import cancel_all

Item = TypeVar("Item")
Result = TypeVar("Result")


async def sliding_window(items: Sequence[Item], width: int, work: Callable[[Item], Awaitable[Result]]) -> list[Result]:
    """The result of `work` for each item, at most `width` at a time.

    When the caller is cancelled, or one piece of work raises, no further item is begun, what is in flight is cancelled
    and awaited, and then it is raised: the error, where there is one, before a cancel.
    """
    waiting = iter(enumerate(items))
    results: list[Result | None] = [None] * len(items)
    halted = False

    async def pull() -> None:
        # One iterator is shared: whoever is free takes the next item.
        for position, item in waiting:
            results[position] = await work(item)
            if halted:
                return

    pullers = [asyncio.create_task(pull()) for _ in range(min(width, len(items)))]
    if not pullers:
        return []
    interrupted = False
    try:
        await workflow.wait(pullers, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        interrupted = True
    if not all(puller.done() for puller in pullers):
        halted = True  # for work that still ends well although it was cancelled
        interrupted = await cancel_all(pullers) or interrupted
    _raise_first(pullers, interrupted)
    return cast(list[Result], results)


def _raise_first(pullers: Sequence[asyncio.Task[None]], interrupted: bool) -> None:
    """What a piece of work raised; CancelledError where nothing did, and something was cancelled."""
    for puller in pullers:
        error = None if puller.cancelled() else puller.exception()
        if error is not None:
            raise error
    if interrupted or any(puller.cancelled() for puller in pullers):
        raise asyncio.CancelledError
