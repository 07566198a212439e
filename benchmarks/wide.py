"""`python -m benchmarks.wide`: a call of 10,000 steps beside child workflows written by hand, or of 100,000 by itself.

Both sides run in turns against one embedded server and one worker, with slices of the same size, as many at once, and
the same window. `--call` measures the items of a graph's step instead, by themselves. Exit code 1 when a target is
missed. `measure` does it in a process of its own.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
PHASE = "phase"
LEAST_RATIO = 0.9
# Steps a second, of those that child workflows by hand make.
MOST_EVENTS, MOST_BYTES = 0.04, 200
# Of the root history, for each step: 400 events and 2 MB for 10,000.
MOST_ITEM_BYTES = 350
# For each item, whose result is some 300 bytes: a history of 35 MB takes no more.
LEAST_ITEMS = 20_000
# Of fewer the result fits into the history, and is there too.
MOST_MEMORY_MIB = 1_536
BRIEF = EchoAgent(name="brief", answer=".")
# So brief that one prompt takes the answers to 100,000 items.
WRITE = {"type": "state_write", "parameters": {"key": "k", "value": "{{item}}"}}

Graph = dict[str, Any]


def for_each(items: int) -> Graph:
    """A graph that writes each item into the state."""
    body = {"type": "proposal", "proposal": {"actions": [WRITE]}}
    return _graph({"type": "for_each", "items_from": "items", "body": body}, items=list(range(items)))


def map_reduce(items: int) -> Graph:
    """A graph that asks one agent about each item, and another about the answers."""
    config = {"items": list(range(items)), "max_concurrent": WINDOW}
    agents = [{"name": BRIEF.name}, {"name": BRIEF.name}]
    return _graph({"type": "pattern", "pattern": "map_reduce", "task": "Judge", "agents": agents, "config": config})


def _graph(step: Graph, **state: Any) -> Graph:
    return {"id": "wide", "name": "wide", "start": "s", "stages": [{"id": "s", "step": step}], "initial_state": state}


GRAPHS: dict[str, Callable[[int], Graph]] = {"for_each": for_each, "map_reduce": map_reduce}


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
@click.option("--call", type=click.Choice([PHASE, *GRAPHS]), default=PHASE, show_default=True, help="What is measured.")
@click.option("--json", "is_json", is_flag=True, help="Print the results as JSON, for another program.")
def command(steps: int, pairs: int, call: str, is_json: bool) -> None:
    """Measure a fan-out that children carry. Only a phase has a side by hand."""
    if call != PHASE and steps < LEAST_ITEMS:
        raise click.UsageError(f"--call {call} has bounds for {LEAST_ITEMS:,} --steps and more; {steps:,} were given.")
    results = asyncio.run(_measured(steps, pairs, call))
    if is_json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        Console(width=150).print(table(results))
    sys.stdout.flush()
    os._exit(0 if all(result.is_met for result in results) else 1)  # the interpreter's own exit can abort in the SDK


async def measure(steps: int, pairs: int, call: str = PHASE) -> list[Result]:
    """What the command measures, by a process of its own."""
    arguments = ["-m", "benchmarks.wide", "--steps", str(steps), "--pairs", str(pairs), "--call", call, "--json"]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        said, _ = await process.communicate()
    except BaseException:
        process.send_signal(signal.SIGINT)  # so that it stops its server
        await process.wait()
        raise
    if process.returncode not in (0, 1):  # 1: a target is missed, and the results say so
        raise AssertionError(f"{_case(steps, call)}: exit code {process.returncode}")
    return [Result(**each) for each in json.loads(said.splitlines()[-1])]


async def _measured(steps: int, pairs: int, call: str) -> list[Result]:
    logs.configure("warning")
    collect_seldom()  # as every worker does
    settings = Settings(task_queue=TASK_QUEUE, max_concurrent_steps=WINDOW, drain_seconds=1)
    workflows: list[type] = [Wide, WideByHand, SliceByHand]
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        async with local_server(Path(folder)) as server:
            client = await connect(settings, address=server.address, runtime=quiet_runtime())
            registry = Registry([EchoAgent(name="echo"), BRIEF])
            async with build_worker(
                client, settings, registry=registry, workflows=workflows, workflow_runner=TimedRunner()
            ):
                if call != PHASE:
                    return _alone(_case(steps, call), steps, await _graph_run(client, GRAPHS[call](steps), steps))
                return _results(steps, *await _runs(client, steps, pairs))


def _case(steps: int, call: str) -> str:
    return f"{steps:,} {'steps in one' if call == PHASE else 'items of a'} `{call}`, {WINDOW} at once"


async def _runs(client: Client, steps: int, pairs: int) -> tuple[list[Run], list[Run]]:
    verbs, hand = list[Run](), list[Run]()
    for pair in range(max(1, pairs)):
        sides = [(Wide, verbs)] if not pairs else [(Wide, verbs), (WideByHand, hand)][:: -1 if pair % 2 else 1]
        for side, runs in sides:
            runs.append(await _run(client, side, steps))
            print(f"{side.__name__}: {runs[-1]}", file=sys.stderr)
    return verbs, hand


async def _run(client: Client, side: type, steps: int) -> Run:
    succeeded, run = await _timed(client, side.__name__, [steps, WINDOW], steps)
    if succeeded != steps:
        raise AssertionError(f"{side.__name__}: {succeeded} of {steps} steps succeeded")
    return run


async def _graph_run(client: Client, graph: Graph, items: int) -> Run:
    result, run = await _timed(client, wire.STAGE_GRAPH_WORKFLOW, [graph], items)
    if result["status"] != "completed":
        raise AssertionError(f"the graph ended as {result['status']}: {result['stages'][-1].get('error')}")
    return run


async def _timed(client: Client, workflow: str, arguments: list[Any], steps: int) -> tuple[Any, Run]:
    """A run's result, and what it cost."""
    ACTIVATIONS.clear()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    handle = await client.start_workflow(
        workflow,
        args=arguments,
        id=f"{workflow}-{uuid.uuid4()}",
        task_queue=TASK_QUEUE,
        memo={wire.OPTIONS_MEMO: {"max_concurrency": WINDOW}},
    )
    result = await handle.result()
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    execution = (await handle.describe()).raw_description.workflow_execution_info
    longest = max(ACTIVATIONS, key=lambda activation: activation.wall_seconds)
    cost = Run(steps / seconds, cpu_seconds, execution.history_length, execution.history_size_bytes, longest)
    return result, cost


