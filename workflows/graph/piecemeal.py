"""Reads a large definition piece by piece, for workflow code that gives its worker back between two pieces.

Law: what comes out is what `GraphDefinition` makes of the same value in one go; a field that has no meaning where it
stands is left alone. Only for a definition that was judged: a mistake in it would be told without its place. Pure.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from workflows import wire
from workflows.graph.definition import Action, ActionProposal, Edge, GraphDefinition, Stage, named
from workflows.steps import AgentSpec

PIECE_BYTES = 100_000
# Reading so many takes about 0.02 s, at most twice that where they are all small parts.


@dataclass(frozen=True)
class _Parts:
    """What holds parts in one kind of object, by field."""

    lists: dict[str, tuple[TypeAdapter[Any], str]] = field(default_factory=dict)
    """Fields with any number of parts: what reads them, and their kind."""
    holders: dict[str, str] = field(default_factory=dict)
    """Fields whose one value is of this kind."""


NO_PARTS = _Parts()

KINDS: dict[str, _Parts] = {
    "graph": _Parts(lists={"stages": (TypeAdapter(list[Stage]), "stage"), "edges": (TypeAdapter(list[Edge]), "edge")}),
    "stage": _Parts(holders={"step": "step", "compensation": "step"}),
    "actions": _Parts(lists={"actions": (TypeAdapter(list[Action]), "action")}),
    # The kinds of steps and compensations, by their `type`.
    "pattern": _Parts(lists={"agents": (TypeAdapter(list[AgentSpec]), "agent")}),
    "proposal": _Parts(holders={"proposal": "actions"}),
    "sub_workflow": _Parts(holders={"workflow": "graph"}),
    "loop_until": _Parts(holders={"body": "step"}),
    "for_each": _Parts(holders={"body": "step"}),
    "deliver": _Parts(lists={"sinks": (TypeAdapter(list[ActionProposal]), "actions")}),
}

Pieces = Generator[None, None, Any]
"""Yields after each piece."""


def read_in_pieces(value: dict[str, Any]) -> Generator[None, None, GraphDefinition]:
    """The definition that a plain value describes; yields after each piece of it."""
    prepared = yield from _prepared(value, "graph")
    return GraphDefinition.model_validate(prepared)


def _prepared(value: Any, kind: str) -> Pieces:
    """The same value with every list in it read already; a model takes what is read as it is."""
    if not isinstance(value, dict):
        return value
    parts = KINDS.get(value.get("type", "") if kind == "step" else kind, NO_PARTS)
    prepared = dict(value)
    for name, (reader, inner) in parts.lists.items():
        if isinstance(items := value.get(name), list):
            prepared[name] = yield from _listed(reader, named(items) if inner == "action" else items, inner)
    for name, inner in parts.holders.items():
        if name in value:
            prepared[name] = yield from _prepared(value[name], inner)
    return prepared


def _listed(reader: TypeAdapter[Any], items: list[Any], kind: str) -> Pieces:
    read, piece, piece_bytes = list[Any](), list[Any](), 0
    for item in items:
        size = wire.size(item)
        if size > PIECE_BYTES:
            piece.append((yield from _prepared(item, kind)))
        else:
            piece.append(item)
        piece_bytes += size
        if piece_bytes > PIECE_BYTES:
            read += reader.validate_python(piece)
            piece, piece_bytes = [], 0
            yield
    return read + reader.validate_python(piece)
