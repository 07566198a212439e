"""Chains: graphs one after the other in a run, each with what the one before it left."""

from __future__ import annotations

from typing import Any

import pytest

from tests.definitions import graph, proposal, stage
from tests.graphs import (
    asks,
    check,
    fails,
    result_in_failure,
    row,
    timeless,
    visits,
    writes,
)
from tests.support import World, events_of, failure_of, rejection_of


async def test_chain_hands_on_what_each_graph_left(world: World) -> None:
    """Each next initial state is the caller's, overlaid by the previous final state."""
    first = graph(stage("a", writes(n="{{m}}")), id="first", goal="Mine", initial_state={"m": "own"})
    second = graph(stage("b", writes(o="{{n}}{{m}}")), id="second")
    chain = {"graphs": [first, second], "initial_state": {"m": "given"}}
    results = timeless(await world.run("Chain", chain))
    assert [result["workflow_id"] for result in results] == ["first", "second"]
    assert results[1]["final_state"] == {
        "m": "given",
        "n": "given",
        "o": "givengiven",
        "stage.a.succeeded": True,
        "stage.a.answer": '"given"',
        "stage.b.succeeded": True,
        "stage.b.answer": '"givengiven"',
    }


async def test_chain_stops_at_the_first_that_does_not_complete(world: World) -> None:
    """Its status and result are the run's; the results before it come along."""
    graphs = [graph(stage("a"), id="one"), graph(stage("b", fails()), id="two"), graph(stage("c"), id="three")]
    handle = await world.start("Chain", {"graphs": graphs})
    result = await result_in_failure(handle)
    assert (result["workflow_id"], visits(result)) == ("two", ["b"])
    [_, earlier] = (await failure_of(handle)).details  # type: ignore[attr-defined]
    assert [each["workflow_id"] for each in earlier] == ["one"]


async def test_chain_judges_all_graphs_first(world: World) -> None:
    """Nothing runs where one of them cannot."""
    handle = await world.start("Chain", {"graphs": [graph(stage("a")), graph(stage("b"), start="x")]})
    assert await rejection_of(handle) == ("GraphRejected", "start stage 'x' does not exist")
    assert await events_of(handle) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "Chain: 'graphs' is missing."),
        ({"graphs": []}, "Chain: 'graphs' is empty; a chain has at least one graph."),
        ({"graphs": [], "initial_state": 3}, "Chain: 'initial_state' is 3; input should be an object."),
    ],
    ids=["null", "empty", "wrong"],
)
async def test_chain_of_nothing_is_refused(world: World, given: Any, told: str) -> None:
    """A chain has at least one graph."""
    assert await rejection_of(await world.start("Chain", given)) == ("InputRejected", told)


async def test_chain_hands_on_large_values_whole(world: World) -> None:
    """What the result had to leave out is still there for the next graph, and both results fit together."""
    first = row(stage("a", asks("verbose", "1500000")), stage("b", writes(copy="{{stage.a.answer}}")))
    second = graph(stage("c", proposal(check("copy", "x" * 20_000, "contains"))))
    [one, two] = await world.run("Chain", {"graphs": [first, second]})
    assert one["final_state"]["copy"].startswith("[left out: 1,500,000 bytes")
    assert two["status"] == "completed"
