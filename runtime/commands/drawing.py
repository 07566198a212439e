"""Pictures of graphs as the command writes them, and the graph of a run with what happened to it.

Law: a picture of a run says of each stage what the run itself says; what nobody can say is told, not guessed.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from runtime.commands.options import Fault
from runtime.commands.session import tell
from runtime.endings import GRAPH_WORKFLOWS, graph_results
from runtime.standing import Json, RunInfo
from runtime.walks import walks_of_events, walks_of_results
from runtime.watching import NotBegun, RunReader
from workflows.errors import GraphRejected, InputRejected, cut
from workflows.graph.definition import GraphDefinition
from workflows.graph.pictures import dot, mermaid
from workflows.graph.verify import load_graph
from workflows.graph.walk import Walk
from workflows.graph_workflows import ChainInput
from workflows.parsing import parse
from workflows.wire import CHAIN_WORKFLOW

DOT_SECONDS = 60
# Graphviz takes minutes for thousands of stages, and nobody looks at such a picture.


@dataclass(frozen=True)
class Drawing:
    """What a picture shows."""

    graphs: tuple[GraphDefinition, ...]
    walks: tuple[Walk, ...] = ()
    """What happened to each; empty where no run is meant."""
    caption: str = ""

    def mermaid(self) -> str:
        """For texts."""
        return mermaid(*self.graphs, walks=self.walks, caption=self.caption)

    def dot(self) -> str:
        """For Graphviz."""
        return dot(*self.graphs, walks=self.walks, caption=self.caption)


@dataclass(frozen=True)
class Walked:
    """The graphs of a run, and what happened to them."""

    info: RunInfo
    drawing: Drawing
    dropped: int = 0
    """Events that the run no longer holds, and that would have told more."""

    def to_json(self) -> Json:
        """For programs."""
        graphs = zip(self.drawing.graphs, self.drawing.walks, strict=True)
        return {
            "run": self.info.to_json(),
            "graphs": [_told(graph, walk) for graph, walk in graphs],
            "dropped": self.dropped,
        }


def _told(graph: GraphDefinition, walk: Walk) -> Json:
    stages = [
        {"id": stage.id, "state": walk.states.get(stage.id, "not_reached"), "visits": walk.visits.get(stage.id, 0)}
        for stage in graph.stages
    ]
    return {"id": graph.id, "status": walk.status, "stages": stages, "taken": sorted(map(list, walk.taken))}


async def walked_graphs(reader: RunReader) -> Walked:
    """The graphs of a run and what happened to them: of one that reports a result from that, else from its events.

    Raises `Fault` for a run that has no graph.
    """
    graphs = await _graphs_of(reader)
    envelopes: list[Json] = []
    dropped, is_waiting = 0, False
    if reader.info.is_open:
        try:
            page = await reader.all_events()
            envelopes, dropped = page["events"], page["dropped"]
            is_waiting = reader.info.is_open and bool(await reader.approvals())
        except NotBegun:
            await reader.refresh()  # it may have failed at its input meanwhile
    ended = None
    if not reader.info.is_open:
        ending = await reader.ending()
        ended, results = ending.status, graph_results(ending)
        if results:
            return _walked(reader.info, graphs, walks_of_results(graphs, results), ended)
        page = await reader.all_events()
        envelopes, dropped = page["events"], page["dropped"]
    walks = walks_of_events(graphs, envelopes, is_open=reader.info.is_open, is_waiting=is_waiting)
    return _walked(reader.info, graphs, walks, ended, dropped)


async def _graphs_of(reader: RunReader) -> tuple[GraphDefinition, ...]:
    """The definitions that a run was started with."""
    info = reader.info
    if info.type not in GRAPH_WORKFLOWS:
        raise Fault(
            f"Run {info.id!r} is of the type {info.type!r}, and only runs of {' and '.join(GRAPH_WORKFLOWS)} have a "
            f"graph to draw. See it with `perdure show {shlex.quote(info.id)}`."
        )
    given: Any = next(iter(await reader.arguments()), None)
    try:
        if info.type == CHAIN_WORKFLOW:
            chain = parse(ChainInput, given, CHAIN_WORKFLOW, InputRejected)
            return tuple(load_graph(graph, file=f"graph {number}") for number, graph in enumerate(chain.graphs))
        return (load_graph(given),)
    except (GraphRejected, InputRejected) as rejected:
        raise Fault(f"Run {info.id!r} was started with what is no stage graph: {rejected.message}") from rejected


def _walked(
    info: RunInfo, graphs: tuple[GraphDefinition, ...], walks: list[Walk], ended: str | None, dropped: int = 0
) -> Walked:
    begun = [walk for walk in walks if walk.visits] or walks[:1]
    of_several = f", graph {len(begun)} of {len(walks)}" if len(walks) > 1 else ""
    stopped = [ended.replace("_", " ")] if ended not in (None, "completed", "failed") else []
    status = ", ".join([*stopped, *(walk.status for walk in begun[-1:])])
    return Walked(info, Drawing(graphs, tuple(walks), f"Run {info.id}{of_several}: {status}"), dropped)


def draw(drawing: Drawing, described: Json | None, output: Path | None) -> None:
    """Write a picture to a file, or print it; with a description, as JSON that has both languages."""
    if described is None:
        write(_drawn(drawing, output), output)
        return
    picture = {**described, "mermaid": drawing.mermaid(), "dot": drawing.dot()}
    write(json.dumps(picture, indent=2, ensure_ascii=False) + "\n", output)


def _drawn(drawing: Drawing, output: Path | None) -> str:
    """The picture in the language that the file's suffix asks for."""
    suffix = ".mmd" if output is None else output.suffix.lower()
    if suffix == ".svg":
        return _svg(drawing.dot())
    if suffix == ".dot":
        return drawing.dot()
    if suffix == ".md":
        return f"```mermaid\n{drawing.mermaid()}```\n"
    if suffix == ".mmd":
        return drawing.mermaid()
    raise Fault(
        f"--output is {str(output)!r}, and its suffix says no format. The formats are .svg, .dot, .mmd and .md."
    )


def _svg(source: str) -> str:
    program = shutil.which("dot")
    if program is None:
        raise Fault("SVG is drawn by Graphviz, and its program 'dot' is not on PATH. Install Graphviz, or write .mmd.")
    try:
        done = subprocess.run(  # noqa: S603 - the program was found on PATH, and no shell reads the graph
            [program, "-Tsvg"], input=source.encode(), capture_output=True, timeout=DOT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Fault(f"Graphviz took more than {DOT_SECONDS} s. Draw a smaller graph, or write .mmd.") from None
    if done.returncode != 0:
        told = cut(done.stderr.decode(errors="replace").strip())
        raise Fault(f"Graphviz ended with status {done.returncode}: {told}")
    return done.stdout.decode()


def write(text: str, output: Path | None) -> None:
    """Write a text to a file, or print it."""
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Fault(f"{str(output)!r} cannot be written ({error.strerror}).") from error
    tell(str(output))
