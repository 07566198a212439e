"""Workers are killed at random, over runs of every verb.

`make crash KILLS=200` is the long version; SEED=n repeats the choice of victims and moments, as far as the machine
allows.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from tests.crash.checks import lawful_finishes, report_of
from tests.crash.diary import Diary
from tests.crash.processes import Ground
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
        await _until_steps_begin(diary, chance.randint(*STEPS_BETWEEN_KILLS))
        workers.pop(chance.randrange(WORKERS)).kill()
        workers.append(ground.worker())
    for run in runs:
        await _whole(run, diary)
    again = sum(len(attempts) - 1 for attempts in _by_key(diary).values())
    measured(f"seed {SEED}: {KILLS} kills over {len(runs)} runs, {len(_by_key(diary))} steps; {again} were repeated")


async def _open(runs: list[WorkflowHandle[Any, Any]]) -> list[WorkflowHandle[Any, Any]]:
    return [run for run in runs if (await run.describe()).status is WorkflowExecutionStatus.RUNNING]


async def _until_steps_begin(diary: Diary, count: int) -> None:
    goal = len(diary.work()) + count

    async def begun() -> bool:
        return len(diary.work()) >= goal

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
