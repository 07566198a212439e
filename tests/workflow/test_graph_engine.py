"""How a graph is walked: stages, edges, the loop guard, time limits, routes, and what a run tells of it."""

from __future__ import annotations

import asyncio
from collections import Counter

from temporalio.api.enums.v1 import EventType

from tests.definitions import call, edge, graph, pattern, proposal, stage, write
from tests.graphs import (
    FAILURE,
    asks,
    complete,
    error_of,
    fail,
    fails,
    output_of,
    result_in_failure,
    row,
    statuses,
    timeless,
    undo,
    undone,
    visits,
    when,
    writes,
)
from tests.support import World, events_of


async def test_graph_brings_its_whole_result(world: World) -> None:
    """The graph's name, each stage with its tagged output, and the state with each stage's keys."""
    definition = row(
        stage("say", asks("echo", "hello"), name="Say hello"),
        stage("note", proposal(write("seen", [1]), call("calculate", expression="2 * 21"))),
        initial_state={"who": "you"},
    )
    assert await complete(world, definition) == {
        "workflow_id": "g",
        "workflow_name": "G",
        "status": "completed",
        "stages": [
            {
                "stage_id": "say",
                "stage_name": "Say hello",
                "status": "succeeded",
                "output": {
                    "type": "pattern",
                    "outputs": [{"name": "echo", "answer": "hello"}],
                    "final_answer": "hello",
                },
            },
            {
                "stage_id": "note",
                "stage_name": "note",
                "status": "succeeded",
                "output": {
                    "type": "proposal",
                    "result": {
                        "proposal_id": "proposal",
                        "results": [
                            {
                                "action_id": "action-0",
                                "status": "succeeded",
                                "output": [1],
                                "state_changes": {"seen": [1]},
                            },
                            {"action_id": "action-1", "status": "succeeded", "output": 42},
                        ],
                        "cost": {"tool_calls": 1, "actions_executed": 2},
                    },
                },
            },
        ],
        "compensations": [],
        "final_state": {
            "who": "you",
            "agent.echo.answer": "hello",
            "stage.say.succeeded": True,
            "stage.say.answer": "hello",
            "seen": [1],
            "stage.note.succeeded": True,
            "stage.note.answer": "42",
        },
    }


async def test_first_edge_that_fits_is_followed(world: World) -> None:
    """Edges are tried in the order of their declaration; no other is looked at."""
    definition = graph(
        stage("a", writes(n=2)),
        stage("b"),
        stage("c"),
        stage("d"),
        edges=[
            edge("a", "b", when("n", 1)),
            edge("a", "c", when("n", 1, "gt"), when("stage.a.succeeded", True)),
            edge("a", "d"),
        ],
    )
    assert visits(await complete(world, definition)) == ["a", "c"]


async def test_stage_whose_edges_do_not_fit_ends_the_run(world: World) -> None:
    """No edge fits, so the run is completed."""
    definition = graph(stage("a"), stage("b"), edges=[edge("a", "b", when("n", 1, "exists"))])
    assert visits(await complete(world, definition)) == ["a"]


async def test_loop_guard_counts_every_execution_and_compensates(world: World) -> None:
    """One more than max_iterations fails, and what was done is undone."""
    definition = graph(
        stage("a", compensation=undo(back="a")),
        stage("b"),
        edges=[edge("a", "b"), edge("b", "a")],
        max_iterations=5,
    )
    result = await fail(world, definition)
    assert result["status"] == "compensated"
    assert visits(result) == ["a", "b", "a", "b", "a", "b"]
    assert error_of(result, "b") == "cycle limit reached after 5 iterations"
    assert undone(result) == [("a", "compensated")] * 3


async def test_stage_that_is_too_late_fails_by_the_timer(world: World) -> None:
    """The timer decides although the step's own failure is data, and what it did is awaited."""
    handle = await world.start("StageGraph", row(stage("a", asks("slow"), timeout_ms=400), stage("b")))
    result = await result_in_failure(handle)
    assert statuses(result) == [("a", "failed")]
    assert error_of(result, "a") == "stage 'a' timed out after 400ms"
    assert result["final_state"] == {
        "stage.a.succeeded": False,
        "stage.a.error": "stage 'a' timed out after 400ms",
    }
    told = [event["status"] for event in await events_of(handle, "step_finished")]
    assert told == ["cancelled"]


async def test_stage_that_is_in_time_is_not_touched_by_its_timer(world: World) -> None:
    """A timeout that does not come changes nothing."""
    assert visits(await complete(world, graph(stage("a", asks("brief"), timeout_ms=20_000)))) == ["a"]


async def test_timeout_of_nothing_runs_nothing(world: World) -> None:
    """0 ms is over at once."""
    result = await fail(world, graph(stage("a", writes(n=1), timeout_ms=0)))
    assert result["final_state"] == {"stage.a.succeeded": False, "stage.a.error": "stage 'a' timed out after 0ms"}


