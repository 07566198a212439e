"""A stage graph as a picture: Mermaid for texts, DOT for Graphviz.

Stages are shaped by their type, edges carry their conditions, compensations are dashed. Where it is known what happened
in a run, stages are coloured by their state and the edges taken are bold. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

from workflows.errors import cut
from workflows.graph.definition import (
    Condition,
    Edge,
    GraphDefinition,
    ProposalCompensation,
    Stage,
    StageRefCompensation,
    Step,
)
from workflows.graph.walk import UNDOING, StageState, Walk

LABEL_LENGTH = 60
# A label that is longer widens the whole picture.

SIGNS = {"eq": "=", "neq": "≠", "gt": ">", "gte": "≥", "lt": "<", "lte": "≤"}

MERMAID_SHAPES = {
    "pattern": ('("', '")'),
    "proposal": ('["', '"]'),
    "sub_workflow": ('[["', '"]]'),
    "approval": ('{{"', '"}}'),
    "loop_until": ('(["', '"])'),
    "for_each": ('[/"', '"\\]'),
    "dedup": ('[("', '")]'),
    "deliver": ('>"', '"]'),
}
"""Brackets by step type."""

DOT_SHAPES = {
    "pattern": 'shape=box, style="rounded,filled"',
    "proposal": 'shape=box, style="filled"',
    "sub_workflow": 'shape=box, peripheries=2, style="filled"',
    "approval": 'shape=hexagon, style="filled"',
    "loop_until": 'shape=ellipse, style="filled"',
    "for_each": 'shape=trapezium, style="filled"',
    "dedup": 'shape=cylinder, style="filled"',
    "deliver": 'shape=cds, style="filled"',
}

FILLS = {
    "pattern": "#dbeafe",
    "proposal": "#dcfce7",
    "sub_workflow": "#ede9fe",
    "approval": "#fef3c7",
    "loop_until": "#fce7f3",
    "for_each": "#fce7f3",
    "dedup": "#e2e8f0",
    "deliver": "#ccfbf1",
}
INK = "#1f2937"
# Dark on pale fills: readable on a white page and on a dark one.

BOLD = 3
# Points of a line that was followed, beside 1 of one that was not.

STATE_TEXTS: dict[StageState, str] = {
    "succeeded": "✓ succeeded",
    "failed": "✗ failed",
    "skipped": "- skipped",
    "compensated": "↩ compensated",
    "compensation_failed": "✗ compensation failed",
    "running": "▶ running",
    "waiting": "… waits for a person",
    "compensating": "▶ being compensated",
    "cut_off": "✗ cut off: the run ended",
    "not_reached": "not reached",
}
"""The state in words: nobody has to tell colours apart."""

STATE_FILLS: dict[StageState, str] = {
    "succeeded": "#bbf7d0",
    "failed": "#fca5a5",
    "skipped": "#e2e8f0",
    "compensated": "#e9d5ff",
    "compensation_failed": "#f0abfc",
    "running": "#bfdbfe",
    "waiting": "#fde047",
    "compensating": "#c7d2fe",
    "cut_off": "#fdba74",
    "not_reached": "#ffffff",
}


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    kind: str
    lines: tuple[str, ...]
    state: StageState | None = None
    """None where nothing is known of a run."""

    @property
    def look(self) -> str:
        """What colours it."""
        return self.state or self.kind

    @property
    def fill(self) -> str:
        """Its colour."""
        return STATE_FILLS[self.state] if self.state else FILLS[self.kind]


@dataclass(frozen=True, slots=True)
class _Arrow:
    source: str
    target: str
    label: str = ""
    is_dashed: bool = False
    is_bold: bool = False


@dataclass(frozen=True, slots=True)
class _Picture:
    name: str
    nodes: list[_Node]
    arrows: list[_Arrow]
    start: str
    """The node in front of the first stage."""
    last: str | None
    """The stage that was written last; below it comes the next graph of a chain."""
    title: str = ""
    """Of the frame around it, where it is one of several."""


def mermaid(*graphs: GraphDefinition, walks: Sequence[Walk] = (), caption: str = "") -> str:
    """The graph as a Mermaid flowchart; several are those of a chain, each in a frame of its own.

    `walks` says what happened to each of them; a legend comes with it, under the caption.
    """
    pictures = _pictures(graphs, walks)
    lines = ["flowchart TD"]
    for picture in pictures:
        frame = f'    subgraph {picture.name}["{_mermaid_text(picture.title)}"]'
        lines += [frame, *_mermaid_lines(picture), "    end"] if picture.title else _mermaid_lines(picture)
    lines += [f"    {before.name} --> {after.name}" for before, after in pairwise(pictures)]
    shown = [node for picture in pictures for node in picture.nodes]
    legend = _legend(shown) if walks else []
    if legend:
        lines += [f'    subgraph legend["{_mermaid_text(caption)}"]', *map(_mermaid_node, legend), "    end"]
    for look, fill in {node.look: node.fill for node in (*shown, *legend)}.items():
        lines.append(f"    classDef {look} fill:{fill},stroke:{INK},color:{INK}")
    arrows = [arrow for picture in pictures for arrow in picture.arrows]
    bold = [str(number) for number, arrow in enumerate(arrows) if arrow.is_dashed and arrow.is_bold]
    lines += [f"    linkStyle {','.join(bold)} stroke-width:{BOLD}px"] if bold else []
    return "\n".join(lines) + "\n"


def _mermaid_lines(picture: _Picture) -> list[str]:
    lines = [_mermaid_node(node) for node in picture.nodes]
    lines += [f"    {arrow.source}((start))" for arrow in picture.arrows if arrow.source == picture.start]
    return lines + [_mermaid_arrow(arrow) for arrow in picture.arrows]


def _mermaid_node(node: _Node) -> str:
    opening, closing = MERMAID_SHAPES[node.kind]
    return f"    {node.name}{opening}{'<br/>'.join(map(_mermaid_text, node.lines))}{closing}:::{node.look}"


def _mermaid_arrow(arrow: _Arrow) -> str:
    # Mermaid has no line that is dashed and thick; those get a linkStyle.
    line = "-.->" if arrow.is_dashed else "==>" if arrow.is_bold else "-->"
    label = f'|"{_mermaid_text(arrow.label)}"|' if arrow.label else ""
    return f"    {arrow.source} {line}{label} {arrow.target}"


def dot(*graphs: GraphDefinition, walks: Sequence[Walk] = (), caption: str = "") -> str:
    """The same in Graphviz's language."""
    pictures = _pictures(graphs, walks)
    lines = [
        f"digraph {_dot_text(graphs[0].id)} {{",
        f'    node [fontname="sans-serif", color="{INK}", fontcolor="{INK}"]',
        f'    edge [fontname="sans-serif", fontsize=10, color="{INK}"]',
    ]
    if walks:
        lines.append(f'    graph [fontname="sans-serif", color="{INK}", fontcolor="{INK}", compound=true]')
    for picture in pictures:
        frame = f"    subgraph cluster_{picture.name} {{ label={_dot_text(picture.title)}"
        lines += [frame, *_dot_lines(picture), "    }"] if picture.title else _dot_lines(picture)
    for before, after in pairwise(pictures):
        if before.last and after.last:
            ends = f"ltail=cluster_{before.name}, lhead=cluster_{after.name}"
            lines.append(f"    {before.last} -> {after.start} [{ends}]")
    if walks:
        # Graphviz sets a row without arrows from right to left.
        legend = _legend([node for picture in pictures for node in picture.nodes])[::-1]
        lines += [f"    subgraph cluster_legend {{ label={_dot_text(caption)}", *map(_dot_node, legend), "    }"]
    return "\n".join([*lines, "}"]) + "\n"


