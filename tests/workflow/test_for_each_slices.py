"""A `for_each` whose items children carry ends as one whose items the run carries itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError

from tests.definitions import call, edge, graph, nested, pattern, proposal, stage, write
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
    ref,
    result_in_failure,
    row,
    timeless,
    until_told,
    when,
    writes,
)
from tests.histories import most_at_once, signals
from tests.slices import Handle, children, lower, steps_begun
from tests.support import World, events_of, served

Json = dict[str, Any]


@pytest.fixture(scope="module")
async def world(client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    blobs: Path = tmp_path_factory.mktemp("blobs")
    async with served(client, blobs=blobs) as world:
        yield world


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children carry a call from five items on, in slices of three."""
    lower(monkeypatch, 4, 3)


def over(items: list[Any], body: Json, **fields: Any) -> Json:
    """A graph of one for_each."""
    given = {"initial_state": {"items": items, **fields.pop("state", {})}}
    return graph(stage("s", each(body, **fields.pop("each", {})), **fields.pop("stage", {})), **given, **fields)


def lists(levels: int) -> Any:
    """Lists in each other."""
    value: Any = "at the bottom"
    for _ in range(levels):
        value = [value]
    return value


def graphs(levels: int) -> Json:
    """Graphs in each other, each of which is given the item of the one around it."""
    step = writes()
    for _ in range(levels):
        step = nested(stage("in", step), initial_state={"item": "{{item}}"})
    return step


LOOP = {
    "type": "loop_until",
    "max_iterations": 3,
    "until": [when("n", "1+{{item}}", "neq"), when("stage.s.iteration", 2, "gte")],
    "body": proposal(write("n", "{{n}}+{{item}}"), check("limit", 9)),
}
INNER = nested(
    stage("ask", asks("echo", "{{item}} of {{about}}")),
    stage("check", proposal(check("item", 3, "neq"))),
    edges=[edge("ask", "check")],
    initial_state={"item": "{{item}}", "about": "{{about}}"},
)
TWICE = {"type": "for_each", "items_from": "pair", "body": asks("echo", "{{index}}: {{item}} of {{about}}")}
SEND = {
    "type": "deliver",
    "payload_key": "about",
    "sinks": [{"actions": [write("sent", "{{payload}} {{index}}")]}, {"actions": [check("never", operator="exists")]}],
}
REVIEW = pattern("adversarial_review", "brief", review_key="about", criteria=["short"])
ODD: list[Any] = [
    "",
    None,
    [],
    {},
    0,
    -0.0,
    1e300,
    10**30,
    True,
    {"a": {"b": [1, 2.5, None]}},
    "é\u2028\n",
    "{{about}}",
    "{{{{x}}}}",
]
WATCHED = {"policies": [{"type": "require_state", "key": "limit", "value": 9}]}

BODIES: dict[str, Json] = {
    "pattern": over(
        [1, "two", {"three": 3}, None, [5]], pattern("fleet", "echo", "broken", task="{{index}}: {{item}}")
    ),
    "goal": over(list("abcde"), asks("echo", "{{about}} {{item}}"), goal="be brief", state={"about": "x"}),
    "no references": over(list("abcde"), asks("echo", "{{about}} {{item}}"), metadata={"templates": False}),
    "proposal": over(list(range(6)), proposal(write("n", "{{item}}"), write("item", "{{n}}")), state={"n": 5}),
    "failures": over(list(range(6)), INNER, state={"about": "house"}),
    "loop": over(list(range(6)), LOOP, state={"n": "1", "limit": 9}, metadata=WATCHED),
    "nested": over(list(range(5)), TWICE, state={"pair": ["a", "b"], "about": "house"}),
    "delivery": over(list(range(5)), SEND, state={"about": "news"}),
    "deep": over([lists(levels) for levels in (1, 70, 80, 90, 98)], graphs(27)),
    "review": over(list(range(5)), REVIEW, state={"about": "work"}),
    "missing": over(list(range(5)), asks("echo", "{{item}} {{nowhere}}")),
    "odd items": over(ODD, proposal(write("k", "<{{item}}>"), write("index", "{{item}}"), write("item", ["{{item}}"]))),
    "lists of lists": over(
        [list("abcdef"), ["g"], [], "x", list("hijkl")], each(asks("echo", "{{item}}"), items_from="item")
    ),
    "shadowed": over(list("abcde"), {**SEND, "payload_key": "item"}, state={"payload": "outer", "item": "outer"}),
    "nothing to do": over([[1], [], 3, [4], [5, 6]], {"type": "for_each", "items_from": "item", "body": fails()}),
    "compensation": row(
        stage("s", each(asks("echo", "{{item}} {{about}}")), compensation=ref("s")),
        stage(
            "t", writes(about="late"), compensation={"type": "proposal", "proposal": writes(about="undone")["proposal"]}
        ),
        stage("u", fails()),
        initial_state={"items": list("abcde"), "about": "early"},
    ),
}


