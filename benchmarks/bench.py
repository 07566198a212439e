"""`make bench`: measures perdure's verbs against its targets; exit code 1 when one is missed."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NoReturn

import click
import temporalio
from rich.console import Console
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client

from activities.registry import EchoAgent, Registry
from benchmarks import agents, long, processes, small, wide
from benchmarks.by_hand import FanOutByHand, SequenceByHand
from benchmarks.by_verbs import FanOut
from benchmarks.by_verbs import Sequence as Row
from benchmarks.graphs import LARGE, STAGES, in_own_process, longest_activation_of, reading_seconds
from benchmarks.measure import TASK_QUEUE, WORKFLOWS, Case, compare, longest_activation, quiet_runtime, run
from benchmarks.results import NO_SIDE, NO_TARGET, Result, markdown, table
from benchmarks.rows import compared, longest, shares, told
from benchmarks.stopwatch import StepWatch, TimedRunner
from runtime import logs
from runtime.connect import connect
from runtime.local import local_server
from runtime.settings import Settings
from runtime.tuning import collect_seldom
from worker import build_worker
from workflows import StageGraph

Tell = Callable[[str], None]

RESULTS = Path(__file__).with_name("RESULTS.md")

PAIRS, QUICK_PAIRS = 5, 2
WIDE_RUNS = 3
WIDEST = 100_000
STAGES_PAIRS = 2
# Each takes half a minute; a pause of the machine in one of them is no pause of the workflow. Events do not vary.
TABLE_WIDTH = 170
# Where there is no terminal to ask.
SETTLED, MISSED = 0, 1

SIDE_BY_SIDE = Case("1,000 steps in one `parallel`, 100 at once", FanOut, FanOutByHand, steps=1000, window=100)
IN_A_ROW = Case("200 steps in a row", Row, SequenceByHand, steps=200, window=1)
STAGES_IN_A_ROW = Case("500 stages in a row, one step each", StageGraph, SequenceByHand, steps=500, window=1)
WIDE = Case("3,000 steps in one `parallel`, 500 at once", FanOut, FanOutByHand, steps=3000, window=500)
WARM_UP = Case("warm-up", FanOut, FanOutByHand, steps=50, window=10)

READING_SECONDS = {"large.json": 1.0, "large.yaml": None}
# Of a definition that a person waits for. PyYAML's parser alone takes longer for YAML.


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--pairs", type=click.IntRange(min=1), default=PAIRS, show_default=True, help="Runs of each case each way."
)
@click.option("--quick", is_flag=True, help=f"Only {QUICK_PAIRS} pairs: a first impression, with more noise.")
@click.option(
    "--all",
    "is_all",
    is_flag=True,
    help=f"Also a loop of {long.STAGES:,} stages and calls of {WIDEST:,}: some twenty minutes.",
)
@click.option("--write", is_flag=True, help="Write the results to benchmarks/RESULTS.md.")
def command(pairs: int, quick: bool, is_all: bool, write: bool) -> None:
    """Measure perdure's verbs beside the same work written by hand, on one embedded server in a temporary folder."""
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    pairs = QUICK_PAIRS if quick else pairs
    machine, results = asyncio.run(_measured(pairs, is_all, console))
    console.print(table(results))
    if write:
        RESULTS.write_text(markdown(machine, results, datetime.now(UTC).date(), pairs))
        console.print(f"Written to {RESULTS}.")
    sys.exit(SETTLED if all(result.is_met for result in results) else MISSED)


async def _measured(pairs: int, is_all: bool, console: Console) -> tuple[str, list[Result]]:
    _leave_on_sigterm()
    tell = partial(console.print, style="dim", highlight=False)
    logs.configure("warning")
    collect_seldom()  # as every worker does
    settings = Settings(task_queue=TASK_QUEUE, max_concurrent_steps=WIDE.window, drain_seconds=1)
    registry = Registry([EchoAgent(name="echo")])
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        async with local_server(Path(folder)) as server:
            client = await connect(settings, address=server.address, runtime=quiet_runtime())
            machine = await _machine(client)
            async with build_worker(
                client,
                settings,
                registry=registry,
                workflows=WORKFLOWS,
                workflow_runner=TimedRunner(),
                interceptors=[StepWatch()],
            ):
                results = await _cases(client, pairs, tell)
                results += await small.measure(client, pairs, tell)
                results += await long.measure(client, tell) if is_all else []
            results += await agents.measure(client, Path(folder), tell)
            results += await processes.measure(client, server.address, Path(folder), tell)
    tell(f"{wide.STEPS:,} steps in one call")
    results += await wide.measure(wide.STEPS, min(pairs, wide.PAIRS))
    for call in (wide.PHASE, "for_each") if is_all else ():
        tell(f"{WIDEST:,} in one {call}")
        results += await wide.measure(WIDEST, 0, call)
    return machine, results


def _leave_on_sigterm() -> None:
    """A benchmark that is told to end stops its server, which is a process of its own and would stay."""
    measuring = asyncio.current_task()
    assert measuring is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, measuring.cancel)


async def _cases(client: Client, pairs: int, tell: Tell) -> list[Result]:
    for side in (WARM_UP.by_verbs, WARM_UP.by_hand):
        await run(client, WARM_UP, side)
    results: list[Result] = []
    for case in (SIDE_BY_SIDE, IN_A_ROW):
        comparison = await compare(client, case, pairs, tell)
        results += compared(comparison)
        results += shares(comparison) if case is IN_A_ROW else []
    runs = min(pairs, WIDE_RUNS)
    verbs, hand = [await longest_activation(client, WIDE, side, runs) for side in (WIDE.by_verbs, WIDE.by_hand)]
    tell(f"{WIDE.name}: longest activation {verbs.wall_seconds:.3f} s by verbs, {hand.wall_seconds:.3f} s by hand")
    results.append(longest(WIDE.name, verbs, told(hand)))
    return [*results, *await _graphs(client, min(pairs, STAGES_PAIRS), tell)]


async def _graphs(client: Client, pairs: int, tell: Tell) -> list[Result]:
    comparison = await compare(client, STAGES_IN_A_ROW, pairs, tell)
    results = compared(comparison, history_bytes=None, wall=None, replay=None)
    for name, made in LARGE.items():
        activation = await longest_activation_of(client, made())
        tell(f"{name}: longest activation {activation.wall_seconds:.3f} s")
        results.append(longest(name, activation, NO_SIDE))
    case = f"Reading and judging a graph of {STAGES:,} stages"
    for name, seconds in (await in_own_process(reading_seconds)).items():
        most, what = READING_SECONDS[name], f"CPU seconds, {name.rpartition('.')[2].upper()}"
        target, is_met = (NO_TARGET, True) if most is None else (f"< {most:g}", seconds < most)
        results.append(Result(case, what, target, f"{seconds:.2f}", f"{seconds:.2f}", NO_SIDE, is_met))
    return results


async def _machine(client: Client) -> str:
    """What the figures depend on, without saying whose it is."""
    system = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GB of memory, Python {platform.python_version()}, "
        f"temporalio {temporalio.__version__}, Temporal server {system.server_version} with its database in a file"
    )


def main() -> NoReturn:
    """Run the benchmark."""
    code = MISSED
    try:
        command.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else code
    except asyncio.CancelledError:
        code = 128 + signal.SIGTERM  # as a shell reports a process that a signal ended
    except BaseException:  # noqa: BLE001 - shown, then the process leaves with the status that says so
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter's own exit can abort in the SDK (its issue 300)


if __name__ == "__main__":
    main()