def _dot_lines(picture: _Picture) -> list[str]:
    lines = [_dot_node(node) for node in picture.nodes]
    starts = [arrow.source for arrow in picture.arrows if arrow.source == picture.start]
    lines += [f'    {start} [label="", shape=point, color="{INK}"]' for start in starts]
    return lines + [_dot_arrow(arrow, picture.start) for arrow in picture.arrows]


def _dot_node(node: _Node) -> str:
    label = _dot_text("\n".join(node.lines))
    return f'    {node.name} [label={label}, {DOT_SHAPES[node.kind]}, fillcolor="{node.fill}"]'


def _dot_arrow(arrow: _Arrow, start: str) -> str:
    attributes = [] if arrow.source == start else [f"label={_dot_text(arrow.label)}"]
    attributes += ["style=dashed"] if arrow.is_dashed else []
    attributes += [f"penwidth={BOLD}"] if arrow.is_bold else []
    told = f" [{', '.join(attributes)}]" if attributes else ""
    return f"    {arrow.source} -> {arrow.target}{told}"


def _pictures(graphs: Sequence[GraphDefinition], walks: Sequence[Walk]) -> list[_Picture]:
    if len(graphs) == 1:
        return [_picture(graphs[0], walks[0] if walks else None)]
    pictures = []
    for number, graph in enumerate(graphs):
        walk = walks[number] if walks else None
        told = f": {walk.status}" if walk else ""
        title = f"{number + 1} of {len(graphs)}, {cut(graph.name, LABEL_LENGTH)}{told}"
        pictures.append(_picture(graph, walk, f"g{number}", title))
    return pictures


