"""How a graph is walked: stages, edges, the loop guard, failure and compensation, cancel, and what the state holds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.exceptions import CancelledError

from tests.definitions import call, edge, graph, nested, pattern, proposal, stage, write
from tests.graph_programs import Composed, SideBySide
from tests.graphs import (
    FAILURE,
    asks,
    check,
    complete,
    error_of,
    fail,
    fails,
    output_of,
    ref,
    result_in_failure,
    row,
    statuses,
    timeless,
    undo,
    undone,
    until_told,
    visits,
    when,
    writes,
)
from tests.support import World, events_of, failure_of, rejection_of, served


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(client, Composed, SideBySide) as world:
        yield world


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


async def test_start_that_is_unknown_starts_nothing(world: World) -> None:
    """A plain client's run is refused before it begins."""
    handle = await world.start("StageGraph", graph(stage("a"), start="b"))
    assert await rejection_of(handle) == ("GraphRejected", "start stage 'b' does not exist")
    assert await events_of(handle) == []


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
    told = [event["status"] for event in await events_of(handle) if event["type"] == "step_finished"]
    assert told == ["cancelled"]


async def test_stage_that_is_in_time_is_not_touched_by_its_timer(world: World) -> None:
    """A timeout that does not come changes nothing."""
    assert visits(await complete(world, graph(stage("a", asks("brief"), timeout_ms=20_000)))) == ["a"]


async def test_timeout_of_nothing_runs_nothing(world: World) -> None:
    """0 ms is over at once."""
    result = await fail(world, graph(stage("a", writes(n=1), timeout_ms=0)))
    assert result["final_state"] == {"stage.a.succeeded": False, "stage.a.error": "stage 'a' timed out after 0ms"}


async def test_failure_ends_the_run_and_undoes_in_reverse(world: World) -> None:
    """Latest first, one for each execution, none for the failed stage nor where there is no handler."""
    definition = graph(
        stage("a", compensation=undo(last="a")),
        stage("b", compensation=undo(last="b")),
        stage("plain"),
        stage("c", fails(), compensation=undo(last="c")),
        edges=[
            edge("a", "b"),
            edge("b", "c", when("last", "x")),
            edge("b", "plain", when("again", operator="not_exists")),
            edge("b", "c"),
            edge("plain", "again"),
            edge("again", "a"),
        ],
    )
    definition["stages"].append(stage("again", writes(again=True)))
    result = await fail(world, definition)
    assert result["status"] == "compensated"
    assert visits(result) == ["a", "b", "plain", "again", "a", "b", "c"]
    assert undone(result) == [(name, "compensated") for name in ("b", "a", "b", "a")]
    assert result["final_state"]["last"] == "a"
    assert result["final_state"]["stage.c.succeeded"] is False
    assert result["final_state"]["stage.c.error"] == FAILURE


async def test_failure_without_anything_to_undo_is_failed(world: World) -> None:
    """No compensation ran -> failed; the execution fails with the stage and its error."""
    handle = await world.start("StageGraph", row(stage("a"), stage("b", fails())))
    assert await rejection_of(handle) == ("failed", f"b: {FAILURE}")
    assert (await handle.describe()).status is WorkflowExecutionStatus.FAILED


async def test_failed_compensation_does_not_stop_the_others(world: World) -> None:
    """What could not be undone is told, the rest is undone -> partially_compensated."""
    broken = {"type": "proposal", "proposal": fails()["proposal"]}
    definition = row(
        stage("a", compensation=undo(back="a")),
        stage("b", compensation=broken),
        stage("c", compensation=undo(back="c")),
        stage("d", fails()),
    )
    result = await fail(world, definition)
    assert result["status"] == "partially_compensated"
    assert result["compensations"] == [
        {"for_stage_id": "c", "status": "compensated"},
        {"for_stage_id": "b", "status": "failed", "error": FAILURE},
        {"for_stage_id": "a", "status": "compensated"},
    ]


