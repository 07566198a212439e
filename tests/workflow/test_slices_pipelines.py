"""Pipelines that children carry: their stages have names, and their chains end as they do in one run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import Client

from runtime.replaying import replay_histories
from runtime.settings import Settings
from tests import slice_programs
from tests.support import World, event_types, events_of, rejection_of, served


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(client, slice_programs.Piped) as world:
        yield world


@pytest.mark.usefixtures("small")
async def test_pipeline_of_named_stages_is_carried(world: World) -> None:
    """Chains end in children as they end inline, and crashes are told by the parent."""
    items = [*(str(number) for number in range(8)), "nothing", "crash", "late crash", "broken"]
    handle = await world.start("SlicedPipe", {"items": items})
    results = await handle.result()
    assert [result and result["output"] for result in results] == [
        *(f"after first-{number}" for number in range(8)),
        None,
        None,
        None,
        "Task failed: the disk is full",
    ]
    assert len(await events_of(handle, "slice_started")) == 4
    assert [event["message"] for event in await events_of(handle, "log")] == [
        "pipeline stage 0 raised ValueError: no such item",
        "pipeline stage 1 raised ValueError: too late",
    ]
    progress = await handle.query("progress")
    assert (progress["running"], progress["succeeded"], progress["failed"]) == (0, 17, 1)


@pytest.mark.usefixtures("small")
async def test_pipeline_of_slices_is_denied_at_its_stage(world: World) -> None:
    """A chain that the budget cannot pay for ends with a denied outcome of its own step."""
    handle = await world.start("SlicedPipe", {"items": ["greedy", *(str(n) for n in range(9))]}, budget_tokens=500)
    first, *others = await handle.result()
    assert (first["task_id"], first["status"]) == ("first-greedy", "budget_exceeded")
    assert first["output"] == "Task failed: workflow token budget cannot pay 1000 tokens more (0 / 500 tokens used)"
    assert [other["success"] for other in others] == [True] * 9


@pytest.mark.usefixtures("small")
async def test_pipeline_without_stages_brings_nothing(world: World) -> None:
    """Whatever the number of its items."""
    handle = await world.start("SlicedPipe", {"items": 12, "stages": 0})
    assert await handle.result() == [None] * 12
    assert await events_of(handle, "slice_started") == []


@pytest.mark.usefixtures("small")
async def test_pipeline_of_a_method_stays_inline(world: World) -> None:
    """A stage without a name of its own cannot go to a child."""
    handle = await world.start("SlicedPipe", {"items": 8, "method": True})
    assert [result["output"] for result in await handle.result()] == [f"after first-{number}" for number in range(8)]
    assert await events_of(handle, "slice_started") == []


@pytest.mark.usefixtures("small")
async def test_pipeline_keeps_a_number_that_no_json_has(world: World) -> None:
    """A child would be given null in its place, so the run carries such a pipeline itself."""
    handle = await world.start("SlicedPipe", {"items": 11, "nan": True})
    *_, last = await handle.result()
    assert last["output"] == "after first-nan"
    assert await events_of(handle, "slice_started") == []
    [verdict] = await replay_histories([await handle.fetch_history()], [slice_programs.Piped], Settings())
    assert verdict.failure is None


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ({"method": True}, "stage 0 is 'Piped.first', which is no function of a module"),
        ({"bytes": True}, "item 6001 is a bytes, which is no plain JSON"),
        ({"nan": True}, "item 6001 is nan, which is no plain JSON"),
    ],
    ids=["a method", "an item that is no JSON", "a number that is none"],
)
async def test_pipeline_that_nothing_can_carry_is_refused(world: World, plan: dict[str, Any], why: str) -> None:
    """Beyond what one history holds, before anything is scheduled, saying how to mend it."""
    handle = await world.start("SlicedPipe", {"items": 6_001, **plan})
    count = 6_001 if "method" in plan else 6_002
    assert await rejection_of(handle) == (
        "FanOutTooLarge",
        f"pipeline: {count:,} items through 2 stages are more than the 12,000 steps that one history holds, and "
        f"children cannot carry it: {why}. Make each stage a function of a module, `def stage(previous, item)`, and "
        "each item plain JSON.",
    )
    assert await event_types(handle) == []


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (":stage", "Empty module name"),
        (".relative:stage", "the 'package' argument is required to perform a relative import for '.relative'"),
        ("os:getcwd", "it is a builtin_function_or_method, and a stage is a function of a module"),
        ("tests.slice_programs:nothing", "module 'tests.slice_programs' has no attribute 'nothing'"),
    ],
    ids=["no module", "a relative module", "no function of Python", "not there"],
)
async def test_slice_refuses_what_is_no_stage(world: World, function: str, why: str) -> None:
    """Whoever started it: a name that leads to no function of a module ends it, with a sentence."""
    work = {"type": "chains", "stages": [{"function": function, "prefix": "c0.0"}], "items": [{"item": 1}]}
    assert await rejection_of(await world.start("Slice", {"work": work})) == (
        "InputRejected",
        f"pipeline: the stage {function!r} is not on this worker ({why}). "
        "Every worker of the task queue must have its module.",
    )