async def test_proposal_that_fails_writes_nothing(world: World) -> None:
    """Whatever its `skip` actions did, a proposal that did not succeed leaves the state alone."""
    skipped = {**call("fax"), "failure_behavior": "skip"}
    result = await fail(world, graph(stage("a", proposal(write("k", 1), skipped, write("l", 2)))))
    assert error_of(result, "a") == "stage 'proposal' failed: tool 'fax' is not registered"
    assert sorted(result["final_state"]) == ["stage.a.error", "stage.a.succeeded"]


async def test_failed_stage_can_be_routed(world: World) -> None:
    """With on_failure route its edges come first; the run goes on, and completes."""
    definition = graph(
        stage("a", fails(), on_failure="route"),
        stage("b"),
        stage("c"),
        edges=[
            edge("a", "b", when("stage.a.succeeded", True)),
            edge("a", "c", when("stage.a.succeeded", False), when("stage.a.error", "never", "contains")),
        ],
    )
    result = await complete(world, definition)
    assert statuses(result) == [("a", "failed"), ("c", "succeeded")]


async def test_failed_stage_without_a_route_compensates(world: World) -> None:
    """Where no edge fits, route is as good as compensate."""
    definition = graph(
        stage("a", compensation=undo(back=1)),
        stage("b", fails(), on_failure="route"),
        stage("c"),
        edges=[edge("a", "b"), edge("b", "c", when("stage.b.succeeded", True))],
    )
    result = await fail(world, definition)
    assert (result["status"], visits(result)) == ("compensated", ["a", "b"])


async def test_large_result_keeps_its_shape(world: World) -> None:
    """A text over 10 KB is replaced by its size and hash, in the result alone."""
    definition = row(
        stage("a", asks("verbose", "1500000")),
        stage("b", writes(copy="{{stage.a.answer}}")),
        stage("c", pattern("fleet", "echo", task="after")),
    )
    result = await complete(world, definition)
    left_out = result["final_state"]["copy"]
    assert left_out.startswith("[left out: 1,500,000 bytes, sha256 ")
    assert output_of(result, "a")["final_answer"] == left_out
    assert output_of(result, "c")["final_answer"] == "1 succeeded, 0 failed"


async def test_stage_is_a_phase_of_progress(world: World) -> None:
    """A graph's stages are told in the events, and its steps stand under them in `progress`."""
    handle = await world.start("StageGraph", row(stage("a", pattern("vote", "echo", "brief")), stage("b", fails())))
    await result_in_failure(handle)
    events = [event for event in timeless(await events_of(handle)) if event["type"].startswith("stage_")]
    assert events == [
        {"type": "stage_started", "stage": "a", "index": 0},
        {"type": "stage_finished", "stage": "a", "index": 0, "status": "succeeded"},
        {"type": "stage_started", "stage": "b", "index": 1},
        {"type": "stage_finished", "stage": "b", "index": 1, "status": "failed", "error": FAILURE},
    ]
    progress = await handle.query("progress")
    assert [(phase["name"], phase["step_count"], phase["succeeded"]) for phase in progress["phases"]] == [
        ("a", 2, 2),
        ("b", 0, 0),
    ]
    assert sorted((each["step"], each["phase"]) for each in progress["steps"]) == [("0.0:brief", 0), ("0.0:echo", 0)]


async def test_row_of_stages_costs_what_its_steps_cost(world: World) -> None:
    """Three events for the activity of each stage, and a marker for each hundred stages, where the run gives way."""
    definition = row(*(stage(f"s{number}", asks("echo", "hello")) for number in range(120)), max_iterations=120)
    handle = await world.start("StageGraph", definition)
    assert (await handle.result())["status"] == "completed"
    kinds = Counter(EventType.Name(event.event_type) for event in (await handle.fetch_history()).events)
    assert {kind: count for kind, count in kinds.items() if "WORKFLOW_" not in kind} == {
        "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED": 120,
        "EVENT_TYPE_ACTIVITY_TASK_STARTED": 120,
        "EVENT_TYPE_ACTIVITY_TASK_COMPLETED": 120,
        "EVENT_TYPE_MARKER_RECORDED": 1,
    }


async def test_graph_that_waits_for_nothing_gives_its_worker_back(world: World) -> None:
    """A loop of 3,000 stages without an activity holds no worker for as long as it takes; others run meanwhile."""
    spinning = graph(stage("a", writes(n=1)), edges=[edge("a", "a")], max_iterations=3_000)
    handle = await world.start("StageGraph", spinning)
    other = asyncio.create_task(complete(world, graph(stage("b"))))
    result = await result_in_failure(handle)
    assert error_of(result, "a") == "cycle limit reached after 3000 iterations"
    assert visits(await other) == ["b"]
