"""What each kind of step brings: its output, its answer, and the state keys that it leaves."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

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
from tests.support import World, events_of, wait_until

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


def each(body: Any, **fields: Any) -> dict[str, Any]:
    """A for_each over `items`."""
    return {"type": "for_each", "items_from": "items", "body": body, **fields}


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
    events = [event["type"] for event in await until_told(handle, "step_finished", 200)]
    assert len(events) == 200
    assert await _most_at_once(handle) == 20


async def _most_at_once(handle: Any) -> int:
    most = running = after = 0
    page = await handle.query("events", -1)
    while page["events"]:
        for envelope in page["events"]:
            change = {"step_started": 1, "step_finished": -1}.get(envelope["event"]["type"], 0)
            running += change
            most, after = max(most, running), envelope["offset"]
        page = await handle.query("events", after)
    return most


async def test_for_each_of_many_items_gives_its_worker_back(world: World) -> None:
    """Items that wait for nothing hold no worker: 3,000 of them take several activations."""
    definition = graph(
        stage("s", each(proposal(check("item", operator="exists")))), initial_state={"items": [0] * 3_000}
    )
    result = await world.run("StageGraph", definition)
    assert result["final_state"]["foreach.s.count"] == 3_000


async def test_for_each_that_is_cut_off_keeps_what_was_done(world: World) -> None:
    """Of a stage that ran out of time, the items that were done are in its output."""
    body = pattern("pipeline", "slow", task="{{item}}")
    quick = nested(
        stage("go"),
        stage("late", body),
        edges=[edge("go", "late", when("item", "slow"))],
        initial_state={"item": "{{item}}"},
    )
    definition = graph(stage("s", each(quick), timeout_ms=500), initial_state={"items": ["a", "slow", "b"]})
    result = await fail(world, definition)
    assert error_of(result, "s") == "stage 's' timed out after 500ms"
    outputs = output_of(result, "s")["outputs"]
    assert [output["result"]["status"] for output in outputs] == ["completed", "failed", "completed"]
    assert result["final_state"]["foreach.s.2.item"] == "b"


def dedup(store: str, **fields: Any) -> dict[str, Any]:
    """A dedup of `items` into `new`."""
    return {"type": "dedup", "items_from": "items", "into": "new", "store": store, **fields}


@pytest.fixture
def store() -> str:
    """A store of the test's own."""
    return str(uuid.uuid4())


async def _seen(world: World, step: dict[str, Any], items: Any) -> dict[str, Any]:
    state = (await complete(world, graph(stage("s", step), initial_state={"items": items})))["final_state"]
    return {key: value for key, value in state.items() if key not in ("items", "stage.s.succeeded", "stage.s.answer")}


async def test_dedup_lets_through_what_no_run_has_seen(world: World, store: str) -> None:
    """The store is shared by runs; within one list, too, only the first of equal items is new."""
    first = await _seen(world, dedup(store), ["a", {"x": 1, "y": 2}, "a", 1, True])
    assert first == {"new": ["a", {"x": 1, "y": 2}, 1, True], "stage.s.unseen_count": 4, "stage.s.total_count": 5}
    second = await _seen(world, dedup(store), [{"y": 2, "x": 1}, "b", "a"])
    assert second == {"new": ["b"], "stage.s.unseen_count": 1, "stage.s.total_count": 3}


async def test_dedup_stores_are_apart(world: World, store: str) -> None:
    """A seen-set per store."""
    await _seen(world, dedup(store), ["a"])
    assert (await _seen(world, dedup(f"{store}-2"), ["a"]))["new"] == ["a"]


async def test_dedup_compares_the_fields_it_is_told(world: World, store: str) -> None:
    """Hash_fields."""
    items = [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}, {"id": 2, "text": "a"}, "id"]
    told = await _seen(world, dedup(store, hash_fields=["id"]), items)
    assert told["new"] == [items[0], items[2], items[3]]


@pytest.mark.parametrize("state", [{}, {"items": "text"}], ids=["missing", "text"])
async def test_dedup_without_items_finds_nothing_new(world: World, store: str, state: Any) -> None:
    """As for_each, missing or no array is nothing to do."""
    result = await complete(world, graph(stage("s", dedup(store)), initial_state=state))
    assert (result["final_state"]["new"], result["final_state"]["stage.s.total_count"]) == ([], 0)


async def test_dedup_forgets_after_its_ttl(world: World, store: str) -> None:
    """Ttl_secs; 0 remembers nothing beyond the one list."""
    assert (await _seen(world, dedup(store, ttl_secs=0), ["a", "a"]))["new"] == ["a"]
    assert (await _seen(world, dedup(store, ttl_secs=1), ["a"]))["new"] == ["a"]

    async def forgotten() -> bool:
        return bool((await _seen(world, dedup(store, ttl_secs=1), ["a"]))["new"] == ["a"])

    await wait_until("the item counts as new again", forgotten)


async def test_dedup_tells_one_of_several_runs_that_an_item_is_new(world: World, store: str) -> None:
    """Runs at once share the store; each item is new to exactly one of them."""
    items = list(range(50))
    told = await asyncio.gather(*(_seen(world, dedup(store), items) for _ in range(4)))
    assert sorted(item for each_told in told for item in each_told["new"]) == items


async def test_dedup_store_that_is_full_says_so(world: World, store: str) -> None:
    """What does not fit fails the stage, naming the store and the way out; nothing is forgotten silently."""
    step = dedup(store)
    for first in (0, 25_000):
        await complete(world, graph(stage("s", step), initial_state={"items": list(range(first, first + 25_000))}))
    result = await fail(world, graph(stage("s", step), initial_state={"items": ["one more"]}))
    assert error_of(result, "s") == (
        f"dedup store {store!r}: it holds 50,000 of 50,000 items. Give the stage a ttl_secs, or another store."
    )


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
