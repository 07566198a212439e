"""What a graph's run refuses before it begins, and what it tells of doubts; large definitions included."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.definitions import edge, graph, pattern, stage
from tests.graphs import (
    result_in_failure,
    until_told,
    visits,
    writes,
)
from tests.support import World, events_of, rejection_of


async def test_start_that_is_unknown_starts_nothing(world: World) -> None:
    """A plain client's run is refused before it begins."""
    handle = await world.start("StageGraph", graph(stage("a"), start="b"))
    assert await rejection_of(handle) == ("GraphRejected", "start stage 'b' does not exist")
    assert await events_of(handle) == []


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


NO_DEFINITION = "a stage graph is an object with id, name, start and stages; this is {}."


@pytest.mark.parametrize(
    ("given", "rejection"),
    [
        ([], ("GraphRejected", NO_DEFINITION.format(None))),
        ([None], ("GraphRejected", NO_DEFINITION.format(None))),
        (["a graph"], ("GraphRejected", f"1:1: {NO_DEFINITION.format(repr('a graph'))}")),
        (
            [graph(stage("a")), graph(stage("b"))],
            ("InputRejected", "StageGraph takes one argument, a definition; it was given 2."),
        ),
    ],
    ids=["nothing", "null", "text", "two"],
)
async def test_run_refuses_what_is_no_definition(world: World, given: Any, rejection: tuple[str, str]) -> None:
    """The run fails in our words; nothing retries for ever."""
    handle = await world.client.start_workflow(
        "StageGraph", args=given, id=f"refused-{uuid.uuid4()}", task_queue=world.task_queue
    )
    assert await rejection_of(handle) == rejection
