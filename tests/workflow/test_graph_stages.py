"""What each kind of step brings: its output, its answer, and the state keys that it leaves."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from runtime.replaying import replay_histories
from runtime.settings import Settings
from tests.definitions import call, edge, graph, nested, pattern, proposal, stage, write
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
from tests.support import World
from workflows import ALL_WORKFLOWS, oversize
from workflows.graph import bodies

REVIEW = {
    **pattern("adversarial_review", "reviewer", criteria=["It is short"], review_key="draft"),
    "agents": [{"name": "inspect"}],
}


@pytest.mark.parametrize(
    ("step", "answer"),
    [
        (asks("echo", "hello"), "hello"),
        (pattern("fleet", "echo", "broken"), "1 succeeded, 1 failed"),
        (proposal(write("a", 1), call("calculate", expression="6 * 7")), "42"),
        (proposal(write("a", "text")), '"text"'),
        (proposal(check("x", 1)), ""),
        (proposal(), ""),
        (nested(stage("in", asks("echo", "inner"))), "inner"),
        ({"type": "loop_until", "max_iterations": 2, "body": asks("echo", "again")}, "again"),
        ({"type": "for_each", "items_from": "list", "body": asks("echo", "{{item}}")}, '["p","q"]'),
        ({"type": "dedup", "items_from": "nothing", "into": "new", "store": "empty"}, ""),
        ({"type": "deliver", "sinks": [proposal(write("a", 1))["proposal"]]}, "1 delivered, 0 failed"),
    ],
    ids=[
        "pattern",
        "fleet",
        "proposal",
        "text",
        "null",
        "empty",
        "sub_workflow",
        "loop",
        "for_each",
        "dedup",
        "deliver",
    ],
)
async def test_answer_of_each_kind(world: World, step: Any, answer: str) -> None:
    """Pattern, proposal (JSON text of the last output) and sub_workflow; the others as docs/graph.md says."""
    result = await complete(world, graph(stage("s", step), initial_state={"x": 1, "list": ["p", "q"]}))
    assert result["final_state"]["stage.s.answer"] == answer


async def test_answers_of_agents_are_in_the_state(world: World) -> None:
    """Each agent's answer is at `agent.<name>.answer`."""
    result = await complete(world, graph(stage("s", pattern("fleet", "echo", "brief", task="hello"))))
    assert result["final_state"]["agent.echo.answer"] == "hello"
    assert result["final_state"]["agent.brief.answer"] == "hello"


async def test_pattern_without_an_answer_fails_and_keeps_its_outputs(world: World) -> None:
    """The stage fails; what the agents said is in its output."""
    result = await fail(world, graph(stage("s", pattern("swarm_parallel", "broken", "broken"))))
    assert error_of(result, "s") == "agent error: no agents produced output"
    assert [each["error"] for each in output_of(result, "s")["outputs"]] == ["the disk is full"] * 2


