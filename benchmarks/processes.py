"""Workers as processes: how long one takes to start, and how soon the steps of a killed one go on elsewhere."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import PendingActivityState, TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowHandle

from benchmarks.by_hand import FanOutByHand
from benchmarks.by_verbs import FanOut
from benchmarks.results import NO_TARGET, Result
from tests.crash.processes import ROOT, Process
from workflows import AgentStepSpec, wire

STARTS, KILLS = 5, 3
SLOTS, STEP_SECONDS = 10, 2.0
# Of a worker, and of a step of the run whose worker is killed: every slot of both is taken then.
RECOVERY_SECONDS = 8.0
# From the kill until a step that was in flight there runs elsewhere: heartbeats have to stay away for six.
LIMIT_SECONDS = 60.0
LOOK_SECONDS = 0.05

AGENTS = f"""
[agents.echo]
executor = "echo"

[agents.slow]
executor = "echo"
delay_seconds = {STEP_SECONDS}
"""


async def measure(client: Client, address: str, folder: Path, tell: Callable[[str], None]) -> list[Result]:
    """Start workers, and kill some."""
    agents = folder / "processes.toml"
    agents.write_text(AGENTS)
    ground = _Ground(client, address, folder, agents)
    starts: dict[bool, list[float]] = {True: [], False: []}
    for number in range(STARTS):
        for is_ours in (True, False)[:: -1 if number % 2 else 1]:
            starts[is_ours].append(await _start(ground, is_ours))
        tell(f"worker start {number + 1} of {STARTS}: {starts[True][-1]:.2f} s, by hand {starts[False][-1]:.2f} s")
    recoveries: dict[type, list[float]] = {FanOut: [], FanOutByHand: []}
    for number in range(KILLS):
        for side in (FanOut, FanOutByHand):
            recoveries[side].append(await _recovery(ground, side))
        verbs, hand = (recoveries[side][-1] for side in (FanOut, FanOutByHand))
        tell(f"kill {number + 1} of {KILLS}: steps go on after {verbs:.2f} s by verbs, {hand:.2f} s by hand")
    return [_of_starts(starts), _of_kills(recoveries)]


def _of_starts(starts: dict[bool, list[float]]) -> Result:
    verbs, hand = (f"{statistics.median(starts[is_ours]):.2f}" for is_ours in (True, False))
    what = "seconds to the end of the first step"
    return Result("Worker, from nothing", what, NO_TARGET, verbs, verbs, hand, is_met=True)


def _of_kills(recoveries: dict[type, list[float]]) -> Result:
    verbs, hand = (_range(recoveries[side]) for side in (FanOut, FanOutByHand))
    case, what = "One of two workers is killed", "seconds until its steps go on"
    is_met = max(recoveries[FanOut]) < RECOVERY_SECONDS
    return Result(case, what, f"< {RECOVERY_SECONDS:g}", verbs, verbs, hand, is_met)


def _range(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


class _Ground:
    """Where processes are started."""

    def __init__(self, client: Client, address: str, folder: Path, agents: Path) -> None:
        self.client, self._address, self._folder, self._agents = client, address, folder, agents

    @asynccontextmanager
    async def worker(self, task_queue: str, *, is_ours: bool = True) -> AsyncIterator[Process]:
        """A process that serves, and is gone at the end."""
        by_hand = [sys.executable, "-m", "benchmarks.hand_worker", self._address, task_queue]
        process = Process.start(
            self._ours(task_queue) if is_ours else by_hand,
            {"PERDURE_MAX_CONCURRENT_STEPS": str(SLOTS)},
            folder=self._folder,
            log=self._folder / f"{uuid.uuid4()}.log",
        )
        try:
            yield process
        finally:
            process.kill()

    def _ours(self, task_queue: str) -> list[str]:
        options = {"--agents": str(self._agents), "--address": self._address, "--task-queue": task_queue}
        served = ["--workflows", "benchmarks.by_verbs", "--workflows", "benchmarks.by_hand"]
        return [sys.executable, str(ROOT / "worker.py"), *(word for pair in options.items() for word in pair), *served]

    async def started(self, side: type, task_queue: str, agent: str, steps: int) -> WorkflowHandle[Any, Any]:
        """A run of so many steps side by side."""
        specs = [AgentStepSpec(task_id=f"step-{number}", agent=agent, prompt="prompt") for number in range(steps)]
        return await self.client.start_workflow(
            side.__name__,
            args=[specs, steps],
            id=f"{side.__name__}-{uuid.uuid4()}",
            task_queue=task_queue,
            memo={wire.OPTIONS_MEMO: {"max_concurrency": steps}},
        )


async def _start(ground: _Ground, is_ours: bool) -> float:
    """Seconds from the start of a process to the end of a run that waited for it."""
    task_queue = f"start-{uuid.uuid4()}"
    run = await ground.started(FanOut if is_ours else FanOutByHand, task_queue, "echo", 1)
    begun = time.perf_counter()
    async with ground.worker(task_queue, is_ours=is_ours):
        await asyncio.wait_for(run.result(), LIMIT_SECONDS)
        return time.perf_counter() - begun


async def _recovery(ground: _Ground, side: type) -> float:
    """Seconds from the kill of one of two full workers until a step that was in flight there runs on the other."""
    task_queue = f"kill-{uuid.uuid4()}"
    async with ground.worker(task_queue) as lost, ground.worker(task_queue) as other:
        await _poll(ground.client, task_queue, 2)
        run = await ground.started(side, task_queue, "slow", 2 * SLOTS)
        await _until(run, lambda states: len(states) == 2 * SLOTS and all(attempt == 1 for attempt in states))
        lost.kill()
        killed = time.perf_counter()
        await _until(run, lambda states: any(attempt > 1 for attempt in states))
        seconds = time.perf_counter() - killed
        outcomes = await asyncio.wait_for(run.result(), LIMIT_SECONDS)
        if not all(outcome["success"] for outcome in outcomes):
            raise AssertionError(f"every step should succeed, and the result is {outcomes!r}; {other.said()}")
        return seconds


async def _poll(client: Client, task_queue: str, workers: int) -> None:
    """Return when so many workers ask for steps: each takes its part of the run then."""
    asked = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    )
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            pollers = (await client.workflow_service.describe_task_queue(asked)).pollers
            if len({poller.identity for poller in pollers}) >= workers:
                return
            await asyncio.sleep(LOOK_SECONDS)


async def _until(run: WorkflowHandle[Any, Any], holds: Callable[[list[int]], bool]) -> None:
    """Return when a claim holds of the attempts of the steps that run."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            pending = (await run.describe()).raw_description.pending_activities
            started = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
            if holds([activity.attempt for activity in pending if activity.state == started]):
                return
            await asyncio.sleep(LOOK_SECONDS)
