"""What every test here asks: is it the right moment, has the run ended well, are the laws kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio.client import WorkflowHandle
from temporalio.service import RPCError

from tests.crash.diary import Diary, Work
from tests.crash.histories import Finish, finished_twice, finishes, started_again
from tests.crash.programs import Report
from tests.support import wait_until
from workflows import BudgetSnapshot

RESULT_SECONDS = 90.0
# A step that is lost comes back after six seconds, and some tests lose several in a row.

QUIET_SECONDS = 0.25
# Since the last step began: its workflow task has long been answered, so that only steps are in flight.


async def report_of(handle: WorkflowHandle[Any, Any], seconds: float = RESULT_SECONDS) -> Report:
    """The result of a run, within a limit."""
    return Report.model_validate(await asyncio.wait_for(handle.result(), seconds))


async def until_in_flight(
    diary: Diary, handle: WorkflowHandle[Any, Any], *, count: int, finished: int = 0, quiet: float = QUIET_SECONDS
) -> list[Work]:
    """The steps in flight, once so many are and so many others have finished, and nothing else is going on."""

    async def holds() -> list[Work]:
        flying = in_flight(diary)
        is_quiet = bool(flying) and max(work.started for work in flying) < time.time() - quiet
        enough = len(flying) == count and is_quiet and len(await finishes(handle)) >= finished
        return flying if enough else []

    return await wait_until(f"{count} steps in flight and {finished} finished", holds)


@asynccontextmanager
async def sampled_budget(run: WorkflowHandle[Any, Any]) -> AsyncIterator[list[BudgetSnapshot]]:
    """Snapshots of a run's budget, taken all the while; none can be had while no worker lives."""
    samples: list[BudgetSnapshot] = []

    async def sample() -> None:
        while True:
            try:
                told = await run.query("budget", rpc_timeout=timedelta(seconds=1))
                samples.append(BudgetSnapshot.model_validate(told))
            except RPCError:
                continue  # its worker is dead; the next one will answer
            await asyncio.sleep(0.1)

    sampler = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        sampler.cancel()
        ended = await asyncio.gather(sampler, return_exceptions=True)
        assert isinstance(ended[0], asyncio.CancelledError), f"sampling the budget failed: {ended[0]!r}"


def in_flight(diary: Diary) -> list[Work]:
    """Attempts that have begun and not ended, as far as the agents know."""
    return [work for work in diary.work() if work.finished is None]


async def lawful_finishes(diary: Diary, handle: WorkflowHandle[Any, Any]) -> Sequence[Finish]:
    """The finished steps of a run, after checking that none of them began again or finished twice."""
    finished, work = await finishes(handle), diary.work()
    again = started_again(work, finished)
    assert not again, f"{len(again)} of {len(finished)} finished steps were started again: {again}"
    twice = finished_twice(finished)
    assert not twice, f"{len(twice)} of {len(finished)} steps finished twice: {twice}"
    for key in {each.key for each in work}:
        ids = {each.task_id for each in work if each.key == key}
        assert len(ids) == 1, f"the key {key!r} was given to several steps: {sorted(ids)}"
    return finished