@pytest.mark.parametrize("kind", ["fleet", "swarm_parallel"])
async def test_many_outputs_of_a_pattern_are_written_in_parts(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With pauses between them, to the same result as few, also where the pattern failed; here from three on."""
    step = pattern("fleet", "echo", "brief", "broken") if kind == "fleet" else pattern(kind, *["broken"] * 3)
    run = complete if kind == "fleet" else fail
    few = await run(world, graph(stage("s", step)))
    monkeypatch.setattr(bodies, "MANY_OUTPUTS", 2)
    monkeypatch.setattr(oversize, "OUTPUTS_AT_ONCE", 1)
    handle = await world.start("StageGraph", graph(stage("s", step)))
    with suppress(WorkflowFailureError):
        await handle.result()
    history = await handle.fetch_history()
    markers = [event.marker_recorded_event_attributes.marker_name for event in history.events]
    assert markers.count("core_local_activity") == len(output_of(few, "s")["outputs"]) == 3
    [verdict] = await replay_histories([history], list(ALL_WORKFLOWS), Settings())
    assert verdict.failure is None
    assert await run(world, graph(stage("s", step))) == few


async def test_sub_workflow_is_isolated(world: World) -> None:
    """Its own state and loop guard; nothing is merged in or out. The same phase numbers and events."""
    inner = nested(stage("in", writes(n=2, new=True)), stage("see", proposal(check("m", operator="not_exists"))))
    inner["workflow"]["edges"] = [edge("in", "see")]
    definition = row(stage("s", inner), stage("t"), initial_state={"n": 1, "m": 1}, max_iterations=2)
    handle = await world.start("StageGraph", definition)
    result = timeless(await handle.result())
    assert {key: value for key, value in result["final_state"].items() if not key.startswith("stage.")} == {
        "n": 1,
        "m": 1,
    }
    inside = output_of(result, "s")["result"]
    assert (inside["workflow_id"], inside["status"], visits(inside)) == ("inner", "completed", ["in", "see"])
    assert inside["final_state"]["n"] == 2
    told = await until_told(handle, "stage_started", 4)
    assert [(event["stage"], event["index"]) for event in told] == [("s", 0), ("in", 1), ("see", 2), ("t", 3)]


async def test_sub_workflow_that_fails_compensates_itself_and_fails_its_stage(world: World) -> None:
    """`stage 'sub_workflow' failed: sub-workflow failed`, with the inner result as its output."""
    inner = nested(stage("in", compensation=undo(back=1)), stage("no", fails()), edges=[edge("in", "no")])
    result = await fail(world, row(stage("a", compensation=undo(back=2)), stage("s", inner)))
    assert error_of(result, "s") == "stage 'sub_workflow' failed: sub-workflow failed"
    inside = output_of(result, "s")["result"]
    assert (inside["status"], error_of(inside, "no"), undone(inside)) == (
        "compensated",
        FAILURE,
        [("in", "compensated")],
    )
    assert undone(result) == [("a", "compensated")]
    assert result["final_state"]["back"] == 2


async def test_sub_workflow_that_is_too_late_compensates_itself(world: World) -> None:
    """The timeout of the stage around it ends it; what it did is undone and reported."""
    inner = nested(stage("in", compensation=undo(back=1)), stage("slow", asks("slow")), edges=[edge("in", "slow")])
    result = await fail(world, graph(stage("s", inner, timeout_ms=500)))
    assert error_of(result, "s") == "stage 's' timed out after 500ms"
    inside = output_of(result, "s")["result"]
    assert (statuses(inside), undone(inside)) == (
        [("in", "succeeded"), ("slow", "failed")],
        [("in", "compensated")],
    )
    assert error_of(inside, "slow") == "cancelled: the time of the stage around it was up"


async def test_sub_workflow_of_a_cancelled_run_reports(world: World) -> None:
    """The frame compensates first, then the graph around it; both are in the result."""
    inner = nested(stage("in", compensation=undo(back=1)), stage("slow", asks("slow")), edges=[edge("in", "slow")])
    handle = await world.start("StageGraph", row(stage("a", compensation=undo(back=2)), stage("s", inner)))
    await until_told(handle, "step_started")
    await handle.cancel()
    result = await result_in_failure(handle, "cancelled")
    inside = output_of(result, "s")["result"]
    assert (inside["status"], undone(inside)) == ("compensated", [("in", "compensated")])
    assert (result["status"], undone(result)) == ("compensated", [("a", "compensated")])
    told = [event["name"] for event in await until_told(handle, "compensation_finished", 2)]
    assert told == ["in", "a"]


async def test_loop_ends_when_its_condition_holds(world: World) -> None:
    """The body first, then the test, on the state, `stage.<id>.answer` and `stage.<id>.iteration`."""
    step = {
        "type": "loop_until",
        "max_iterations": 9,
        "body": asks("echo", "again"),
        "until": [when("stage.s.iteration", 3, "gte"), when("stage.s.answer", "again")],
    }
    result = await complete(world, graph(stage("s", step)))
    output = output_of(result, "s")
    assert (output["iterations"], output["satisfied"]) == (3, True)
    assert [each["final_answer"] for each in output["iterations_output"]] == ["again"] * 3
    assert result["final_state"]["stage.s.iteration"] == 3


@pytest.mark.parametrize("until", [[], [when("never", operator="exists")]], ids=["empty", "never"])
async def test_loop_at_its_cap_is_no_failure(world: World, until: Any) -> None:
    """An empty `until` runs exactly max_iterations times; the cap leaves satisfied=false."""
    step = {"type": "loop_until", "max_iterations": 4, "body": writes(n=1), "until": until}
    output = output_of(await complete(world, graph(stage("s", step))), "s")
    assert (output["iterations"], output["satisfied"], len(output["iterations_output"])) == (4, False, 4)


async def test_loop_whose_body_fails_keeps_what_it_did(world: World) -> None:
    """A failing iteration fails the stage with its error; the iterations before it are in the output."""
    body = proposal(check("stage.s.iteration", operator="not_exists"))
    result = await fail(world, graph(stage("s", {"type": "loop_until", "max_iterations": 4, "body": body})))
    assert error_of(result, "s") == (
        "stage 'proposal' failed: precondition failed: state['stage.s.iteration'] is 1, expected not_exists"
    )
    assert [each["result"]["results"][0]["status"] for each in output_of(result, "s")["iterations_output"]] == [
        "succeeded",
        "rejected",
    ]


async def test_deliver_is_best_effort(world: World) -> None:
    """Sinks in order; it fails only if all fail; `{{payload}}` is the value at payload_key."""
    sinks = [
        proposal(write("first", "{{payload}}"))["proposal"],
        fails()["proposal"],
        proposal(write("third", "{{first}} and {{payload}}"))["proposal"],
        proposal(write("fourth", "{{nothing}}"))["proposal"],
    ]
    step = {"type": "deliver", "sinks": sinks, "payload_key": "report"}
    result = await complete(world, graph(stage("s", step), initial_state={"report": {"ok": True}}))
    assert {key: value for key, value in result["final_state"].items() if not key.endswith("succeeded")} == {
        "report": {"ok": True},
        "first": {"ok": True},
        "third": '{"ok":true} and {"ok":true}',
        "stage.s.delivered_count": 2,
        "stage.s.failed_count": 2,
        "stage.s.answer": "2 delivered, 2 failed",
    }
    assert [each["results"][0].get("error") for each in output_of(result, "s")["results"]] == [
        None,
        FAILURE.removeprefix("stage 'proposal' failed: "),
        None,
        "'{{nothing}}' has no value: the state has no key 'nothing'",
    ]


async def test_deliver_fails_when_every_sink_fails(world: World) -> None:
    """Fails only if ALL fail."""
    step = {"type": "deliver", "sinks": [fails()["proposal"]] * 2}
    result = await fail(world, graph(stage("s", step)))
    assert error_of(result, "s") == f"every sink failed: {FAILURE}; {FAILURE}"
    assert result["final_state"]["stage.s.failed_count"] == 2


async def test_deliver_without_its_payload_fails(world: World) -> None:
    """A payload_key that the state lacks is named."""
    step = {"type": "deliver", "sinks": [proposal()["proposal"]], "payload_key": "report"}
    told = "deliver: the state has no key 'report' to take the payload from"
    assert error_of(await fail(world, graph(stage("s", step))), "s") == told


async def test_stage_of_any_kind_undoes(world: World) -> None:
    """A stage_ref may name any stage that acts: a pattern, a sub-workflow, a loop, a for_each, a delivery."""
    steps = {
        "pattern": asks("echo", "undone"),
        "sub": nested(stage("in", writes(n=1))),
        "loop": {"type": "loop_until", "max_iterations": 2, "body": writes(looped=1)},
        "each": {"type": "for_each", "items_from": "items", "body": asks("echo", "{{item}}")},
        "deliver": {"type": "deliver", "sinks": [proposal(write("sent", 1))["proposal"]]},
    }
    done = [stage(f"do-{name}", compensation=ref(name)) for name in steps]
    definition = row(*done, stage("no", fails()), initial_state={"items": [1, 2]})
    definition["stages"] += [stage(name, step) for name, step in steps.items()]
    result = await fail(world, definition)
    assert undone(result) == [(f"do-{name}", "compensated") for name in reversed(steps)]
    state = result["final_state"]
    assert (state["agent.echo.answer"], state["looped"], state["foreach.each.count"], state["sent"]) == (
        "undone",
        1,
        2,
        1,
    )
