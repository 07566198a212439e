"""`python -m benchmarks.wide`: a call of 10,000 steps beside child workflows written by hand, or of 100,000 by itself.

Both sides run in turns against one embedded server and one worker, with slices of the same size, as many at once, and
the same window. Exit code 1 when a target is missed. `measure` does it in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from temporalio.client import Client

from activities.registry import EchoAgent, Registry
from benchmarks.by_hand import SliceByHand, WideByHand
from benchmarks.by_verbs import Wide
from benchmarks.measure import TASK_QUEUE, Ratio, largest_memory_mib, quiet_runtime
from benchmarks.results import NO_SIDE, NO_TARGET, Result, table
from benchmarks.rows import LONGEST_ACTIVATION_SECONDS
from benchmarks.stopwatch import ACTIVATIONS, Activation, TimedRunner
from runtime import logs
from runtime.connect import connect
from runtime.local import local_server
from runtime.settings import Settings
from runtime.tuning import collect_seldom
from worker import build_worker
from workflows import wire

STEPS, WINDOW, PAIRS = 10_000, 100, 3
LEAST_RATIO = 0.9
# Steps a second, of those that child workflows by hand make.
MOST_EVENTS, MOST_BYTES = 0.04, 200
# Of the root history, for each step: 400 events and 2 MB for 10,000.
MOST_MEMORY_MIB = 1_536


@dataclass(frozen=True)
class Run:
    """What one run cost."""

    steps_per_second: float
    cpu_seconds: float
    root_events: int
    root_bytes: int
    longest: Activation


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--steps", type=click.IntRange(min=2_000), default=STEPS, show_default=True, help="Of one call.")
@click.option("--pairs", type=click.IntRange(min=0), default=PAIRS, show_default=True, help="0: the verbs alone, once.")
@click.option("--json", "is_json", is_flag=True, help="Print the results as JSON, for another program.")
def command(steps: int, pairs: int, is_json: bool) -> None:
    """Measure a fan-out that children carry."""
    results = asyncio.run(_measured(steps, pairs))
    if is_json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        Console(width=150).print(table(results))
    sys.stdout.flush()
    os._exit(0 if all(result.is_met for result in results) else 1)  # the interpreter's own exit can abort in the SDK


async def measure(steps: int, pairs: int) -> list[Result]:
    """What the command measures, by a process of its own."""
    arguments = ["-m", "benchmarks.wide", "--steps", str(steps), "--pairs", str(pairs), "--json"]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        said, _ = await process.communicate()
    except BaseException:
        process.send_signal(signal.SIGINT)  # so that it stops its server
        await process.wait()
        raise
    if process.returncode not in (0, 1):  # 1: a target is missed, and the results say so
        raise AssertionError(f"a call of {steps:,} steps ended with exit code {process.returncode}")
    return [Result(**each) for each in json.loads(said.splitlines()[-1])]


async def _measured(steps: int, pairs: int) -> list[Result]:
    logs.configure("warning")
    collect_seldom()  # as every worker does
    settings = Settings(task_queue=TASK_QUEUE, max_concurrent_steps=WINDOW, drain_seconds=1)
    workflows: list[type] = [Wide, WideByHand, SliceByHand]
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        async with local_server(Path(folder)) as server:
            client = await connect(settings, address=server.address, runtime=quiet_runtime())
            registry = Registry([EchoAgent(name="echo")])
            async with build_worker(
                client, settings, registry=registry, workflows=workflows, workflow_runner=TimedRunner()
            ):
                return _results(steps, *await _runs(client, steps, pairs))


async def _runs(client: Client, steps: int, pairs: int) -> tuple[list[Run], list[Run]]:
    verbs, hand = list[Run](), list[Run]()
    for pair in range(max(1, pairs)):
        sides = [(Wide, verbs)] if not pairs else [(Wide, verbs), (WideByHand, hand)][:: -1 if pair % 2 else 1]
        for side, runs in sides:
            runs.append(await _run(client, side, steps))
            print(f"{side.__name__}: {runs[-1]}", file=sys.stderr)
    return verbs, hand


async def _run(client: Client, side: type, steps: int) -> Run:
    ACTIVATIONS.clear()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    handle = await client.start_workflow(
        side.__name__,
        args=[steps, WINDOW],
        id=f"{side.__name__}-{uuid.uuid4()}",
        task_queue=TASK_QUEUE,
        memo={wire.OPTIONS_MEMO: {"max_concurrency": WINDOW}},
    )
    if (succeeded := await handle.result()) != steps:
        raise AssertionError(f"{side.__name__}: {succeeded} of {steps} steps succeeded")
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    execution = (await handle.describe()).raw_description.workflow_execution_info
    longest = max(ACTIVATIONS, key=lambda activation: activation.wall_seconds)
    return Run(steps / seconds, cpu_seconds, execution.history_length, execution.history_size_bytes, longest)


def _results(steps: int, verbs: list[Run], hand: list[Run]) -> list[Result]:
    case = f"{steps:,} steps in one `phase`, {WINDOW} at once"
    one, other = _middle(verbs), _middle(hand) if hand else None

    def row(what: str, target: str, value: str, is_met: bool, by_hand: str = NO_SIDE) -> Result:
        return Result(case, what, target, value, value, by_hand, is_met)

    memory = round(largest_memory_mib())
    rows = [
        row(
            "root events",
            f"< {MOST_EVENTS * steps:,.0f}",
            f"{one.root_events:,}",
            one.root_events < MOST_EVENTS * steps,
        ),
        row("root bytes", f"< {MOST_BYTES * steps:,}", f"{one.root_bytes:,}", one.root_bytes < MOST_BYTES * steps),
        row(
            "longest activation",
            f"< {LONGEST_ACTIVATION_SECONDS} s",
            f"{one.longest.wall_seconds:.3f} s (CPU {one.longest.cpu_seconds:.3f} s)",
            one.longest.wall_seconds < LONGEST_ACTIVATION_SECONDS,
        ),
        row(
            "memory of the worker's process", f"< {MOST_MEMORY_MIB:,} MiB", f"{memory:,} MiB", memory < MOST_MEMORY_MIB
        ),
    ]
    if other is not None:
        ratio = Ratio.of([run.steps_per_second for run in verbs], [run.steps_per_second for run in hand])
        sides = f"{one.steps_per_second:.0f}", f"{other.steps_per_second:.0f}"
        rows.append(
            Result(case, "steps a second", f">= {LEAST_RATIO}", str(ratio), *sides, ratio.median >= LEAST_RATIO)
        )
        rows.append(row("CPU seconds", NO_TARGET, f"{one.cpu_seconds:.1f}", True, f"{other.cpu_seconds:.1f}"))
    return rows


def _middle(runs: list[Run]) -> Run:
    """The run of median speed."""
    return sorted(runs, key=lambda run: run.steps_per_second)[len(runs) // 2]


if __name__ == "__main__":
    command()
