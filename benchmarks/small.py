"""Many small runs: how many a second one worker and one client bring to their end."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Callable

from temporalio.client import Client

from benchmarks.by_hand import SequenceByHand
from benchmarks.by_verbs import Sequence as Row
from benchmarks.by_verbs import specs
from benchmarks.measure import TASK_QUEUE, Ratio
from benchmarks.results import Result
from benchmarks.rows import WALL

RUNS, STEPS = 200, 3
AT_ONCE = 20
# Of the runs that are open: enough that the worker never waits for the client.


async def measure(client: Client, pairs: int, tell: Callable[[str], None]) -> list[Result]:
    """Runs a second by verbs beside those by hand; a worker of this process serves both."""
    rates: dict[type, list[float]] = {Row: [], SequenceByHand: []}
    for number in range(pairs):
        for side in (Row, SequenceByHand)[:: -1 if number % 2 else 1]:
            rates[side].append(await _rate(client, side))
        verbs, hand = (rates[side][-1] for side in (Row, SequenceByHand))
        tell(f"runs a second, pair {number + 1} of {pairs}: {verbs:.1f} by verbs, {hand:.1f} by hand")
    ratio, least = Ratio.of(rates[Row], rates[SequenceByHand]), 1 / WALL
    verbs, hand = (statistics.median(rates[side]) for side in (Row, SequenceByHand))
    case, is_met = f"{RUNS} runs of {STEPS} steps, {AT_ONCE} at once", ratio.median >= least
    return [Result(case, "runs a second", f">= {least:.2f}", str(ratio), f"{verbs:.1f}", f"{hand:.1f}", is_met)]


async def _rate(client: Client, side: type) -> float:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with slots:
            outcomes = await client.execute_workflow(
                side.__name__, args=[list(specs(STEPS)), 1], id=f"small-{uuid.uuid4()}", task_queue=TASK_QUEUE
            )
        if len(outcomes) != STEPS or not all(outcome["success"] for outcome in outcomes):
            raise AssertionError(f"{STEPS} steps should succeed, and the result is {outcomes!r}")

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(RUNS)))
    return RUNS / (time.perf_counter() - begun)
