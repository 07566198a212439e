"""Ten thousand steps in one call, of two workers, one of which is killed in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from tests.crash.diary import Diary
from tests.crash.histories import repeated
from tests.crash.processes import Ground
from tests.support import World, wait_until

STEPS, SLOTS = 10_000, 50
STEP_SECONDS = 0.2
# As long as makes a killed worker leave most of its slots' steps unfinished.
MOST_EVENTS, MOST_BYTES = 400, 2_000_000
# Of the root's history: what a fan-out of this size may leave there.

HALF_SECONDS = 300.0
# To the middle, and from there to the end; all of it takes 80 s on two idle cores.
LIMIT_SECONDS = 2 * HALF_SECONDS + 60


@pytest.mark.timeout(LIMIT_SECONDS)
async def test_ten_thousand_steps_of_one_call_survive_the_kill_of_a_worker_in_a_small_history(
    world: World, ground: Ground, diary: Diary, measured: Callable[[str], None]
) -> None:
    """Each step has ended once, in its place; what the killed worker had in flight was repeated with the same key."""
    lost, _ = [ground.worker(PERDURE_MAX_CONCURRENT_STEPS=str(SLOTS)) for _ in range(2)]
    run = await world.start("Wide", {"count": STEPS, "seconds": STEP_SECONDS}, max_concurrency=2 * SLOTS)
    await wait_until("half of the steps have begun", partial(_have_begun, diary, STEPS // 2), HALF_SECONDS)
    lost.kill()
    succeeded = await asyncio.wait_for(run.result(), HALF_SECONDS)

    root = (await run.describe()).raw_description.workflow_execution_info
    again = repeated(diary.work())
    measured(
        f"{root.history_length} events and {root.history_size_bytes:,} bytes at the root; {len(again)} steps repeated"
    )
    assert succeeded == [f"s{number}" for number in range(STEPS)]
    assert root.history_length < MOST_EVENTS
    assert root.history_size_bytes < MOST_BYTES
    assert len({work.key for work in diary.work()}) == STEPS, "steps have had other keys when they were repeated"
    assert 0 < len(again) <= SLOTS, "none was lost, or more than the killed worker had in flight"
    assert all(attempts[0].pid == lost.pid for attempts in again.values()), "others than the lost steps were repeated"


async def _have_begun(diary: Diary, count: int) -> bool:
    return len(diary.work()) >= count
