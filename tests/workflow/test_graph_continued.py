"""Graphs whose run goes on in a new history, between two stages, as if nothing had happened."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from tests.definitions import edge, graph, stage
from tests.graphs import complete, each, timeless, writes
from tests.slices import lower
from tests.support import World
from workflows import run

BULK = "x" * 900_000
# Of a prompt: six of them make a history of more than 5 MB, at which a run goes on in a new one.


def counting(times: int, **more: Any) -> dict[str, Any]:
    """A graph that asks an agent so many times, with a long prompt, and counts."""
    ask = {"type": "pattern", "pattern": "pipeline", "task": BULK, "agents": [{"name": "weigh"}]}
    write = {"type": "state_write", "id": "w", "parameters": {"key": "bag", "value": "{{bag}}+"}}
    stages = [
        {"id": "ask", "step": ask},
        {"id": "count", "step": {"type": "proposal", "proposal": {"id": "p", "actions": [write]}}},
    ]
    edges = [
        {"from": "ask", "to": "count"},
        {"from": "count", "to": "ask", "conditions": [{"key": "bag", "operator": "lt", "value": "+" * times}]},
    ]
    return {
        "id": "counting",
        "name": "counting",
        "start": "ask",
        "stages": stages,
        "edges": edges,
        "initial_state": {"bag": ""},
        **more,
    }


async def test_a_long_graph_goes_on_in_a_new_history(world: World) -> None:
    """The result is that of one run: every stage in order, the state, the budget and the offsets of its events."""
    handle = await world.start("StageGraph", counting(9), budget_tokens=10_000)
    result = await handle.result()
    assert result["status"] == "completed"
    assert [stage["stage_id"] for stage in result["stages"]] == ["ask", "count"] * 9
    assert result["final_state"]["bag"] == "+" * 9
    last = world.client.get_workflow_handle(handle.id)
    assert (await last.query("budget"))["consumed_tokens"] == 9 * 10
    progress = await last.query("progress")
    assert progress["omitted_phases"] + len(progress["phases"]) == 18
    events = await last.query("events", 0)
    assert events["last_offset"] == 9 * (4 + 3) - 1  # four of a stage with a step, three of one with an action
    assert (await last.describe()).run_id != handle.first_execution_run_id


async def test_the_loop_guard_counts_over_all_histories(world: World) -> None:
    """A graph that never ends is stopped at its own limit, not at one for each history."""
    handle = await world.start("StageGraph", counting(1_000, max_iterations=17))
    with pytest.raises(WorkflowFailureError) as ended:
        await handle.result()
    cause = ended.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.message == "count: cycle limit reached after 17 iterations"
    assert len(cause.details[0]["stages"]) == 18


async def test_compensation_reaches_back_over_histories(world: World) -> None:
    """What an earlier history completed is undone in reverse order, with what came after it."""
    graph = counting(9)
    undo = {"type": "state_write", "id": "u", "parameters": {"key": "undone", "value": "{{undone}}-"}}
    graph["stages"][1]["compensation"] = {"type": "proposal", "proposal": {"id": "u", "actions": [undo]}}
    graph["stages"].append(
        {
            "id": "fail",
            "step": {"type": "pattern", "pattern": "pipeline", "task": "t", "agents": [{"name": "broken"}]},
        }
    )
    graph["edges"].append({"from": "count", "to": "fail"})
    graph["initial_state"]["undone"] = ""
    handle = await world.start("StageGraph", graph)
    with pytest.raises(WorkflowFailureError) as ended:
        await handle.result()
    cause = ended.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "compensated"
    assert [each["for_stage_id"] for each in cause.details[0]["compensations"]] == ["count"] * 9


async def test_a_chain_goes_on_in_the_graph_where_it_was(world: World) -> None:
    """The graphs before are not run again, and each starts with what the one before it left."""
    small = {
        "id": "first",
        "name": "first",
        "start": "only",
        "stages": [
            {
                "id": "only",
                "step": {
                    "type": "proposal",
                    "proposal": {
                        "id": "p",
                        "actions": [{"type": "state_write", "id": "w", "parameters": {"key": "seed", "value": 1}}],
                    },
                },
            }
        ],
    }
    handle = await world.start("Chain", {"graphs": [small, counting(8), {**small, "id": "third"}]})
    results = await handle.result()
    assert [result["workflow_id"] for result in results] == ["first", "counting", "third"]
    assert [len(result["stages"]) for result in results] == [1, 16, 1]
    assert results[2]["final_state"]["seed"] == 1
    assert results[2]["final_state"]["bag"] == "+" * 8


async def test_a_state_too_large_to_travel_stays_where_it_is(world: World) -> None:
    """The run goes on in its long history and says so; nothing is lost."""
    graph = counting(8)
    graph["initial_state"]["ballast"] = "y" * 950_000
    graph["initial_state"]["more"] = "z" * 900_000
    graph["stages"][0]["step"]["task"] = "short"
    graph["stages"][0]["step"]["agents"] = [{"name": "weigh", "system_prompt": "{{ballast}}"}]
    handle = await world.start("StageGraph", graph)
    result = await handle.result()
    assert result["final_state"]["bag"] == "+" * 8
    logs = [
        envelope["event"]["message"]
        for envelope in (await handle.query("events"))["events"]
        if envelope["event"]["type"] == "log"
    ]
    assert [log[:66] for log in logs] == ["The run's history is long, and the graph's state is too large to b"]


async def test_items_that_children_carried_go_along(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they brought is in the result as if the run had not gone on in a new history."""
    lower(monkeypatch, 4, 1)
    definition = graph(
        stage("items", each(writes(n="{{item}}"))),
        stage("after", writes(seen="{{foreach.items.count}}")),
        edges=[edge("items", "after")],
        initial_state={"items": list(range(24))},
    )
    expected = await complete(world, definition)
    monkeypatch.setattr(run, "CONTINUE_AFTER_BYTES", 32_000)  # 24 children leave 38 KB, and 28 KB are carried
    handle = await world.start("StageGraph", definition)
    assert timeless(await handle.result()) == expected
    assert (await world.client.get_workflow_handle(handle.id).describe()).run_id != handle.first_execution_run_id


async def test_only_a_run_that_continues_takes_what_was_carried(world: World) -> None:
    """A caller that passes a second argument is told; it is no way into the middle of a graph."""
    handle = await world.client.start_workflow(
        "StageGraph", args=[counting(1), {"following": "count"}], id="carried-by-hand", task_queue=world.task_queue
    )
    with pytest.raises(WorkflowFailureError) as ended:
        await handle.result()
    assert isinstance(ended.value.cause, ApplicationError)
    assert ended.value.cause.message == "StageGraph takes one argument, a definition; it was given 2."