@pytest.mark.parametrize("definition", BODIES.values(), ids=BODIES.keys())
async def test_items_in_children_end_as_in_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch, definition: Json
) -> None:
    """The whole result is the same: outputs in order, the state, failures, what undoes."""
    inline = await ended(world, definition)
    lower(monkeypatch, 4, 3)
    handle = await world.start("StageGraph", definition)
    assert await result_of(handle) == inline
    assert len(await events_of(handle, "slice_started")) >= 2


async def ended(world: World, definition: Json) -> Json:
    """The result of a graph, whatever its status."""
    return await result_of(await world.start("StageGraph", definition))


async def result_of(handle: Handle) -> Json:
    """The result of a run, whatever its status."""
    try:
        result: Json = timeless(await handle.result())
    except WorkflowFailureError:
        return await result_in_failure(handle)
    return result


IN_THE_RUN = {
    "computed key": (
        proposal({"type": "state_read", "parameters": {"key": "{{item}}"}}),
        "computes the key that a state_read reads",
    ),
    "computed review": (
        pattern("adversarial_review", "brief", review_key="{{item}}", criteria=["short"]),
        "computes the key that a review reads",
    ),
    "idempotent": (
        proposal({**call("calculate", expression="1+1"), "idempotent": True}),
        "has idempotent actions, which run once in a run",
    ),
    "idempotent inside": (
        nested(stage("a", proposal({**call("calculate", expression="1+1"), "idempotent": True}))),
        "has idempotent actions, which run once in a run",
    ),
    "others' results": (
        proposal(check("foreach.s.0.answer", operator="not_exists")),
        "reads results of other items, at 'foreach.s.'",
    ),
    "large": (asks("echo", "{{large}}"), "takes 0.6 MB with the state that it reads, and a child is given 0.5 MB"),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("body", "why"), IN_THE_RUN.values(), ids=IN_THE_RUN.keys())
async def test_body_that_needs_the_run_stays_there(world: World, body: Json, why: str) -> None:
    """What a child could not know, or would do once too often, is done in the run, and the events say why."""
    handle = await world.start("StageGraph", over(["a", "b", "a", "c", "d"], body, state={"large": "x" * 600_000}))
    await result_of(handle)
    assert await events_of(handle, "slice_started") == []
    assert [event["message"] for event in await events_of(handle, "log") if event["level"] == "info"] == [
        f"stage 's' runs its 5 items in the history of the run: its body {why}."
    ]


@pytest.mark.usefixtures("small")
async def test_steps_of_items_have_names_of_their_own(world: World) -> None:
    """Two visits of one stage, and several steps of one item, in whichever child: no name comes twice."""
    twice = {
        "type": "loop_until",
        "max_iterations": 2,
        "until": [],
        "body": each(pattern("swarm_sequential", "echo", "brief")),
    }
    body = nested(stage("in", asks("echo")), stage("on", asks("echo")), edges=[edge("in", "on")])
    definition = row(stage("s", twice), stage("t", each(body)), initial_state={"items": list("abcde")})
    handle = await world.start("StageGraph", definition)
    await handle.result()
    found = await children(world, handle)
    names = [event["step"] for child in found for event in await events_of(child, "step_started")]
    first = [f"0.{number}:echo" for number in range(10)]
    second = [f"0.{number}.1:brief" for number in range(10)]
    assert sorted(name for name in names if name.startswith("0.")) == sorted([*first, *second])
    assert len(names) == len(set(names)) == 30


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("at_once", [1, 2, 6])
async def test_items_under_way_keep_to_their_window(world: World, at_once: int) -> None:
    """`max_concurrent` counts items over all children, whatever the run's own window is."""
    steps = (stage("meet", asks("together", f"{at_once} items-{at_once}")), stage("go on", asks("echo")))
    body = nested(*steps, edges=[edge("meet", "go on")])
    definition = over(list(range(12)), body, each={"max_concurrent": at_once})
    handle = await world.start("StageGraph", definition, max_concurrency=8)
    outputs = output_of(await handle.result(), "s")["outputs"]
    assert {output["result"]["final_state"]["stage.meet.answer"] for output in outputs} == {"gathered"}
    assert await most_at_once(*await children(world, handle)) == at_once


