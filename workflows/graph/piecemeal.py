"""Reads a large definition piece by piece, for workflow code that gives its worker back between two pieces.

Law: what comes out is what `GraphDefinition` makes of the same value in one go. Only for a definition that was judged:
a mistake in it would be told without its place. Pure.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from pydantic import TypeAdapter

from workflows import wire
from workflows.graph.definition import Action, ActionProposal, Edge, GraphDefinition, Stage, named
from workflows.steps import AgentSpec

PIECE_BYTES = 100_000
# Reading so many takes about 0.02 s, at most twice that where they are all small parts.

LISTS: dict[str, TypeAdapter[Any]] = {
    "stages": TypeAdapter(list[Stage]),
    "edges": TypeAdapter(list[Edge]),
    "agents": TypeAdapter(list[AgentSpec]),
    "actions": TypeAdapter(list[Action]),
    "sinks": TypeAdapter(list[ActionProposal]),
}
"""Fields that hold any number of parts, and what reads them."""

HOLDERS = ("step", "body", "compensation", "proposal", "workflow")
"""Fields whose value may hold such a list, at any depth."""

Pieces = Generator[None, None, Any]
"""Yields after each piece."""


def read_in_pieces(value: dict[str, Any]) -> Generator[None, None, GraphDefinition]:
    """The definition that a plain value describes; yields after each piece of it."""
    prepared = yield from _prepared(value)
    return GraphDefinition.model_validate(prepared)


def _prepared(value: Any) -> Pieces:
    """The same value with every list in it read already; a model takes what is read as it is."""
    if not isinstance(value, dict):
        return value
    prepared = dict(value)
    for name, item in value.items():
        if name in LISTS and isinstance(item, list):
            prepared[name] = yield from _listed(LISTS[name], named(item) if name == "actions" else item)
        elif name in HOLDERS:
            prepared[name] = yield from _prepared(item)
    return prepared


def _listed(reader: TypeAdapter[Any], items: list[Any]) -> Pieces:
    read, piece, piece_bytes = list[Any](), list[Any](), 0
    for item in items:
        size = wire.size(item)
        if size > PIECE_BYTES:
            piece.append((yield from _prepared(item)))
        else:
            piece.append(item)
        piece_bytes += size
        if piece_bytes > PIECE_BYTES:
            read += reader.validate_python(piece)
            piece, piece_bytes = [], 0
            yield
    return read + reader.validate_python(piece)
