"""A worker is told to leave, or stands still: nothing is lost and nothing is counted twice."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tests.crash.checks import in_flight, lawful_finishes, report_of, until_in_flight
from tests.crash.diary import Diary
from tests.crash.histories import finishes, repeated
from tests.crash.processes import Ground
from tests.crash.programs import labour
from tests.support import World, wait_until

Measured = Callable[[str], None]


async def test_worker_told_to_leave_finishes_its_steps_and_exits_0(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """SIGTERM drains: the steps in flight end, the process exits 0, and the next worker repeats none of them."""
    run = await world.start("Phased", [labour(6, 1.0), labour(2, 0.1, "later-")], max_concurrency=6)
    worker = ground.worker()
    draining = await until_in_flight(diary, run, count=6)
    worker.signal(signal.SIGTERM)
    code = await worker.ended()
    assert code == 0, f"the worker exited {code}: {worker.said()}"
    assert in_flight(diary) == [], "the worker left steps behind"
    drained = await finishes(run)
    measured(f"{len(drained)} of {len(draining)} steps in flight finished while the worker drained")
    assert sorted(finish.key for finish in drained) == sorted(work.key for work in draining)

    ground.worker()
    report = await report_of(run)
    assert [outcome.success for outcome in report.outcomes] == [True] * 8
    assert repeated(diary.work()) == {}, "steps were repeated"
    await lawful_finishes(diary, run)


async def test_worker_that_stands_still_loses_its_step_and_its_late_answer_changes_nothing(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """SIGSTOP past the heartbeat timeout: the step is repeated elsewhere with its key, and only that answer counts."""
    run = await world.start("Phased", [labour(1, 1.5), labour(1, 5.0, "after-")])
    # With one slot it asks for no second step: the server would give the repeated one to a process that stands still.
    frozen = ground.worker(PERDURE_MAX_CONCURRENT_STEPS="1")
    await until_in_flight(diary, run, count=1)
    frozen.signal(signal.SIGSTOP)
    other = ground.worker()

    async def answered_elsewhere() -> bool:
        return [finish.task_id for finish in await finishes(run)] == ["s0"]

    await wait_until("another worker has finished the step", answered_elsewhere)
    frozen.signal(signal.SIGCONT)

    async def late_work_done() -> bool:
        return all(work.finished is not None for work in diary.work() if work.task_id == "s0")

    await wait_until("the worker that stood still has done the step too", late_work_done)
    after = [work for work in diary.work() if work.task_id == "after-0"]  # it may not even have begun
    assert all(work.finished is None for work in after), "the late answer came after the run's end"
    report = await report_of(run)

    first, second = [work for work in diary.work() if work.task_id == "s0"]
    assert first.finished is not None
    assert second.finished is not None
    assert [(work.attempt, work.pid) for work in (first, second)] == [(1, frozen.pid), (2, other.pid)]
    assert first.key == second.key
    measured(
        f"repeated after {second.started - first.started:.2f} s; the late answer came "
        f"{first.finished - second.finished:.2f} s after the one that counts"
    )
    assert first.finished > second.finished, "the worker stood still for too short a time"
    assert report.outcomes[0].output == f"s0 done by process {other.pid}"
    assert report.outcomes[0].attempts == 2
    assert [finish.task_id for finish in await lawful_finishes(diary, run)] == ["s0", "after-0"]
