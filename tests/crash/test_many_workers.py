"""Eight workers on one machine: some are killed, some told to leave, and no finished step begins again."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from tests.crash.checks import in_flight, lawful_finishes, report_of
from tests.crash.diary import Diary
from tests.crash.histories import repeated
from tests.crash.processes import Ground, Process
from tests.crash.programs import labour
from tests.support import World, wait_until

Measured = Callable[[str], None]

WORKERS = 8
SLOTS = 4
# Of each worker: so few that what a test starts fills them all, and every worker takes part.
SMALL = {"PERDURE_MAX_CONCURRENT_STEPS": str(SLOTS), "PERDURE_MAX_POLLERS": "2"}

START_SECONDS = 60.0
# Eight interpreters load the SDK at once, on as few as two processors.

WALL_SECONDS = 60.0
# From the first kill to the end of the last run; a lost step comes back after six.


async def test_many_workers_share_a_fan_out_and_lose_nothing_when_some_are_killed_and_some_leave(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """Eight take part; two are killed in the middle and two drain, and every step ends once with its first key."""
    workers = [ground.worker(**SMALL) for _ in range(WORKERS)]
    run = await world.start("Phased", [labour(120, 0.5)], max_concurrency=WORKERS * SLOTS)
    await wait_until("every worker has steps", partial(_all_take_part, diary, workers), START_SECONDS)
    began = time.time()
    killed, leaving = workers[:2], workers[2:4]
    lost = [work for work in in_flight(diary) if work.pid in _pids(killed)]
    for worker in killed:
        worker.kill()
    for worker in leaving:
        worker.signal(signal.SIGTERM)
    codes = [await worker.ended() for worker in leaving]
    left = [work for work in in_flight(diary) if work.pid in _pids(leaving)]
    report = await report_of(run)
    wall = time.time() - began

    assert codes == [0, 0], f"the workers that were told to leave exited {codes}"
    assert left == [], f"the workers that were told to leave left steps behind: {left}"
    assert [outcome.output.split(" ")[0] for outcome in report.outcomes] == [f"s{n}" for n in range(120)]
    assert all(outcome.success for outcome in report.outcomes), "steps failed"
    finished = await lawful_finishes(diary, run)
    by_worker = Counter(int(finish.identity.split("@")[0]) for finish in finished)
    again = repeated(diary.work())
    measured(
        f"{wall:.1f} s after the kills; {len(lost)} steps were in flight there, {len(again)} were repeated; "
        f"steps by worker: {sorted(by_worker.values())}"
    )
    assert set(again) <= {work.task_id for work in diary.work() if work.pid in _pids(killed)}, "others were repeated"
    assert set(by_worker) >= _pids(workers[2:]), "not every worker that lived on took part"
    assert wall < WALL_SECONDS


def _pids(workers: Iterable[Process]) -> set[int]:
    return {worker.pid for worker in workers}


async def _all_take_part(diary: Diary, workers: list[Process]) -> bool:
    return _pids(workers) <= {work.pid for work in in_flight(diary)}