def _picture(graph: GraphDefinition, walk: Walk | None, prefix: str = "", title: str = "") -> _Picture:
    names = {stage.id: f"{prefix}s{number}" for number, stage in enumerate(graph.stages)}
    start = f"{prefix}start"
    nodes = [_stage_node(names[stage.id], stage, walk) for stage in graph.stages]
    was_begun = bool(walk and walk.visits)
    arrows = [_Arrow(start, names[graph.start], is_bold=was_begun)] if graph.start in names else []
    arrows += [
        _Arrow(
            names[edge.source],
            names[edge.target],
            _edge_label(edge),
            is_bold=walk is not None and (edge.source, edge.target) in walk.taken,
        )
        for edge in graph.edges
        if edge.source in names and edge.target in names
    ]
    for number, stage in enumerate(graph.stages):
        undoing = UNDOING.get(walk.states.get(stage.id, "not_reached"), "not_reached") if walk else None
        is_undone = undoing not in (None, "not_reached")
        compensation = stage.compensation
        if isinstance(compensation, StageRefCompensation) and compensation.stage_id in names:
            target = names[compensation.stage_id]
            arrows.append(_Arrow(names[stage.id], target, "undone by", is_dashed=True, is_bold=is_undone))
        if isinstance(compensation, ProposalCompensation):
            target = f"{prefix}u{number}"
            told = [STATE_TEXTS[undoing]] if undoing else []
            lines = (f"undo {stage.name}", *_tools(compensation), *told)
            nodes.append(_Node(target, "proposal", lines, undoing))
            arrows.append(_Arrow(names[stage.id], target, "undone by", is_dashed=True, is_bold=is_undone))
    last = f"{prefix}s{len(graph.stages) - 1}" if graph.start in names else None
    return _Picture(prefix, nodes, arrows, start, last, title)


def _stage_node(name: str, stage: Stage, walk: Walk | None) -> _Node:
    lines = (cut(stage.name, LABEL_LENGTH), *_step_lines(stage.step))
    if walk is None:
        return _Node(name, stage.step.type, lines)
    state, visits = walk.states.get(stage.id, "not_reached"), walk.visits.get(stage.id, 0)
    told = STATE_TEXTS[state]
    if visits > 1:
        told += f", ran {visits:,} times"
    elif not visits and state != "not_reached":
        told += ", as a compensation"
    return _Node(name, stage.step.type, (*lines, told), state)


def _legend(shown: Sequence[_Node]) -> list[_Node]:
    """A node for each state that the picture shows."""
    states = {node.state for node in shown}
    known = [state for state in get_args(StageState) if state in states]
    explained = [_Node(f"l{number}", "proposal", (STATE_TEXTS[state],), state) for number, state in enumerate(known)]
    return [*explained, _Node("bold", "proposal", ("bold: the way it went",), "not_reached")]


def _step_lines(step: Step) -> Iterator[str]:
    """What a stage does, one line for each level of nesting."""
    match step.type:
        case "pattern":
            yield f"{step.pattern}, {_count(len(step.agents), 'agent')}"
        case "proposal":
            yield _count(len(step.proposal.actions), "action")
        case "sub_workflow":
            yield f"graph {cut(step.workflow.name, LABEL_LENGTH)}, {_count(len(step.workflow.stages), 'stage')}"
        case "approval":
            yield "approval"
        case "loop_until":
            until = f" until {_told(step.until)}" if step.until else ""
            yield f"up to {step.max_iterations} times{until}"
            yield from _step_lines(step.body)
        case "for_each":
            yield f"for each of {cut(step.items_from, LABEL_LENGTH)}"
            yield from _step_lines(step.body)
        case "dedup":
            yield f"unseen of {cut(step.items_from, LABEL_LENGTH)}"
        case "deliver":
            yield _count(len(step.sinks), "sink")


def _tools(compensation: ProposalCompensation) -> Iterator[str]:
    named = dict.fromkeys(action.tool or action.type for action in compensation.proposal.actions)
    if named:
        yield cut(", ".join(named), LABEL_LENGTH)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _edge_label(edge: Edge) -> str:
    told = _told(edge.conditions)
    return f"{cut(edge.label, LABEL_LENGTH)}: {told}" if edge.label and told else cut(edge.label, LABEL_LENGTH) or told


def _told(conditions: Iterable[Condition]) -> str:
    return " and ".join(_condition(condition) for condition in conditions)


def _condition(condition: Condition) -> str:
    key = cut(condition.key, LABEL_LENGTH)
    if condition.operator in ("exists", "not_exists"):
        return f"{key} {condition.operator.replace('_', ' ')}"
    sign = SIGNS.get(condition.operator, condition.operator)
    return f"{key} {sign} {cut(json.dumps(condition.value, ensure_ascii=False), LABEL_LENGTH)}"


def _mermaid_text(text: str) -> str:
    """Mermaid has entities for what would end a label or be read as markup."""
    flat = " ".join(text.split())
    return "".join(f"#{ord(letter)};" if letter in '"#&<>`\\|' else letter for letter in flat)


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", "\\n").replace("\0", " ")
    return f'"{escaped}"'
