"""Workers are killed at random, or cut off for a while, over runs of every verb and of graphs.

`make crash KILLS=200` is the long version; SEED=n repeats the choice of victims and moments, as far as the machine
allows.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from typing import Any

from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from tests.crash import graphs
from tests.crash.agents import Gates
from tests.crash.checks import RESULT_SECONDS, lawful_finishes, report_of
from tests.crash.diary import Diary
from tests.crash.graph_runs import Ending, ending_of, lawful_course
from tests.crash.processes import Ground, Process
from tests.crash.programs import EVERY_VERB_OUTCOMES
from tests.support import World, wait_until

KILLS = int(os.environ.get("KILLS", "3"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1, 1_000_000)

WORKERS = 2
OPEN_RUNS = 3
STEP_SECONDS = 0.4
STEPS_BETWEEN_KILLS = (1, 15)
# Counted in steps that begin, so that every kill comes while something is going on.


async def test_workers_killed_at_random_leave_every_run_whole(
    world: World, ground: Ground, diary: Diary, measured: Callable[[str], None]
) -> None:
    """Every verb returns what it returns undisturbed, and no finished step ever begins again."""
    chance = random.Random(SEED)
    workers = [ground.worker() for _ in range(WORKERS)]
    runs: list[WorkflowHandle[Any, Any]] = []
    for _ in range(KILLS):
        while len(await _open(runs)) < OPEN_RUNS:
            runs.append(await world.start("EveryVerb", STEP_SECONDS))
        await _until_steps_begin(diary, chance.randint(*STEPS_BETWEEN_KILLS), runs)
        workers.pop(chance.randrange(WORKERS)).kill()
        workers.append(ground.worker())
    for run in runs:
        await _whole(run, diary)
    again = sum(len(attempts) - 1 for attempts in _by_key(diary).values())
    measured(f"seed {SEED}: {KILLS} kills over {len(runs)} runs, {len(_by_key(diary))} steps; {again} were repeated")


GRAPHS: dict[str, dict[str, Any]] = {
    **{kind: graph for kind, (graph, _) in graphs.PATTERNS.items()},
    "compensation": graphs.FAILING,
    "for_each": {**graphs.FOR_EACH, "initial_state": {"items": graphs.ITEMS[:24]}},
}
"""What the storm runs: four patterns, a saga of seven undoings, and items side by side."""

CUT_OFF_SHARE = 0.25
# Of the victims are stopped and come back later, as if their network had been away: what they then say is too late.


async def test_storm_over_graphs_leaves_every_ending_as_it_would_be(
    world: World, ground: Ground, diary: Diary, measured: Callable[[str], None]
) -> None:
    """Patterns, a saga and a for_each end as undisturbed; nothing finished begins again; every undoing happens once."""
    chance = random.Random(SEED)
    workers = [ground.worker() for _ in range(WORKERS)]
    expected = {kind: await _ending(await _begun(world, kind)) for kind in GRAPHS}
    Gates(ground.folder).slow(STEP_SECONDS)
    runs: list[tuple[str, WorkflowHandle[Any, Any]]] = []
    cut_off: list[Process] = []
    for number in range(KILLS):
        while len(await _open([run for _, run in runs])) < OPEN_RUNS:
            kind = list(GRAPHS)[len(runs) % len(GRAPHS)]
            runs.append((kind, await _begun(world, kind)))
        await _until_steps_begin(diary, chance.randint(*STEPS_BETWEEN_KILLS), [run for _, run in runs])
        victim = workers.pop(chance.randrange(WORKERS))
        if number % round(1 / CUT_OFF_SHARE) == 1:
            victim.signal(signal.SIGSTOP)
            cut_off.append(victim)
        else:
            victim.kill()
        workers.append(ground.worker())
    for victim in cut_off:
        victim.signal(signal.SIGCONT)
    again = 0
    for kind, run in runs:
        ending = await _ending(run)
        assert _but_for_lost_attempts(ending.result) == _but_for_lost_attempts(expected[kind].result), (
            f"seed {SEED}: {kind}"
        )
        assert ending.failure == expected[kind].failure, f"seed {SEED}: {kind}"
        again += sum(len(attempts) - 1 for attempts in (await lawful_course(run, diary)).again.values())
    measured(f"seed {SEED}: {KILLS} victims, {len(cut_off)} of them cut off, over {len(runs)} runs; {again} repeated")


async def _begun(world: World, kind: str) -> WorkflowHandle[Any, Any]:
    return await world.start("StageGraph", GRAPHS[kind], max_concurrency=graphs.WIDTH)


async def _ending(run: WorkflowHandle[Any, Any]) -> Ending:
    async with asyncio.timeout(RESULT_SECONDS):
        return await ending_of(run)


def _but_for_lost_attempts(result: Any) -> Any:
    """A result without the count of attempts: an attempt that lost its worker is one more."""
    if isinstance(result, dict):
        return {key: _but_for_lost_attempts(item) for key, item in result.items() if key != "retries"}
    return [_but_for_lost_attempts(item) for item in result] if isinstance(result, list) else result


async def _open(runs: list[WorkflowHandle[Any, Any]]) -> list[WorkflowHandle[Any, Any]]:
    return [run for run in runs if (await run.describe()).status is WorkflowExecutionStatus.RUNNING]


async def _until_steps_begin(diary: Diary, count: int, runs: list[WorkflowHandle[Any, Any]]) -> None:
    """Return when so many more steps have begun, or the runs have no more to begin."""
    goal = len(diary.work()) + count

    async def begun() -> bool:
        return len(diary.work()) >= goal or not await _open(runs)

    await wait_until(f"{count} more steps have begun (seed {SEED})", begun)


def _by_key(diary: Diary) -> dict[str, list[int]]:
    attempts: dict[str, list[int]] = {}
    for work in diary.work():
        attempts.setdefault(work.key, []).append(work.attempt)
    return attempts


async def _whole(run: WorkflowHandle[Any, Any], diary: Diary) -> None:
    """The run ended as if nothing had happened."""
    report = await report_of(run)
    assert tuple(outcome.task_id for outcome in report.outcomes) == EVERY_VERB_OUTCOMES, f"seed {SEED}"
    failed = [outcome for outcome in report.outcomes if not outcome.success]
    assert not failed, f"seed {SEED}: steps failed: {failed}"
    assert report.undone == ("undo:succeeded",), f"seed {SEED}"
    usage = sum(outcome.usage.total_tokens for outcome in report.outcomes)
    assert (report.budget.consumed_tokens, report.budget.granted_tokens) == (usage, 0), f"seed {SEED}"
    await lawful_finishes(diary, run)
