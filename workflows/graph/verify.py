"""Whether a stage graph can run, judged without running it.

Three severities: an error starts nothing; a doubt runs, and is probably a mistake; a warning is worth knowing.
Source: car-workflow's verify, with positions and doubts added. Pure, iterative, and linear in the size of the graph.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workflows.errors import GraphRejected, cut
from workflows.graph.definition import Edge, GraphDefinition, StageRefCompensation
from workflows.graph.estimate import run_estimate
from workflows.graph.fields import parse_definition, unknown_fields
from workflows.graph.keys import keys_of
from workflows.graph.locating import Path
from workflows.graph.reach import Reach, dead_edges, reach_of
from workflows.graph.reading import SUFFIXES, Document, Unreadable, parse_text
from workflows.graph.step_checks import Around, Findings, Nested, Served, check_conditions, check_stage
from workflows.graph.templates import is_on
from workflows.graph.verdict import Finding, Issue, Verdict, unusable

MOST_TOLD = 5
# Issues in the message of a rejection; the verdict has them all.

SHOWN_OF_CYCLE = 6
# Stages of a cycle in a message.

LARGE_TEXT = 500_000
# Characters. A run cannot bring much more, so this is for files, which the command reads.

Source = str | Mapping[str, Any] | GraphDefinition
"""A graph as JSON or YAML text, as a plain value, or as a definition."""


@dataclass(frozen=True)
class _Frame:
    """One graph under way: the outermost, or one nested in it."""

    graph: GraphDefinition
    path: Path
    prefix: str = ""
    is_repeated: bool = False
    given: tuple[str, ...] = ()

    @cached_property
    def reach(self) -> Reach:
        """The shape of the graph."""
        return reach_of(self.graph)


def load_graph(graph: Source, *, file: str | None = None) -> GraphDefinition:
    """The definition that a text or a plain value describes.

    Only what cannot be read as a definition is refused here, as `GraphRejected`; `verify_graph` judges the rest.
    `file` names the text in messages, and its suffix tells JSON from YAML.
    """
    definition, verdict = examine(graph, file=file)
    if definition is None:
        raise rejected(verdict.issues)
    return definition


def verify_graph(
    graph: Source,
    *,
    file: str | None = None,
    given: Collection[str] = (),
    served: Served | None = None,
) -> Verdict:
    """What is wrong with a graph, what it can reach, and how many agent steps it takes.

    Args:
        graph: JSON or YAML text, a plain value, or a definition (which no longer has its unknown fields).
        file: what messages call the text; its suffix tells JSON from YAML.
        given: state keys that the start brings, beside `initial_state`.
        served: agents and tools that the workers have; what is left out of it is not checked.
    """
    return examine(graph, file=file, given=given, served=served)[1]


def examine(
    graph: Source, *, file: str | None = None, given: Collection[str] = (), served: Served | None = None
) -> tuple[GraphDefinition | None, Verdict]:
    """The definition, if there is one, and the verdict on it, from one reading."""
    if isinstance(graph, str) and len(graph) > LARGE_TEXT:
        with _uncollected():
            return _examined(graph, file, given, served)
    return _examined(graph, file, given, served)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No collection of garbage meanwhile, unless another thread asks for it.

    What is read from a large text is kept, and looking for garbage in it again and again takes as long as reading it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _examined(
    graph: Source, file: str | None, given: Collection[str], served: Served | None
) -> tuple[GraphDefinition | None, Verdict]:
    document: Document | None = None
    value: Any = graph
    if isinstance(graph, str):
        _refuse_file_name(graph)
        try:
            document = parse_text(graph, file)
        except Unreadable as fault:
            return None, unusable(_unreadable(fault, file))
        value = document.value
    elif isinstance(graph, GraphDefinition):
        value = graph.model_dump(mode="json", by_alias=True)
    definition = (
        graph if isinstance(graph, GraphDefinition) else parse_definition(value, is_shallow=document is not None)
    )
    if isinstance(definition, list):
        return None, unusable(*_placed(definition, document, file))
    findings = Findings(served or Served())
    findings.found += unknown_fields(value)
    frame = _Frame(definition, (), given=tuple(given))
    _check_frames(findings, frame)
    return definition, _verdict(frame, _placed(findings.found, document, file))


def rejected(issues: Collection[Issue], left_out: int = 0) -> GraphRejected:
    """The rejection of a graph for these issues, and for those that were `left_out` of a short verdict."""
    told = [str(issue) for issue in list(issues)[:MOST_TOLD]]
    more = len(issues) + left_out - len(told)
    return GraphRejected("\n".join([*told, f"and {more:,} more."] if more else told))


def _refuse_file_name(text: str) -> None:
    """A file name is not read here: workflow code may not read files."""
    if "\n" not in text and text.lower().endswith(tuple(SUFFIXES)):
        raise GraphRejected(
            f"{cut(text)!r} is the name of a file. Read the file, and give its text with file={cut(text)!r}."
        )


def _unreadable(fault: Unreadable, file: str | None) -> Issue:
    line, column = (fault.place.line, fault.place.column) if fault.place else (None, None)
    return Issue(severity="error", stage_id=None, message=fault.message, file=file, line=line, column=column)


def _placed(findings: list[Finding], document: Document | None, file: str | None) -> tuple[Issue, ...]:
    """The findings as issues, in the order of their places where those are known."""
    places = document.places([finding.path for finding in findings]) if document and findings else None
    issues = []
    for finding in findings:
        place = places.of(finding.path, is_key=finding.is_key) if places else None
        line, column = (place.line, place.column) if place else (None, None)
        issues.append(
            Issue(
                severity=finding.severity,
                stage_id=finding.stage_id,
                message=finding.message,
                file=file,
                line=line,
                column=column,
            )
        )
    return tuple(sorted(issues, key=lambda issue: (issue.line or 0, issue.column or 0)))


def _verdict(frame: _Frame, issues: tuple[Issue, ...]) -> Verdict:
    reach = frame.reach
    reachable = reach.reachable
    reached = set(reachable)
    is_valid = not any(issue.severity == "error" for issue in issues)
    return Verdict(
        valid=is_valid,
        issues=issues,
        reachable_stages=reachable,
        unreachable_stages=tuple(stage for stage in reach.following if stage not in reached),
        has_cycles=bool(reach.cycles),
        estimate=run_estimate(frame.graph, reach) if is_valid else None,
        waves=reach.waves,
    )


def _check_frames(findings: Findings, outermost: _Frame) -> None:
    waiting = [outermost]
    while waiting:
        frame = waiting.pop()
        waiting += [_frame_of(nested) for nested in _check_frame(findings, frame)]


def _frame_of(nested: Nested) -> _Frame:
    around = nested.around
    return _Frame(nested.step.workflow, nested.path, f"{around.stage_id}/", around.is_repeated)


def _check_frame(findings: Findings, frame: _Frame) -> list[Nested]:
    """Check one graph; gives those nested in it."""
    graph, keys = frame.graph, keys_of(frame.graph, frame.given)
    arounds = [
        Around(stage, frame.prefix + stage.id, keys, is_on(graph.metadata, stage.metadata), frame.is_repeated)
        for stage in graph.stages
    ]
    by_id = {around.stage.id: around for around in arounds}
    _check_ids(findings, frame, by_id)
    for place, edge in enumerate(graph.edges):
        _check_edge(findings, by_id, edge, (*frame.path, "edges", place))
    for place, around in enumerate(arounds):
        _check_compensation(findings, by_id, around, (*frame.path, "stages", place, "compensation"))
    _check_reach(findings, frame, by_id)
    nested: list[Nested] = []
    for place, around in enumerate(arounds):
        nested += check_stage(findings, around, (*frame.path, "stages", place))
    return nested


def _check_ids(findings: Findings, frame: _Frame, by_id: Mapping[str, Around]) -> None:
    seen: set[str] = set()
    for place, stage in enumerate(frame.graph.stages):
        if stage.id in seen:
            message = f"stage id {cut(stage.id)!r} is used more than once. Give each stage its own."
            findings.add("error", message, (*frame.path, "stages", place, "id"), frame.prefix + stage.id)
        seen.add(stage.id)
    if frame.graph.start not in by_id:
        message = f"start stage '{frame.graph.start}' does not exist"
        findings.add("error", message, (*frame.path, "start"), frame.prefix.removesuffix("/") or None)


def _check_edge(findings: Findings, by_id: Mapping[str, Around], edge: Edge, path: Path) -> None:
    subject = f"edge {cut(edge.source)!r} -> {cut(edge.target)!r}"
    source = by_id.get(edge.source)
    stage_id = source.stage_id if source else None
    if source is None:
        told = findings.known("stages", edge.source, by_id.keys())
        findings.add("error", f"{subject} begins at no stage.{told}", (*path, "from"), stage_id)
    if edge.target not in by_id:
        told = findings.known("stages", edge.target, by_id.keys())
        findings.add("error", f"{subject} leads to no stage.{told}", (*path, "to"), stage_id)
    if source is not None:
        check_conditions(findings, source, edge.conditions, subject, (*path, "conditions"))


def _check_compensation(findings: Findings, by_id: Mapping[str, Around], around: Around, path: Path) -> None:
    compensation = around.stage.compensation
    if not isinstance(compensation, StageRefCompensation):
        return
    referred, path = by_id.get(compensation.stage_id), (*path, "stage_id")
    subject = f"stage {around.stage_id!r}: compensation by stage {cut(compensation.stage_id)!r}"
    if referred is None:
        told = findings.known("stages", compensation.stage_id, by_id.keys())
        findings.add("error", f"{subject}, which does not exist.{told}", path, around.stage_id)
    elif referred.stage.step.type == "approval":
        message = f"{subject}, which is an approval. An approval undoes nothing; name a stage that acts."
        findings.add("error", message, path, around.stage_id)


def _check_reach(findings: Findings, frame: _Frame, by_id: Mapping[str, Around]) -> None:
    graph, reach = frame.graph, frame.reach
    places = {stage.id: place for place, stage in enumerate(graph.stages)}
    reachable = set(reach.reachable) | {
        stage.compensation.stage_id for stage in graph.stages if isinstance(stage.compensation, StageRefCompensation)
    }
    for place, stage in enumerate(graph.stages):
        if stage.id not in reachable:
            message = f"stage {frame.prefix + stage.id!r} cannot be reached from the start."
            findings.add("warning", message, (*frame.path, "stages", place), frame.prefix + stage.id)
    for cycle in reach.cycles:
        if not reach.has_way_out(cycle):
            shown = " -> ".join(repr(stage) for stage in (*cycle[:SHOWN_OF_CYCLE], cycle[0]))
            message = f"the cycle {shown} has no way out: it ends at the limit of {graph.max_iterations} executions."
            path = (*frame.path, "stages", places[cycle[0]])
            findings.add("warning", message, path, by_id[cycle[0]].stage_id)
    for place in dead_edges(graph.edges):
        edge = graph.edges[place]
        message = f"edge {cut(edge.source)!r} -> {cut(edge.target)!r} is never taken: an edge before it always holds."
        findings.add("warning", message, (*frame.path, "edges", place), frame.prefix + edge.source)
