"""`perdure verify` and `perdure graph`: stage graphs judged and drawn, without running anything.

Law: a graph that perdure would not start is never called valid here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from runtime.commands.drawing import Drawing, draw, walked_graphs, write
from runtime.commands.hosting import answering
from runtime.commands.options import COMPLETED, WRONG_USAGE, Common, Fault, shared
from runtime.commands.session import Session, execute, faults, print_json, tell
from runtime.texts import counted
from workflows import wire
from workflows.graph.chaining import Chained
from workflows.graph.definition import GraphDefinition
from workflows.graph.reading import Unreadable, parse_text
from workflows.graph.schema import graph_schema
from workflows.graph.step_checks import Served
from workflows.graph.verdict import Estimate, Issue, Verdict
from workflows.graph.verify import examine, load_graph

STDIN = "-"
STDIN_NAME = "<stdin>"

LARGE_TEXT = 400_000
# Characters: nothing shorter is larger than a run takes, for JSON writes a number in at most four times as many.

SHOWN = 20
# Lines about single stages, and waves, that a person reads at a glance; --json has all of them.


@click.command("verify")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--lenient", is_flag=True, help="Accept doubts: what runs, and is probably not what was meant.")
@click.option("--agents", metavar="FILE", help="An agents.toml: doubt agents and tools that are not in it.")
@click.option(
    "--given", multiple=True, metavar="KEY", help="A state key that the start will bring; may be given again."
)
@click.option("--chain", "is_chain", is_flag=True, help="The FILEs run one after the other, as `perdure run A B` does.")
@shared
def verify(
    common: Common, files: tuple[str, ...], lenient: bool, agents: str | None, given: tuple[str, ...], is_chain: bool
) -> int:
    """Check stage graphs without running them; exit 2 where one cannot run.

    FILE is JSON or YAML; `-` is stdin. Doubts (unknown fields, references that nothing can fill) count as errors
    unless --lenient says otherwise; warnings never do. With --chain, what one graph leaves the next may refer to.
    """
    with faults():
        read, served = [read_graph(name) for name in files], Served() if agents is None else served_by(agents)
        verdicts = _judged(read, given, served, is_chain=is_chain)
    if common.is_json:
        print_json([{"file": name, **verdict.model_dump(mode="json")} for name, verdict in verdicts])
    else:
        for name, verdict in verdicts:
            _print(name, verdict, is_accepted=is_accepted(verdict, lenient=lenient))
    return COMPLETED if all(is_accepted(verdict, lenient=lenient) for _, verdict in verdicts) else WRONG_USAGE


def _judged(
    read: Sequence[tuple[str, str]], given: Sequence[str], served: Served, *, is_chain: bool
) -> list[tuple[str, Verdict]]:
    """The verdict on each file, by its name."""
    verdicts, chained = [], Chained(given)
    for name, text in read:
        value = _value(text, name) if is_chain else None
        definition, verdict = examine(text, file=name, given=chained.given_to(value), served=served)
        verdicts.append((name, _that_can_leave(verdict, definition, name, text)))
        if is_chain and definition is not None:
            chained.add(definition)
    return verdicts


def _that_can_leave(verdict: Verdict, definition: GraphDefinition | None, name: str, text: str) -> Verdict:
    """The verdict, with an error where the graph is larger than what Temporal takes."""
    if definition is None or len(text) < LARGE_TEXT or wire.fits(definition):
        return verdict
    size, limit = wire.size(definition) / 1e6, wire.MAX_PAYLOAD_BYTES / 1e6
    told = f"the definition is {size:.1f} MB and the limit is {limit:.1f} MB. Shorten it, or pass a reference to it."
    issue = Issue(severity="error", stage_id=None, message=told, file=name, line=1, column=1)
    changes = {"valid": False, "issues": (issue, *verdict.issues), "estimate": None}
    return verdict.model_copy(update=changes)


def _value(text: str, name: str) -> Any:
    """What a text says; None where it cannot be read, which is for the verdict to tell."""
    try:
        return parse_text(text, name).value
    except Unreadable:
        return None


def is_accepted(verdict: Verdict, *, lenient: bool) -> bool:
    """Whether a graph may start: no error, and no doubt unless they are accepted."""
    return verdict.valid and (lenient or not verdict.with_severity("doubt"))


def read_graph(name: str) -> tuple[str, str]:
    """What messages call a file, and its text; `-` is stdin."""
    shown = STDIN_NAME if name == STDIN else name
    try:
        raw = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
        return shown, raw.decode("utf-8")
    except OSError as error:
        raise Fault(f"{name!r} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise Fault(f"{shown!r} is no UTF-8 text (byte {error.start}).") from error


def served_by(agents: str | None) -> Served:
    """What an agents.toml says that a worker has; by default the one that a worker here would read."""
    from runtime.plugin import load_registry
    from runtime.settings import Settings

    registry = load_registry(Settings.load(agents=agents))
    return Served(registry.names(), registry.tools.names(), has_model=registry.default_model is not None)


def _print(name: str, verdict: Verdict, *, is_accepted: bool) -> None:
    """Each issue, then what a run would do."""
    for issue in verdict.issues:
        click.echo(issue_line(name, issue))
    counts = [
        counted(len(verdict.with_severity(severity)), severity)
        for severity in ("error", "doubt", "warning")
        if verdict.with_severity(severity)
    ]
    judged = "invalid" if not verdict.valid else "valid" if is_accepted else "doubtful"
    remedy = "; --lenient accepts that" if judged == "doubtful" else ""
    click.echo(f"{name}: {judged}{''.join(f', {count}' for count in counts)}{remedy}")
    if verdict.estimate is None:
        return
    stages = counted(len(verdict.reachable_stages), "stage")
    click.echo(f"  {stages} in {counted(len(verdict.waves), 'wave')}, {_steps(verdict.estimate)} in a run")
    waves = [f"  wave {number}: {_wave(verdict, wave)}" for number, wave in enumerate(verdict.waves, 1)]
    _print_some(waves, "waves")


def issue_line(name: str, issue: Issue) -> str:
    """An issue as editors and CI systems understand it."""
    where = ":".join(str(part) for part in (name, issue.line, issue.column) if part is not None)
    return f"{where}: {issue.severity}: {issue.message}"


def _wave(verdict: Verdict, wave: Sequence[str]) -> str:
    estimates = verdict.estimate.stages if verdict.estimate is not None else {}
    told = [f"{stage} ({_steps(estimates[stage])})" for stage in wave[:SHOWN]]
    more = [f"… {len(wave) - SHOWN:,} more"] if len(wave) > SHOWN else []
    return ", ".join([*told, *more])


def _print_some(lines: Sequence[str], what: str) -> None:
    for line in lines[:SHOWN]:
        click.echo(line)
    if len(lines) > SHOWN:
        click.echo(f"  … {len(lines) - SHOWN:,} more {what}; --json has all of them")


def _steps(estimate: Estimate) -> str:
    if estimate.most is None:
        return f"at least {counted(estimate.least, 'agent step')}"
    if estimate.most == estimate.least:
        return counted(estimate.least, "agent step")
    return f"{estimate.least:,} to {counted(estimate.most, 'agent step')}"


@click.command("graph")
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--run", metavar="RUN", help="Draw the graph of a run, coloured by what happened; `-` is the latest.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to a file: .svg, .dot, .mmd or .md.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of stage graphs, for editors.")
@shared
def graph(common: Common, file: str | None, run: str | None, output: Path | None, schema: bool) -> int:
    """Draw a stage graph as Mermaid, or as SVG with Graphviz.

    FILE is JSON or YAML; `-` is stdin. Stages are shaped by their type, edges carry their conditions, compensations
    are dashed. Drawn as it is written: `perdure verify` says whether it can run.

    --run draws the graph that a run walks: each stage coloured by its state and saying it, the edges taken bold.
    """
    if (file is not None) + (run is not None) + schema != 1:
        raise Fault("perdure graph takes a FILE to draw, --run RUN, or --schema; one of them.")
    if run is not None:
        return _graph_of_run(common, run, output)
    if file is None:
        write(json.dumps(graph_schema(), indent=2) + "\n", output)
        return COMPLETED
    with faults():
        name, text = read_graph(file)
        definition = load_graph(text, file=name)
    draw(Drawing((definition,)), {"file": name} if common.is_json else None, output)
    return COMPLETED


def _graph_of_run(common: Common, run: str, output: Path | None) -> int:
    async def body(session: Session) -> int:
        reader = await session.reader(run)
        async with answering(session, [reader] if reader.info.is_open else []):
            walked = await walked_graphs(reader)
        if walked.dropped:
            tell(f"{walked.dropped:,} earlier events are no longer held by the run; what they told is not drawn.")
        draw(walked.drawing, walked.to_json() if common.is_json else None, output)
        return COMPLETED

    return execute(common, body)
