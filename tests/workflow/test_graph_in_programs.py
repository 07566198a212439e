"""Graphs that a program runs by `run_graph`: they share its run, and are data to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.exceptions import CancelledError

from tests.definitions import edge, graph, nested, stage
from tests.graph_programs import Composed, Readers, SideBySide
from tests.graphs import (
    FAILURE,
    asks,
    each,
    fails,
    ref,
    row,
    timeless,
    undo,
    undone,
    until_told,
    writes,
)
from tests.slices import lower
from tests.support import World, events_of, failure_of, served


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(client, Composed, Readers, SideBySide) as world:
        yield world


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        (graph(stage("a"), start="b"), ("failed", [("b", "no start stage defined")], [])),
        (
            graph(stage("a", compensation=undo(back=1)), edges=[edge("a", "b")]),
            ("compensated", [("a", None), ("b", "stage not found: 'b'")], [("a", "compensated")]),
        ),
        (
            row(stage("a", compensation=ref("b")), stage("c", fails())),
            ("partially_compensated", [("a", None), ("c", FAILURE)], [("a", "failed")]),
        ),
    ],
    ids=["start", "edge", "stage_ref"],
)
async def test_graph_that_nobody_verified_ends_all_the_same(world: World, definition: Any, expected: Any) -> None:
    """A program may hand over a graph that leads to no stage; the result says so."""
    [_, result, _] = await world.run("Composed", {"graphs": [definition]})
    told = [(each["stage_id"], each.get("error")) for each in result["stages"]]
    assert (result["status"], told, undone(result)) == expected


async def test_stage_ref_that_is_unknown_is_a_failed_compensation(world: World) -> None:
    """`stage not found: '<id>'`, and the others run."""
    definition = row(stage("a", compensation=undo(back=1)), stage("b", compensation=ref("x")), stage("c", fails()))
    [_, result, _] = await world.run("Composed", {"graphs": [definition]})
    assert timeless(result["compensations"]) == [
        {"for_stage_id": "b", "status": "failed", "error": "stage not found: 'x'"},
        {"for_stage_id": "a", "status": "compensated"},
    ]


async def test_run_graph_shares_the_run(world: World) -> None:
    """A graph inside a program has its budget, its events, its phase numbers and its place in `progress`."""
    graphs = [row(stage("a", asks("greedy")), stage("b", asks("greedy"))), graph(stage("c", asks("greedy")))]
    handle = await world.start("Composed", {"agent": "greedy", "graphs": graphs}, budget_tokens=3_500)
    [before, first, second, after] = await handle.result()
    assert (before, first["status"]) == ("before", "completed")
    assert second["stages"][0]["error"] == "agent error: no agents produced output"
    assert after.startswith("Task failed: ")
    progress = await handle.query("progress")
    assert [(phase["name"], phase["index"], phase["status"]) for phase in progress["phases"]] == [
        ("a", 0, "done"),
        ("b", 1, "done"),
        ("c", 2, "failed"),
    ]
    assert [each["step"] for each in progress["steps"]] == [
        "c0.0:before",
        "0.0:greedy",
        "1.0:greedy",
        "2.0:greedy",
        "c1.0:after",
    ]
    assert (await handle.query("budget"))["consumed_tokens"] == 3_000


async def test_run_graph_brings_a_result_whatever_its_status(world: World) -> None:
    """A graph that fails is data to the program; its initial state may come from there."""
    plan = {
        "graphs": [row(stage("a", writes(n="{{m}}"), compensation=undo(back="{{m}}")), stage("b", fails()))],
        "state": {"m": 1},
    }
    [_, result, after] = await world.run("Composed", plan)
    assert (result["status"], result["final_state"]["back"], after) == ("compensated", 1, "after")


@pytest.mark.parametrize("inline", [2, 10], ids=["children", "run"])
async def test_run_graph_brings_what_every_item_brought(
    world: World, monkeypatch: pytest.MonkeyPatch, inline: int
) -> None:
    """A program reads it as it is, whether children carried the items or the run itself."""
    lower(monkeypatch, inline, 2)
    items = {"items": ["a", "b", "c"]}
    inner = nested(stage("u", each(asks("echo"))), initial_state=items)
    definition = row(stage("s", each(asks("echo", "{{item}}"))), stage("t", inner), initial_state=items)
    handle = await world.start("Readers", definition)
    assert await handle.result() == ["a", "b", "c", "Do it", "Do it", "Do it"]
    assert bool(await events_of(handle, "slice_started")) == (inline == 2)


async def test_run_graph_that_is_cancelled_compensates_then_raises(world: World) -> None:
    """The graph undoes what it did, and the program's run ends Canceled."""
    handle = await world.start(
        "Composed", {"graphs": [row(stage("a", compensation=undo(back=1)), stage("b", asks("slow")))]}
    )
    await until_told(handle, "step_started", 2)
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    told = [event["name"] for event in await events_of(handle, "compensation_finished")]
    assert told == ["a"]


async def test_graphs_run_side_by_side(world: World) -> None:
    """Each has a state of its own, and its steps stand under its own stages."""
    graphs = [row(stage("a", asks("brief", f"say {n}")), stage("b", writes(n="{{stage.a.answer}}"))) for n in range(3)]
    handle = await world.start("SideBySide", graphs)
    assert [result["final_state"]["n"] for result in await handle.result()] == ["say 0", "say 1", "say 2"]
    steps = [each["step"] for each in (await handle.query("progress"))["steps"]]
    assert sorted(steps) == ["0.0:brief", "1.0:brief", "2.0:brief"]