@pytest.mark.usefixtures("small")
async def test_budget_that_is_enough_pays_for_every_item(world: World) -> None:
    """What one child lacks and another has left over is not lost: nothing is denied while there is enough."""
    body = nested(
        stage("go"),
        stage("spend", pattern("swarm_sequential", "metered", "metered")),
        edges=[edge("go", "spend", when("item", "costly"))],
        initial_state={"item": "{{item}}"},
    )
    definition = over([*["costly"] * 3, *["cheap"] * 6], body)
    handle = await world.start("StageGraph", definition, budget_tokens=3_100, max_concurrency=4)
    result = await handle.result()
    assert [output["result"]["status"] for output in output_of(result, "s")["outputs"]] == ["completed"] * 9
    budget = await handle.query("budget")
    assert (budget["consumed_tokens"], budget["granted_tokens"]) == (3_000, 0)
    assert 1 <= len(await signals(handle)) <= 6
    first, *_ = await children(world, handle)
    spent = [event["total_tokens"] for event in await events_of(first, "step_finished")]
    assert set(spent) == {500}  # no turn was paid twice


@pytest.mark.usefixtures("small")
async def test_budget_that_is_too_small_is_never_passed(world: World) -> None:
    """Items whose steps nothing pays for fail as they do in the run, and say what the run has spent."""
    handle = await world.start("StageGraph", over(list(range(9)), asks("metered")), budget_tokens=2_200)
    result = await result_in_failure(handle)
    budget = await handle.query("budget")
    assert budget["consumed_tokens"] <= 2_200
    assert budget["granted_tokens"] == 0
    done = [output for output in output_of(result, "s")["outputs"] if output["final_answer"]]
    assert 1 <= len(done) <= 4
    assert error_of(result, "s").startswith(f"{9 - len(done)} of 9 items failed; item ")


@pytest.mark.usefixtures("small")
async def test_exhausted_budget_denies_steps_and_not_items(world: World) -> None:
    """An item without steps needs no tokens; one with steps fails with the budget of the run in its text."""
    body = nested(
        stage("look", asks("echo"), on_failure="route"),
        stage("else", writes(done=True)),
        edges=[edge("look", "else", when("stage.look.succeeded", False))],
    )
    result = await complete(world, over(list(range(6)), body), budget_tokens=0)
    reason = "workflow token budget exhausted (0 / 0 tokens)"
    outputs = output_of(result, "s")["outputs"]
    asked = [output["result"]["stages"][0]["output"]["outputs"] for output in outputs]
    assert asked == [[{"name": "echo", "answer": "", "error": reason}]] * 6


@pytest.mark.usefixtures("small")
async def test_raised_limit_lets_items_go_on(world: World) -> None:
    """A run that is told to wait keeps its items under way until somebody raises the budget."""
    handle = await world.start(
        "StageGraph", over(list(range(6)), asks("metered")), budget_tokens=1_200, on_exhausted="wait"
    )
    await until_told(handle, "slice_waiting")
    await handle.signal("set_budget", {"limit_tokens": 10_000})
    assert (await handle.result())["status"] == "completed"
    assert (await handle.query("budget"))["consumed_tokens"] == 3_000


@pytest.mark.usefixtures("small")
async def test_child_that_asks_twice_holds_one_allotment(world: World) -> None:
    """As one does that was reset while it waited: the later question stands, and nothing stays granted."""
    handle = await world.start(
        "StageGraph", over(list(range(6)), asks("metered")), budget_tokens=1_200, on_exhausted="wait"
    )
    await until_told(handle, "slice_waiting")
    wants = {"fresh": 3, "sharing": 3, "first_tokens": 1_500}
    for child in await children(world, handle):
        spent = {"total_tokens": (await child.query("budget"))["consumed_tokens"]}
        await handle.signal("slice_short", {"slice": child.id, "spent": spent, "step_count": 3, "wants": wants})
    await handle.signal("set_budget", {"limit_tokens": 100_000})
    assert (await handle.result())["status"] == "completed"
    budget = await handle.query("budget")
    assert (budget["consumed_tokens"], budget["granted_tokens"]) == (3_000, 0)


