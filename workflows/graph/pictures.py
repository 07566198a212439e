"""A stage graph as a picture: Mermaid for texts, DOT for Graphviz.

Stages are shaped by their type, edges carry their conditions, compensations are dashed. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    kind: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Arrow:
    source: str
    target: str
    label: str = ""
    is_dashed: bool = False


@dataclass(frozen=True, slots=True)
class _Picture:
    nodes: list[_Node]
    arrows: list[_Arrow]
    start: str | None
    """The node where a run begins."""


def mermaid(graph: GraphDefinition) -> str:
    """The graph as a Mermaid flowchart."""
    picture = _picture(graph)
    lines = ["flowchart TD"]
    for node in picture.nodes:
        opening, closing = MERMAID_SHAPES[node.kind]
        label = "<br/>".join(_mermaid_text(line) for line in node.lines)
        lines.append(f"    {node.name}{opening}{label}{closing}:::{node.kind}")
    if picture.start is not None:
        lines += ["    start((start))", f"    start --> {picture.start}"]
    for arrow in picture.arrows:
        line = "-.->" if arrow.is_dashed else "-->"
        label = f'|"{_mermaid_text(arrow.label)}"|' if arrow.label else ""
        lines.append(f"    {arrow.source} {line}{label} {arrow.target}")
    for kind in dict.fromkeys(node.kind for node in picture.nodes):
        lines.append(f"    classDef {kind} fill:{FILLS[kind]},stroke:{INK},color:{INK}")
    return "\n".join(lines) + "\n"


def dot(graph: GraphDefinition) -> str:
    """The graph in Graphviz's language."""
    picture = _picture(graph)
    lines = [
        f"digraph {_dot_text(graph.id)} {{",
        f'    node [fontname="sans-serif", color="{INK}", fontcolor="{INK}"]',
        f'    edge [fontname="sans-serif", fontsize=10, color="{INK}"]',
    ]
    for node in picture.nodes:
        label = _dot_text("\n".join(node.lines))
        lines.append(f'    {node.name} [label={label}, {DOT_SHAPES[node.kind]}, fillcolor="{FILLS[node.kind]}"]')
    if picture.start is not None:
        lines += [f'    start [label="", shape=point, color="{INK}"]', f"    start -> {picture.start}"]
    for arrow in picture.arrows:
        dashed = ", style=dashed" if arrow.is_dashed else ""
        lines.append(f"    {arrow.source} -> {arrow.target} [label={_dot_text(arrow.label)}{dashed}]")
    return "\n".join([*lines, "}"]) + "\n"


def _picture(graph: GraphDefinition) -> _Picture:
    names = {stage.id: f"s{number}" for number, stage in enumerate(graph.stages)}
    nodes = [_Node(names[stage.id], stage.step.type, _stage_lines(stage)) for stage in graph.stages]
    arrows = [
        _Arrow(names[edge.source], names[edge.target], _edge_label(edge))
        for edge in graph.edges
        if edge.source in names and edge.target in names
    ]
    for number, stage in enumerate(graph.stages):
        compensation = stage.compensation
        if isinstance(compensation, StageRefCompensation) and compensation.stage_id in names:
            arrows.append(_Arrow(names[stage.id], names[compensation.stage_id], "undone by", is_dashed=True))
        if isinstance(compensation, ProposalCompensation):
            nodes.append(_Node(f"u{number}", "proposal", (f"undo {stage.name}", *_tools(compensation))))
            arrows.append(_Arrow(names[stage.id], f"u{number}", "undone by", is_dashed=True))
    return _Picture(nodes, arrows, names.get(graph.start))


def _stage_lines(stage: Stage) -> tuple[str, ...]:
    return (cut(stage.name, LABEL_LENGTH), *_step_lines(stage.step))


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
