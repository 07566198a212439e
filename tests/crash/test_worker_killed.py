"""A worker is killed with SIGKILL at the worst moments, and another one is started."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from temporalio.client import WorkflowExecutionStatus

from tests.crash.checks import in_flight, lawful_finishes, report_of, sampled_budget, until_in_flight
from tests.crash.diary import Diary
from tests.crash.histories import finishes, repeated
from tests.crash.processes import Ground
from tests.crash.programs import labour, walks
from tests.support import World, wait_until

PROGRESS_SECONDS = 8.0
# Six for the heartbeat timeout of the steps that were lost, the rest for the retry's pause and the step itself.

Measured = Callable[[str], None]


async def test_worker_killed_in_a_phase_repeats_only_what_was_in_flight(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """No finished step begins again, those in flight keep their keys, and the run is under way again within 8 s."""
    run = await world.start("Phased", [labour(60, 0.8)], max_concurrency=20)
    worker = ground.worker()
    lost = await until_in_flight(diary, run, count=20, finished=20)
    worker.kill()
    before = {finish.key for finish in await finishes(run)}
    successor = ground.worker()
    report = await report_of(run)

    assert [outcome.success for outcome in report.outcomes] == [True] * 60
    finished = await lawful_finishes(diary, run)
    assert len(finished) == 60, f"{len(finished)} of 60 steps are in the history"
    under_way = min(finish.time for finish in finished if finish.key not in before) - successor.started
    measured(f"{len(before)} steps finished, {len(lost)} lost; under way {under_way:.2f} s after the new worker began")
    assert under_way < PROGRESS_SECONDS, f"the first step after the kill finished {under_way:.2f} s after the start"
    again = repeated(diary.work())
    assert sorted(again) == sorted(work.task_id for work in lost), f"repeated: {sorted(again)}"
    for task_id, attempts in again.items():
        assert [work.attempt for work in attempts] == [1, 2], f"attempts of {task_id!r}: {attempts}"
        assert len({work.key for work in attempts}) == 1, f"{task_id!r} was repeated with another key: {attempts}"


async def test_worker_killed_during_a_checkpointing_step_goes_on_from_the_checkpoint(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """No turn whose checkpoint was durable is paid for again, and the outcome's usage is what the agent paid."""
    turns, tokens = 12, 100
    run = await world.start("Phased", [walks(2, turns, 0.25, tokens)])
    worker = ground.worker()

    async def some_turns_kept() -> bool:
        kept = [turn.key for turn in diary.turns() if turn.kept]
        return len(set(kept)) == 2 and len(kept) >= 8

    await wait_until("eight turns of two steps are kept", some_turns_kept)
    worker.kill()
    kept = {(turn.key, turn.turn) for turn in diary.turns() if turn.kept}
    ground.worker()
    report = await report_of(run)

    finished = await lawful_finishes(diary, run)
    after = [turn for turn in diary.turns() if turn.attempt > 1]
    paid_again = [turn for turn in after if (turn.key, turn.turn) in kept]
    assert not paid_again, f"turns that were kept were paid for again: {paid_again}"
    assert all(outcome.attempts == 2 for outcome in report.outcomes), f"attempts: {report.outcomes}"
    keys = {finish.task_id: finish.key for finish in finished}
    for outcome in report.outcomes:
        paid = sum(turn.tokens for turn in diary.turns() if turn.key == keys[outcome.task_id])
        spent = outcome.usage.total_tokens
        measured(f"{outcome.task_id}: {spent} tokens in the outcome, {paid} paid by the agent, {turns * tokens} needed")
        assert turns * tokens <= spent <= paid <= spent + tokens, f"{outcome.task_id!r}: {spent} told, {paid} paid"


