"""A large definition read piece by piece is the same as one that is read in one go."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.definitions import APPROVAL, call, edge, graph, nested, pattern, proposal, stage, write
from workflows.graph.definition import GraphDefinition
from workflows.graph.piecemeal import PIECE_BYTES, read_in_pieces

MANY = 3_000
TEXT = "x" * 100
ACTIONS = proposal(*(write(f"key-{number}", TEXT) for number in range(MANY)))
UNDO = {"type": "proposal", "proposal": ACTIONS["proposal"]}


def read(value: dict[str, Any]) -> tuple[GraphDefinition, int]:
    """The definition, and after how many pieces."""
    reading, pieces = read_in_pieces(value), 1
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value, pieces
        pieces += 1


@pytest.mark.parametrize(
    "definition",
    [
        graph(*(stage(f"s{number}", pattern("fleet", "a", task=TEXT)) for number in range(MANY))),
        graph(stage("a"), edges=[edge("a", "a", {"key": TEXT}) for _ in range(MANY)]),
        graph(stage("a", pattern("fleet", *(f"{TEXT}-{number}" for number in range(MANY))))),
        graph(stage("a", ACTIONS)),
        graph(stage("a", proposal(*({**call("t", text=TEXT), "id": "own"} for _ in range(MANY))))),
        graph(stage("a", compensation=UNDO)),
        graph(stage("a", nested(*(stage(f"s{number}", pattern("vote", "a", task=TEXT)) for number in range(MANY))))),
        graph(stage("a", {"type": "for_each", "items_from": "i", "body": ACTIONS})),
        graph(stage("a", {"type": "deliver", "sinks": [ACTIONS["proposal"], {"actions": []}]})),
    ],
    ids=["stages", "edges", "agents", "actions", "named", "compensation", "nested", "body", "sinks"],
)
def test_large_definition_is_read_in_pieces(definition: dict[str, Any]) -> None:
    """Whatever it is large by, no piece is much larger than the bound, and the whole is the same."""
    value, pieces = read(json.loads(json.dumps(definition)))
    assert value == GraphDefinition.model_validate(definition)
    assert pieces >= 3


def test_small_definition_is_one_piece() -> None:
    """What is below the bound is read in one go."""
    definition = graph(stage("a", APPROVAL), stage("b"), edges=[edge("a", "b")], initial_state={"n": [1]})
    assert read(definition) == (GraphDefinition.model_validate(definition), 1)


def test_large_value_is_no_list_of_parts() -> None:
    """A state, a task or a parameter is one piece: reading JSON costs little."""
    definition = graph(stage("a", proposal(write("stages", [TEXT]))), initial_state={"stages": ["x" * PIECE_BYTES]})
    assert read(definition) == (GraphDefinition.model_validate(definition), 1)
