"""Workers are killed at random, or cut off for a while, over runs of every verb and of graphs.

`KILLS=100 RUNS=250 make crash` is the long version: so many kills and runs in each of the two storms. SEED=n repeats
the choice of victims and moments, as far as the machine allows.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from tests.crash import graphs
from tests.crash.agents import Gates
from tests.crash.checks import RESULT_SECONDS, lawful_finishes, report_of
from tests.crash.diary import Diary
from tests.crash.graph_runs import Ending, ending_of, lawful_course
from tests.crash.processes import Ground, Process
from tests.crash.programs import EVERY_VERB_OUTCOMES
from tests.support import World, wait_until

Run = WorkflowHandle[Any, Any]

KILLS = int(os.environ.get("KILLS", "3"))
RUNS = int(os.environ.get("RUNS", "0"))
"""At least so many, spread over the kills."""
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1, 1_000_000)

WORKERS = 2
OPEN_RUNS = 3
# At least, at every kill.
STORM_SECONDS = 300 + 15 * KILLS + 3 * RUNS
# A worker takes some seconds to start, and a run on a busy machine as long to be looked through at the end.
STEP_SECONDS = 0.4
STEPS_BETWEEN_KILLS = (1, 15)
# Counted in steps that begin, so that every kill comes while something is going on.


class Runs:
    """What the workers of a storm carry."""

    def __init__(self) -> None:
        self.all: list[Run] = []
        self._open: list[Run] = []

    async def fill(self, kill: int, start: Callable[[], Awaitable[Run]]) -> None:
        """Start what has to be open, or to have been begun, at this kill."""
        least = RUNS * (kill + 1) // KILLS
        while len(self.all) < least or len(await self.open()) < OPEN_RUNS:
            self.all.append(await start())
            self._open.append(self.all[-1])

    async def open(self) -> list[Run]:
        """Those that have not ended."""
        self._open = [run for run in self._open if (await run.describe()).status is WorkflowExecutionStatus.RUNNING]
        return self._open


@pytest.mark.timeout(STORM_SECONDS)
async def test_workers_killed_at_random_leave_every_run_whole(
    world: World, ground: Ground, diary: Diary, measured: Callable[[str], None]
) -> None:
    """Every verb returns what it returns undisturbed, and no finished step ever begins again."""
    chance = random.Random(SEED)
    workers = [ground.worker() for _ in range(WORKERS)]
    runs = Runs()
    for number in range(KILLS):
        await runs.fill(number, lambda: world.start("EveryVerb", STEP_SECONDS))
        await _until_steps_begin(diary, chance.randint(*STEPS_BETWEEN_KILLS), runs)
        workers.pop(chance.randrange(WORKERS)).kill()
        workers.append(ground.worker())
    for run in runs.all:
        await _whole(run, diary)
    again = sum(len(attempts) - 1 for attempts in _by_key(diary).values())
    measured(
        f"seed {SEED}: {KILLS} kills over {len(runs.all)} runs, {len(_by_key(diary))} steps; {again} were repeated"
    )


GRAPHS: dict[str, dict[str, Any]] = {
    **{kind: graph for kind, (graph, _) in graphs.PATTERNS.items()},
    "compensation": graphs.FAILING,
    "for_each": {**graphs.FOR_EACH, "initial_state": {"items": graphs.ITEMS[:24]}},
}
"""What the storm runs: four patterns, a saga of seven undoings, and items side by side."""

CUT_OFF_SHARE = 0.25
# Of the victims are stopped and come back later, as if their network had been away: what they then say is too late.


@pytest.mark.timeout(STORM_SECONDS)
async def test_storm_over_graphs_leaves_every_ending_as_it_would_be(
    world: World, ground: Ground, diary: Diary, measured: Callable[[str], None]
) -> None:
    """Patterns, a saga and a for_each end as undisturbed; nothing finished begins again; every undoing happens once."""
    chance = random.Random(SEED)
    workers = [ground.worker() for _ in range(WORKERS)]
    expected = {kind: await _ending(await _begun(world, kind)) for kind in GRAPHS}
    Gates(ground.folder).slow(STEP_SECONDS)
    runs, kinds = Runs(), cycle(GRAPHS)
    cut_off: list[Process] = []
    for number in range(KILLS):
        await runs.fill(number, lambda: _begun(world, next(kinds)))
        await _until_steps_begin(diary, chance.randint(*STEPS_BETWEEN_KILLS), runs)
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
    for kind, run in zip(cycle(GRAPHS), runs.all):
        ending = await _ending(run)
        assert _but_for_lost_attempts(ending.result) == _but_for_lost_attempts(expected[kind].result), (
            f"seed {SEED}: {kind}"
        )
        assert ending.failure == expected[kind].failure, f"seed {SEED}: {kind}"
        again += sum(len(attempts) - 1 for attempts in (await lawful_course(run, diary)).again.values())
    measured(
        f"seed {SEED}: {KILLS} victims, {len(cut_off)} of them cut off, over {len(runs.all)} runs; {again} repeated"
    )


async def _begun(world: World, kind: str) -> Run:
    return await world.start("StageGraph", GRAPHS[kind], max_concurrency=graphs.WIDTH)


async def _ending(run: Run) -> Ending:
    async with asyncio.timeout(RESULT_SECONDS):
        return await ending_of(run)


def _but_for_lost_attempts(result: Any) -> Any:
    """A result without the count of attempts: an attempt that lost its worker is one more."""
    if isinstance(result, dict):
        return {key: _but_for_lost_attempts(item) for key, item in result.items() if key != "retries"}
    return [_but_for_lost_attempts(item) for item in result] if isinstance(result, list) else result


async def _until_steps_begin(diary: Diary, count: int, runs: Runs) -> None:
    """Return when so many more steps have begun, or the runs have no more to begin."""
    goal = len(diary.work()) + count

    async def begun() -> bool:
        return len(diary.work()) >= goal or not await runs.open()

    await wait_until(f"{count} more steps have begun (seed {SEED})", begun)


def _by_key(diary: Diary) -> dict[str, list[int]]:
    attempts: dict[str, list[int]] = {}
    for work in diary.work():
        attempts.setdefault(work.key, []).append(work.attempt)
    return attempts


async def _whole(run: Run, diary: Diary) -> None:
    """The run ended as if nothing had happened."""
    report = await report_of(run)
    assert tuple(outcome.task_id for outcome in report.outcomes) == EVERY_VERB_OUTCOMES, f"seed {SEED}"
    failed = [outcome for outcome in report.outcomes if not outcome.success]
    assert not failed, f"seed {SEED}: steps failed: {failed}"
    assert report.undone == ("undo:succeeded",), f"seed {SEED}"
    usage = sum(outcome.usage.total_tokens for outcome in report.outcomes)
    assert (report.budget.consumed_tokens, report.budget.granted_tokens) == (usage, 0), f"seed {SEED}"
    await lawful_finishes(diary, run)