async def test_compensation_by_a_stage_has_no_timeout(world: World) -> None:
    """Stage_ref runs the stage's step without the stage's timeout."""
    definition = graph(
        stage("a", compensation=ref("undo")),
        stage("b", fails()),
        stage("undo", asks("brief"), timeout_ms=1),
        edges=[edge("a", "b")],
    )
    result = await fail(world, definition)
    assert (result["status"], undone(result)) == ("compensated", [("a", "compensated")])


async def test_compensation_leaves_what_stages_told(world: World) -> None:
    """It changes no `stage.*` key, sees the writes of earlier ones, and `{{}}` reads the state at the failure."""
    count = {"type": "loop_until", "max_iterations": 2, "body": writes(counted=True)}
    later = proposal(check("n", "undone b"), write("n", "undone a"), write("read", "{{n}}"))["proposal"]
    definition = graph(
        stage("a", writes(n="a"), compensation={"type": "proposal", "proposal": later}),
        stage("b", writes(n="b"), compensation=undo(n="undone b")),
        stage("c", compensation=ref("count")),
        stage("d", fails()),
        stage("count", count),
        edges=[edge("a", "b"), edge("b", "c"), edge("c", "d")],
    )
    result = await fail(world, definition)
    assert (result["status"], undone(result)) == ("compensated", [(name, "compensated") for name in "cba"])
    assert result["final_state"] == {
        "n": "undone a",
        "read": "b",
        "counted": True,
        **{f"stage.{name}.succeeded": True for name in "abc"},
        "stage.a.answer": '"a"',
        "stage.b.answer": '"b"',
        "stage.c.answer": "",
        "stage.d.succeeded": False,
        "stage.d.error": FAILURE,
    }


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


async def test_cancelled_run_undoes_and_reports(world: World) -> None:
    """Type `cancelled`; what was in flight ends, what was done is undone, and the result tells both."""
    handle = await world.start(
        "StageGraph",
        row(
            stage(
                "a",
                compensation={"type": "proposal", "proposal": proposal(call("calculate", expression="1"))["proposal"]},
            ),
            stage("b", asks("slow"), compensation=undo(back="b")),
            stage("c"),
        ),
    )
    await until_told(handle, "step_started")
    await handle.cancel()
    result = await result_in_failure(handle, "cancelled")
    assert result["status"] == "compensated"
    assert statuses(result) == [("a", "succeeded"), ("b", "failed")]
    assert error_of(result, "b") == "the run was cancelled"
    assert undone(result) == [("a", "compensated")]
    assert "back" not in result["final_state"]


