"""What `{{key}}` in a definition becomes when a graph runs, and the goal that stands before every task."""

from __future__ import annotations

from typing import Any

import pytest

from tests.definitions import edge, graph, nested, pattern, proposal, stage, write
from tests.graphs import (
    asks,
    complete,
    error_of,
    fail,
    output_of,
    result_in_failure,
    row,
    writes,
)
from tests.support import World, events_of


async def test_references_are_replaced(world: World) -> None:
    """In a task, a system prompt, a config, a parameter and a sub-workflow's initial state."""
    definition = row(
        stage("ask", pattern("map_reduce", "echo", "brief", task="For {{who}}", items="{{items}}")),
        stage("write", proposal(write("copy", "{{items}}"), write("text", "{{who}}: {{items}}"))),
        stage("sub", nested(stage("in", writes(out="{{given}}")), initial_state={"given": "{{items}}"})),
        initial_state={"who": "you", "items": ["x", 1]},
    )
    result = await complete(world, definition)
    assert [each["name"] for each in output_of(result, "ask")["outputs"]] == ["echo_0", "echo_1", "brief"]
    assert "For you" in output_of(result, "ask")["outputs"][0]["answer"]
    assert (result["final_state"]["copy"], result["final_state"]["text"]) == (["x", 1], 'you: ["x",1]')
    assert output_of(result, "sub")["result"]["final_state"]["out"] == ["x", 1]


async def test_missing_key_fails_its_stage_and_is_named(world: World) -> None:
    """A client's run goes on with a doubt, which is an event, and fails at the stage."""
    handle = await world.start("StageGraph", row(stage("a"), stage("b", asks("echo", "{{wat}}"))))
    result = await result_in_failure(handle)
    assert error_of(result, "b") == "'{{wat}}' has no value: the state has no key 'wat'"
    assert [event["message"] for event in await events_of(handle, "log")] == [
        "stage 'b': '{{wat}}' has no value: nothing in this graph produces 'wat'."
    ]


@pytest.mark.parametrize("where", ["graph", "stage"])
async def test_references_can_be_switched_off(world: World, where: str) -> None:
    """`templates: false` in the metadata of the graph or of the stage."""
    off = {"metadata": {"templates": False}}
    definition = (
        graph(stage("a", writes(n="{{wat}}"), **off))
        if where == "stage"
        else graph(stage("a", writes(n="{{wat}}")), **off)
    )
    assert (await complete(world, definition))["final_state"]["n"] == "{{wat}}"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{{n}}{{n}}", "with its references replaced, a value is 2.1 MB and the limit is 1.9 MB"),
        (["{{n}}", "{{n}}"], "with its references replaced, a value holds more than 30,000 lists and objects"),
        (["{{n}}"], "with its references replaced, a value nests more than 100 deep"),
    ],
    ids=["text", "wide", "deep"],
)
async def test_references_that_blow_up_fail_their_stage(world: World, value: Any, told: str) -> None:
    """A loop that doubles a value, or nests it once more each time, ends before the worker's memory does."""
    definition = graph(
        stage("a", proposal(write("n", value))),
        edges=[edge("a", "a")],
        initial_state={"n": "01234567"},
        max_iterations=1_000,
    )
    result = await fail(world, definition)
    assert error_of(result, "a") == told


async def test_reference_to_what_is_deep_and_large_fails_its_stage(world: World) -> None:
    """What is nested deeper than anybody can measure is refused for that, however large it is."""
    deep: Any = "x" * 400_000
    for _ in range(150):
        deep = [deep]
    around: Any = "{{deep}}"
    for _ in range(150):
        around = [around]
    result = await fail(world, graph(stage("a", writes(n=around)), initial_state={"deep": deep}))
    assert error_of(result, "a") == "with its references replaced, a value nests more than 100 deep"


async def test_goal_stands_before_every_task(world: World) -> None:
    """State key `goal`, and each pattern's task begins with it; nobody else's `goal` counts."""
    definition = row(stage("a", asks("echo", "Look")), goal="Be good", initial_state={"goal": "Be bad"})
    result = await complete(world, definition)
    assert result["final_state"]["stage.a.answer"] == "Overall goal: Be good\nCurrent step: Look"
    assert result["final_state"]["goal"] == "Be good"


async def test_goal_cannot_be_injected(world: World) -> None:
    """Where the definition has no goal, the state has none, whatever the start brings."""
    result = await complete(world, graph(stage("a", asks("echo", "Look")), initial_state={"goal": "Be bad"}))
    assert result["final_state"]["stage.a.answer"] == "Look"
    assert "goal" not in result["final_state"]
