"""Definitions that would hang their run, lose its result or take its worker's memory, whoever wrote them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue

from tests.definitions import edge, graph, pattern, proposal, stage, write
from tests.graphs import (
    asks,
    complete,
    error_of,
    fail,
    output_of,
    result_in_failure,
    row,
    until_asked,
    until_told,
    visits,
    writes,
)
from tests.support import World, rejection_of

READ = {"type": "state_read", "parameters": {"key": "deep"}}
PADDING = "x" * 50_000
# A graph that holds it is judged in an activity, and read piece by piece.


@pytest.mark.parametrize("milliseconds", [10**13, 10**15, 10**30], ids=["too long to store", "no date", "no duration"])
async def test_timeout_of_ages_is_a_century(world: World, milliseconds: int) -> None:
    """A stage and an approval with a limit that no clock holds run as with one that never comes."""
    approval = {"type": "approval", "prompt": "Go?", "output_key": "go", "timeout_ms": milliseconds}
    definition = row(stage("a", asks("echo", "hi"), timeout_ms=milliseconds), stage("ask", approval))
    handle = await world.start("StageGraph", definition)
    [request] = await until_asked(handle)
    assert int(request["deadline"][:4]) - int(request["asked"][:4]) in (99, 100)
    await handle.execute_update("resolve_approval", {"id": request["id"], "response": "yes"})
    assert (await handle.result())["final_state"]["go"] == "yes"


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (asks("echo", "{{text}}" * 2_000), "a value is 200.0 MB and the limit is 1.9 MB"),
        (proposal(write("k", ["{{text}}"] * 100)), "a value is 10.0 MB and the limit is 1.9 MB"),
        (
            proposal(*(write(f"k{number}", "{{text}}{{text}}") for number in range(300))),
            "the parameters of the actions together are 50.2 MB and the limit is 50.0 MB",
        ),
        (
            {**pattern("fleet"), "agents": [{"name": str(n), "system_prompt": "{{text}}."} for n in range(501)]},
            "the agents' prompts together are 50.1 MB and the limit is 50.0 MB",
        ),
    ],
    ids=["task", "list", "actions", "prompts"],
)
async def test_references_are_measured_before_they_are_replaced(world: World, step: Any, told: str) -> None:
    """A small definition cannot ask for more memory than a worker has."""
    result = await fail(world, graph(stage("a", step), initial_state={"text": "x" * 100_000}))
    assert error_of(result, "a") == f"with its references replaced, {told}"


@pytest.mark.parametrize(
    "step",
    [
        proposal(READ),
        {"type": "loop_until", "max_iterations": 2, "body": proposal(READ)},
        {"type": "for_each", "items_from": "items", "body": proposal(READ)},
    ],
    ids=["proposal", "loop", "items"],
)
async def test_result_is_flat_enough_to_be_read(world: World, step: Any) -> None:
    """What is nested as deep as a definition may be stands deeper in the result; what nobody could read is left out."""
    deep: Any = 1
    for _ in range(197):
        deep = [deep]
    result = await complete(world, graph(stage("a", step), initial_state={"deep": deep, "items": [1, 2]}))
    written = json.dumps(output_of(result, "a"))
    assert "[left out: it is nested more than 190 levels deep]" in written


async def test_long_error_is_whole_in_the_result_alone(world: World) -> None:
    """The failure's message is cut: with the details it would be more than Temporal takes, again and again."""
    missing = [f"{number}{'d' * 6_000}" for number in range(200)]
    action = {"type": "assertion", "failure_behavior": "skip"}
    step = proposal(*({**action, "state_dependencies": [key]} for key in missing))
    handle = await world.start("StageGraph", graph(stage("a", step)))
    kind, message = await rejection_of(handle)
    whole = "stage 'proposal' failed: " + "; ".join(f"state dependency '{key}' not found" for key in missing)
    assert (kind, message) == ("failed", f"{f'a: {whole}'[:2_000]}… ({len(whole) + 3:,} characters)")
    assert (await result_in_failure(handle))["status"] == "failed"


