"""A stage for each item of a list: the order of the items, what they may see, their window, and their failures."""

from __future__ import annotations

from typing import Any

import pytest

from tests.definitions import graph, pattern, proposal, stage, write
from tests.graphs import (
    asks,
    check,
    complete,
    each,
    error_of,
    fail,
    fails,
    lingers,
    output_of,
    when,
)
from tests.histories import most_at_once
from tests.support import World, events_of


async def test_for_each_keeps_the_order_of_the_items(world: World) -> None:
    """`{{item}}` and `{{index}}`; results by place, whichever item was done first."""
    body = pattern("fleet", "echo", "brief", task="{{index}}: {{item}}")
    result = await complete(world, graph(stage("s", each(body)), initial_state={"items": ["a", {"b": 1}]}))
    output = output_of(result, "s")
    answers = [[agent["answer"] for agent in outputs["outputs"]] for outputs in output["outputs"]]
    assert (output["items"], answers) == (2, [["0: a"] * 2, ['1: {"b":1}'] * 2])
    assert {key: value for key, value in result["final_state"].items() if key.startswith("foreach.")} == {
        "foreach.s.0.item": "a",
        "foreach.s.0.answer": "2 succeeded, 0 failed",
        "foreach.s.0.state.agent.echo.answer": "0: a",
        "foreach.s.0.state.agent.brief.answer": "0: a",
        "foreach.s.1.item": {"b": 1},
        "foreach.s.1.answer": "2 succeeded, 0 failed",
        "foreach.s.1.state.agent.echo.answer": '1: {"b":1}',
        "foreach.s.1.state.agent.brief.answer": '1: {"b":1}',
        "foreach.s.count": 2,
    }


async def test_items_do_not_see_each_other(world: World) -> None:
    """An item's writes are its own, and the state after the stage has them under the item's keys alone."""
    body = proposal(check("n", 0), write("n", "{{item}}"), check("n", "{{item}}", "exists"))
    definition = graph(stage("s", each(body)), initial_state={"items": [1, 2, 3], "n": 0})
    state = (await complete(world, definition))["final_state"]
    assert state["n"] == 0
    assert [state[f"foreach.s.{index}.state.n"] for index in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    "state", [{"items": []}, {"items": "text"}, {"items": {"a": 1}}, {}], ids=["empty", "text", "object", "missing"]
)
async def test_for_each_without_items_does_nothing(world: World, state: Any) -> None:
    """Missing or no array is nothing to do."""
    result = await complete(world, graph(stage("s", each(fails())), initial_state=state))
    assert output_of(result, "s") == {"type": "for_each", "items": 0}
    assert result["final_state"]["foreach.s.count"] == 0


@pytest.mark.parametrize(
    "step",
    [each(fails()), {"type": "dedup", "items_from": "items", "into": "new", "store": "empty"}],
    ids=["for_each", "dedup"],
)
async def test_what_is_no_list_is_told(world: World, step: Any) -> None:
    """An answer that reads like a list is a text: the stage has nothing to do, and the events say why."""
    handle = await world.start("StageGraph", graph(stage("s", step), initial_state={"items": '["a"]'}))
    await handle.result()
    assert await events_of(handle, "log") == [
        {
            "type": "log",
            "level": "warning",
            "message": "stage 's' has nothing to do: the state's 'items' is '[\"a\"]', and no list.",
            "fields": {"stage": "s"},
        }
    ]


async def test_steps_of_an_item_say_which(world: World) -> None:
    """In the Temporal UI the steps of a `for_each` are told apart by their summaries."""
    one_by_one = each(pattern("fleet", "echo"), max_concurrent=1)
    handle = await world.start("StageGraph", graph(stage("s", one_by_one), initial_state={"items": ["a", "b"]}))
    await handle.result()
    events = [event async for event in handle.fetch_history_events()]
    steps = [event for event in events if event.HasField("activity_task_scheduled_event_attributes")]
    told = [event.user_metadata.summary.data for event in steps]
    assert told == [b'"echo: echo, item 0"', b'"echo: echo, item 1"']


async def test_item_that_fails_leaves_the_others_alone(world: World) -> None:
    """Every item runs; the stage fails in the end, naming how many failed and why the first did."""
    body = proposal(check("bad", "{{item}}", "neq"), write("n", "{{item}}"))
    body["proposal"]["actions"][0]["preconditions"] = [when("item", "x", "neq")]
    definition = graph(stage("s", each(body)), initial_state={"items": ["a", "x", "b", "x"]})
    result = await fail(world, definition)
    told = "2 of 4 items failed; item 1: stage 'proposal' failed: precondition failed: state['item'] is \"x\""
    assert error_of(result, "s") == f'{told}, expected neq "x"'
    assert result["final_state"]["foreach.s.2.state.n"] == "b"
    assert "foreach.s.1.state.n" not in result["final_state"]
    assert [output["result"]["results"][0]["status"] for output in output_of(result, "s")["outputs"]] == [
        "succeeded",
        "rejected",
        "succeeded",
        "rejected",
    ]


async def test_for_each_of_200_items_keeps_its_window(world: World) -> None:
    """Any number of items, at most `max_concurrent` at once."""
    definition = graph(
        stage("s", each(asks("echo", "{{item}}"), max_concurrent=20)), initial_state={"items": list(range(200))}
    )
    handle = await world.start("StageGraph", definition, max_concurrency=50)
    result = await handle.result()
    assert [output["final_answer"] for output in output_of(result, "s")["outputs"]] == [str(n) for n in range(200)]
    assert await most_at_once(handle) == 20


async def test_for_each_of_many_items_gives_its_worker_back(world: World) -> None:
    """Items that wait for nothing hold no worker: 3,000 of them take several activations."""
    definition = graph(
        stage("s", each(proposal(check("item", operator="exists")))), initial_state={"items": [0] * 3_000}
    )
    result = await world.run("StageGraph", definition)
    assert result["final_state"]["foreach.s.count"] == 3_000


async def test_for_each_that_is_cut_off_keeps_what_was_done(world: World) -> None:
    """Of a stage that ran out of time, the items that were done are in its output."""
    definition = graph(stage("s", each(lingers()), timeout_ms=500), initial_state={"items": ["a", "slow", "b"]})
    result = await fail(world, definition)
    assert error_of(result, "s") == "stage 's' timed out after 500ms"
    outputs = output_of(result, "s")["outputs"]
    assert [output["result"]["status"] for output in outputs] == ["completed", "failed", "completed"]
    assert result["final_state"]["foreach.s.2.item"] == "b"