def _results(steps: int, verbs: list[Run], hand: list[Run]) -> list[Result]:
    case, one = _case(steps, PHASE), _middle(verbs)
    rows = _alone(case, steps, one, most_bytes=MOST_BYTES)
    if hand:
        other = _middle(hand)
        ratio = Ratio.of([run.steps_per_second for run in verbs], [run.steps_per_second for run in hand])
        sides = f"{one.steps_per_second:.0f}", f"{other.steps_per_second:.0f}"
        is_met = ratio.median >= LEAST_RATIO
        rows.append(Result(case, "steps a second", f">= {LEAST_RATIO}", str(ratio), *sides, is_met))
        cpu = f"{one.cpu_seconds:.1f}", f"{other.cpu_seconds:.1f}"
        rows.append(Result(case, "CPU seconds", NO_TARGET, cpu[0], *cpu, True))
    return rows


def _alone(case: str, steps: int, run: Run, most_bytes: int = MOST_ITEM_BYTES) -> list[Result]:
    """What a call cost, beside the bounds of its size."""

    def row(what: str, target: str, value: str, is_met: bool) -> Result:
        return Result(case, what, target, value, value, NO_SIDE, is_met)

    events, size, longest, memory = run.root_events, run.root_bytes, run.longest, round(largest_memory_mib())
    most_events, most_size, most_seconds = MOST_EVENTS * steps, most_bytes * steps, LONGEST_ACTIVATION_SECONDS
    seconds = f"{longest.wall_seconds:.3f} s (CPU {longest.cpu_seconds:.3f} s)"
    return [
        row("root events", f"< {most_events:,.0f}", f"{events:,}", events < most_events),
        row("root bytes", f"< {most_size:,}", f"{size:,}", size < most_size),
        row("longest activation", f"< {most_seconds} s", seconds, longest.wall_seconds < most_seconds),
        row(
            "memory of the worker's process", f"< {MOST_MEMORY_MIB:,} MiB", f"{memory:,} MiB", memory < MOST_MEMORY_MIB
        ),
    ]


def _middle(runs: list[Run]) -> Run:
    """The run of median speed."""
    return sorted(runs, key=lambda run: run.steps_per_second)[len(runs) // 2]


if __name__ == "__main__":
    command()