async def test_worker_killed_while_undoing_undoes_everything_once_in_reverse(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """Each compensation finishes exactly once, latest first; the one in flight is repeated with the same key."""
    run = await world.start("Undoing", {"count": 4, "seconds": 0.6})
    worker = ground.worker()

    async def undoing() -> bool:
        return [work.task_id for work in in_flight(diary)] == ["undo-2"]

    await wait_until("the second compensation is in flight", undoing)
    worker.kill()
    ground.worker()
    report = await report_of(run)

    reverse = [f"undo-{number}" for number in (3, 2, 1, 0)]
    assert list(report.undone) == [f"{name}:succeeded" for name in reverse]
    finished = [finish.task_id for finish in await lawful_finishes(diary, run)]
    assert finished == [*(f"do-{number}" for number in range(4)), *reverse], f"finished in the order {finished}"
    again = repeated(diary.work())
    measured(f"repeated: {sorted(again)}")
    assert [(work.task_id, work.attempt) for attempts in again.values() for work in attempts] == [
        ("undo-2", 1),
        ("undo-2", 2),
    ]
    assert len({work.key for work in again["undo-2"]}) == 1, f"repeated with another key: {again}"


async def test_worker_killed_twice_leaves_the_budget_exact(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """Through grants and top-ups: consumed equals the usage of all outcomes, nothing stays granted, no limit is passed.

    Twelve steps want 72,000 tokens of 60,000, so that some are topped up and some denied.
    """
    limit = 60_000
    run = await world.start("Phased", [walks(12, 6, 0.3, 1000)], max_concurrency=6, budget_tokens=limit)
    async with sampled_budget(run) as samples:
        for kills in (1, 2):
            worker = ground.worker()
            await wait_until(f"ten turns of worker {kills} are kept", partial(_has_taken, diary, worker.pid, 10))
            worker.kill()
        ground.worker()
        report = await report_of(run)

    await lawful_finishes(diary, run)
    budget = report.budget
    usage = sum(outcome.usage.total_tokens for outcome in report.outcomes)
    paid = sum(turn.tokens for turn in diary.turns())
    highest = max(sample.consumed_tokens + sample.granted_tokens for sample in samples)
    statuses = sorted(outcome.status for outcome in report.outcomes)
    measured(
        f"{usage:,} tokens used, {paid:,} paid by agents, at most {highest:,} of {limit:,} consumed or granted "
        f"in {len(samples)} samples; {statuses.count('ok')} steps ok, {statuses.count('budget_exceeded')} denied"
    )
    assert set(statuses) == {"ok", "budget_exceeded"}, f"ends of the steps: {statuses}"
    assert (budget.consumed_tokens, budget.granted_tokens) == (usage, 0)
    assert highest <= limit, f"{highest:,} tokens were consumed or granted, and the limit is {limit:,}"
    assert usage <= limit, f"{usage:,} tokens were used, and the limit is {limit:,}"
    killed_in_flight = len({(turn.key, turn.attempt) for turn in diary.turns() if not turn.kept})
    assert usage <= paid <= usage + 1000 * killed_in_flight, f"{usage:,} tokens told, {paid:,} paid"


async def _has_taken(diary: Diary, pid: int, count: int) -> bool:
    """Whether a worker has taken so many turns."""
    own = {(work.key, work.attempt) for work in diary.work() if work.pid == pid}
    return len([turn for turn in diary.turns() if turn.kept and (turn.key, turn.attempt) in own]) >= count


async def test_run_cancelled_while_its_worker_is_dead_is_cancelled_by_the_next(
    world: World, ground: Ground, diary: Diary, measured: Measured
) -> None:
    """The run ends Canceled, the steps that were in flight end with it, and no other step begins."""
    run = await world.start("Phased", [labour(12, 1.0)], max_concurrency=4)
    worker = ground.worker()
    await until_in_flight(diary, run, count=4, finished=4)
    worker.kill()
    before = diary.work()
    await run.cancel()
    successor = ground.worker()

    async def has_ended() -> bool:
        return (await run.describe()).status is not WorkflowExecutionStatus.RUNNING

    await wait_until("the run has ended", has_ended)
    description = await run.describe()
    ended, closed = description.status, description.close_time
    assert ended is not None
    assert closed is not None
    measured(f"ended {ended.name} {closed.timestamp() - successor.started:.2f} s after the new worker began")
    assert ended is WorkflowExecutionStatus.CANCELED, f"the run ended {ended.name}"
    begun = [work for work in diary.work() if work not in before]
    assert not begun, f"steps began after the cancel: {begun}"
    await lawful_finishes(diary, run)