async def test_cancel_while_it_compensates_does_not_stop_that(world: World) -> None:
    """Compensation runs to its end, and the result is that of the failure."""
    handle = await world.start(
        "StageGraph",
        graph(
            stage("a", compensation=undo(back="a")),
            stage("b", compensation=ref("undo")),
            stage("c", fails()),
            stage("undo", asks("brief")),
            edges=[edge("a", "b"), edge("b", "c")],
        ),
    )
    await until_told(handle, "compensation_started")
    await handle.cancel()
    result = await result_in_failure(handle, "compensated")
    assert undone(result) == [("b", "compensated"), ("a", "compensated")]
    assert result["final_state"]["agent.brief.answer"] == "Do it"


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
    assert [event["message"] for event in await events_of(handle) if event["type"] == "log"] == [
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


async def test_chain_hands_on_large_values_whole(world: World) -> None:
    """What the result had to leave out is still there for the next graph, and both results fit together."""
    first = row(stage("a", asks("verbose", "1500000")), stage("b", writes(copy="{{stage.a.answer}}")))
    second = graph(stage("c", proposal(check("copy", "x" * 20_000, "contains"))))
    [one, two] = await world.run("Chain", {"graphs": [first, second]})
    assert one["final_state"]["copy"].startswith("[left out: 1,500,000 bytes")
    assert two["status"] == "completed"


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
    assert (await handle.query("budget"))["consumed_tokens"] <= 3_500


async def test_run_graph_brings_a_result_whatever_its_status(world: World) -> None:
    """A graph that fails is data to the program; its initial state may come from there."""
    plan = {
        "graphs": [row(stage("a", writes(n="{{m}}"), compensation=undo(back="{{m}}")), stage("b", fails()))],
        "state": {"m": 1},
    }
    [_, result, after] = await world.run("Composed", plan)
    assert (result["status"], result["final_state"]["back"], after) == ("compensated", 1, "after")


async def test_run_graph_that_is_cancelled_compensates_then_raises(world: World) -> None:
    """The graph undoes what it did, and the program's run ends Canceled."""
    handle = await world.start(
        "Composed", {"graphs": [row(stage("a", compensation=undo(back=1)), stage("b", asks("slow")))]}
    )
    await until_told(handle, "step_started", 2)
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    told = [event["name"] for event in await events_of(handle) if event["type"] == "compensation_finished"]
    assert told == ["a"]


async def test_graphs_run_side_by_side(world: World) -> None:
    """Each has a state of its own, and its steps stand under its own stages."""
    graphs = [row(stage("a", asks("brief", f"say {n}")), stage("b", writes(n="{{stage.a.answer}}"))) for n in range(3)]
    handle = await world.start("SideBySide", graphs)
    assert [result["final_state"]["n"] for result in await handle.result()] == ["say 0", "say 1", "say 2"]
    steps = [each["step"] for each in (await handle.query("progress"))["steps"]]
    assert sorted(steps) == ["0.0:brief", "1.0:brief", "2.0:brief"]


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


async def test_graph_that_is_large_by_its_agents_is_judged_and_read(world: World) -> None:
    """One stage of 0.6 MB: judged in an activity and read piece by piece, so it ends on a machine however busy."""
    fleet = pattern("fleet", "echo")
    agents = [{"name": "echo", "system_prompt": "x" * 2_000} for _ in range(300)]
    result = await world.run("StageGraph", graph(stage("f", {**fleet, "agents": agents})), max_concurrency=100)
    assert result["status"] == "completed"
    assert result["final_state"]["stage.f.answer"] == "300 succeeded, 0 failed"


async def test_doubts_of_a_large_graph_are_told_in_part(world: World) -> None:
    """A graph that was judged in an activity tells its first 500 doubts, and how many more there are."""
    stages = [stage(f"s{number}", writes(n="{{wat}}"), on_failure="route") for number in range(1_000)]
    handle = await world.start("StageGraph", graph(*stages))
    assert visits(await result_in_failure(handle)) == ["s0"]
    told = [event["message"] for event in await until_told(handle, "log", 501)]
    assert told == [
        *(f"stage 's{n}': '{{{{wat}}}}' has no value: nothing in this graph produces 'wat'." for n in range(500)),
        "and 500 more; `perdure verify` lists them all.",
    ]


async def test_errors_of_a_large_graph_are_counted(world: World) -> None:
    """The rejection names five and counts the others, also those that the verdict had no room for."""
    edges = [edge("s0", f"nowhere-{number}") for number in range(2_000)]
    kind, message = await rejection_of(await world.start("StageGraph", graph(stage("s0"), edges=edges)))
    assert (kind, message.splitlines()[-1]) == ("GraphRejected", "and 1,995 more.")


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ([], "GraphRejected"),
        ([None], "GraphRejected"),
        (["a graph"], "GraphRejected"),
        ([graph(stage("a")), graph(stage("b"))], "InputRejected"),
    ],
    ids=["nothing", "null", "text", "two"],
)
async def test_run_refuses_what_is_no_definition(world: World, given: Any, kind: str) -> None:
    """The run fails in our words; nothing retries for ever."""
    handle = await world.client.start_workflow(
        "StageGraph", args=given, id=f"refused-{kind}-{len(given)}-{given!r:.9}", task_queue=world.task_queue
    )
    assert (await rejection_of(handle))[0] == kind