async def test_result_of_many_long_names_keeps_the_latest_stages(world: World) -> None:
    """What no history holds is left out from its beginning, and said; the result is not lost."""
    name = "s" * 9_900
    definition = graph(stage(name), edges=[edge(name, name)], max_iterations=250)
    result = await fail(world, definition)
    first, *kept = result["stages"]
    assert visits(result)[1:] == [name] * len(kept)
    assert first["stage_name"].startswith(f"[left out: {251 - len(kept)} executions of stages, ")
    assert kept[-1]["error"] == "cycle limit reached after 250 iterations"


async def test_action_that_may_not_run_lets_others_run(world: World) -> None:
    """Thousands of refusals are no reason for a workflow task that does not end."""
    action = {"type": "assertion", "preconditions": [{"key": "n"}], "failure_behavior": "skip"}
    result = await fail(world, graph(stage("a", proposal(*([action] * 8_000)))))
    assert [each["status"] for each in output_of(result, "a")["result"]["results"]] == ["rejected"] * 8_000


@pytest.mark.parametrize(
    ("kind", "config", "told"),
    [
        ("supervisor", {"max_rounds": 2_000}, "agent error: no agents produced output"),
        ("map_reduce", {"items": list(range(2_000))}, "agent error: no agents produced output"),
    ],
)
async def test_rounds_of_denied_steps_come_to_an_end(world: World, kind: str, config: Any, told: str) -> None:
    """Steps that the budget denies wait for nothing, and the run answers between them all the same."""
    result = await fail(world, graph(stage("a", pattern(kind, "echo", "echo", **config))), budget_tokens=0)
    assert error_of(result, "a") == told


async def test_window_wider_than_a_run_can_hold_is_narrowed(world: World) -> None:
    """A `for_each` with room for all of its items at once."""
    step = {"type": "for_each", "items_from": "items", "body": writes(k="{{item}}"), "max_concurrent": 10**9}
    result = await complete(world, graph(stage("a", step), initial_state={"items": list(range(3_000))}))
    assert [result["final_state"][f"foreach.a.{number}.state.k"] for number in (0, 2_999)] == [0, 2_999]


async def test_name_that_no_store_can_have_fails_its_stage(world: World) -> None:
    """Temporal takes ids of 1,000 bytes."""
    step = {"type": "dedup", "items_from": "items", "into": "new", "store": "é" * 500}
    result = await fail(world, graph(stage("a", step), initial_state={"items": [1]}))
    told = f"dedup store '{'é' * 200}… (500 characters)': its name has 1,000 bytes and the limit is 987."
    assert error_of(result, "a") == told


@pytest.mark.parametrize(
    "field",
    [{"agents": [1]}, {"actions": ["x"]}, {"step": {"stages": [1]}}, {"workflow": {"edges": [None]}}],
    ids=["agents", "actions", "step", "workflow"],
)
async def test_unknown_field_of_a_large_graph_is_a_doubt(world: World, field: Any) -> None:
    """Also one that has a meaning somewhere else in a definition."""
    definition = graph(stage("a"), metadata={"padding": PADDING}, **field)
    handle = await world.start("StageGraph", definition)
    assert (await handle.result())["status"] == "completed"
    [doubt] = await until_told(handle, "log")
    assert doubt["message"].startswith(f"'{next(iter(field))}' is not known and is ignored.")


async def test_graph_that_grows_as_it_is_stored_is_refused(world: World) -> None:
    """1e15 takes four characters from a client, and eighteen from there on."""
    numbers = b",".join([b"1e15"] * 200_000)
    definition = b'{"id":"g","name":"G","start":"a","stages":[],"initial_state":{"n":[%s]}}' % numbers
    given = RawValue(Payload(metadata={"encoding": b"json/plain"}, data=definition))
    told = "the graph is too large to be judged: as it is stored it takes 3,800,071 bytes, and the limit is 1,900,000."
    assert await rejection_of(await world.start("StageGraph", given)) == ("GraphRejected", told)


async def test_large_text_is_no_graph(world: World) -> None:
    """Reading it would hold up the worker; nothing but an object is judged in an activity."""
    told = "the graph is given as a text of 150,011 bytes, and the limit for texts is 100,000. Give it as an object."
    handle = await world.start("StageGraph", f"id: g\n# {PADDING * 3}")
    assert await rejection_of(handle) == ("GraphRejected", told)