@pytest.mark.usefixtures("small")
async def test_cancelled_run_keeps_what_its_items_did(world: World) -> None:
    """Steps in flight are cancelled and recorded, children return, and the stage's outputs tell how far it came."""
    handle = await world.start("StageGraph", over(["a", "slow", "b", "c", "slow", "d"], lingers()))
    await steps_begun(world, handle, 2)
    await handle.cancel()
    result = await result_in_failure(handle, "cancelled")
    outputs = [output.get("result", {}).get("status") for output in output_of(result, "s")["outputs"]]
    assert (outputs[1], outputs[4]) == ("failed", "failed")
    assert outputs.count("completed") >= 3
    found = await children(world, handle)
    assert {(await child.describe()).status for child in found} == {WorkflowExecutionStatus.COMPLETED}


@pytest.mark.usefixtures("small")
async def test_items_that_are_too_late_are_cut_off(world: World) -> None:
    """The time limit of the stage reaches every child; what was done is in the output and in the state."""
    definition = over(["a", "slow", "b", "c", "d"], lingers(), stage={"timeout_ms": 2_000})
    result = await fail(world, definition)
    assert error_of(result, "s") == "stage 's' timed out after 2000ms"
    outputs = [output["result"]["status"] for output in output_of(result, "s")["outputs"]]
    assert outputs == ["completed", "failed", "completed", "completed", "completed"]
    assert result["final_state"]["foreach.s.2.item"] == "b"
    assert "foreach.s.1.item" not in result["final_state"]


@pytest.mark.usefixtures("small")
async def test_terminated_child_fails_its_items_alone(world: World) -> None:
    """They say what became of the child; the others go on."""
    handle = await world.start("StageGraph", over(["slow", "a", "b", "c", "d"], lingers()))
    await steps_begun(world, handle, 1)
    first, *_ = await children(world, handle)
    await first.terminate("by hand")
    result = await result_in_failure(handle)
    reason = f"the run {first.id!r}, which carried it, was terminated"
    assert error_of(result, "s") == f"3 of 5 items failed; item 0: {reason}"


@pytest.mark.usefixtures("small")
async def test_child_that_is_cancelled_by_hand_fails_its_items_alone(world: World) -> None:
    """Those that were under way and those that had not begun; the others go on."""
    handle = await world.start("StageGraph", over(["slow", "slow", "b", "c", "d"], lingers()), max_concurrency=2)
    await steps_begun(world, handle, 1)
    first, *_ = await children(world, handle)
    await first.cancel()
    result = await result_in_failure(handle)
    assert error_of(result, "s") == "3 of 5 items failed; item 0: Task cancelled by caller"
    assert output_of(result, "s")["outputs"][0]["result"]["status"] == "failed"


@pytest.mark.usefixtures("small")
async def test_item_that_fits_into_no_child_is_carried_by_the_run(world: World) -> None:
    """It ends like the others, at its place."""
    items = ["a", "x" * 1_050_000, "b", "c", "d"]
    handle = await world.start("StageGraph", over(items, asks("weigh", "{{item}}")))
    result = await handle.result()
    answers = [result["final_state"][f"foreach.s.{index}.answer"] for index in range(5)]
    assert answers == ["1 characters", "1050000 characters", *["1 characters"] * 3]
    assert [event["step"] for event in await events_of(handle, "step_finished")] == ["0.1:weigh"]


@pytest.mark.usefixtures("small")
async def test_large_outputs_of_items_are_not_lost(world: World) -> None:
    """A child that has brought much begins no more; what is in flight then is sent ahead."""
    handle = await world.start("StageGraph", over(list(range(8)), asks("verbose", "300000")), max_concurrency=24)
    result = await handle.result()
    whole = sha256(b"x" * 300_000).hexdigest()  # the run's own result has no room for them
    answers = [result["final_state"][f"foreach.s.{index}.answer"] for index in range(8)]
    assert answers == [f"[left out: 300,000 bytes, sha256 {whole}]"] * 8
    assert "slice_outcomes" in await signals(handle)


async def test_for_each_beyond_the_bound_is_carried_by_children(world: World) -> None:
    """The real bounds: 3,000 items, and a history that stays small."""
    handle = await world.start("StageGraph", over(list(range(3_000)), asks("echo", "{{item}}")), max_concurrency=100)
    result = await handle.result()
    answers = [result["final_state"][f"foreach.s.{index}.answer"] for index in range(3_000)]
    assert answers == [str(number) for number in range(3_000)]
    described = (await handle.describe()).raw_description.workflow_execution_info
    assert described.history_length < 200
