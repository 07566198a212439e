"""The budget of a fan-out that children carry: one limit over all of them, and nothing is paid twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from tests.programs import FanOut, steps
from tests.slice_programs import Counted
from tests.support import World, event_types, events_of, served, wait_until


@pytest.fixture(scope="module")
async def world(client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    blobs: Path = tmp_path_factory.mktemp("blobs")
    async with served(client, FanOut, Counted, blobs=blobs) as world:
        yield world


@pytest.mark.usefixtures("small")
async def test_budget_holds_over_slices(world: World) -> None:
    """Slices never pass the limit together; a step that a child cannot pay for goes on in a later one."""
    handle = await world.start("FanOut", steps(15, "metered"), budget_tokens=3_000, max_concurrency=6)
    outcomes = await handle.result()
    budget = await handle.query("budget")
    used = [outcome.get("usage", {}).get("total_tokens", 0) for outcome in outcomes]
    assert budget["consumed_tokens"] == sum(used) <= 3_000
    assert budget["granted_tokens"] == 0
    done = [outcome for outcome in outcomes if outcome["success"]]
    assert 3 <= len(done) <= 6
    assert all(outcome["usage"]["requests"] == 5 for outcome in done)  # no turn was paid twice
    denied = [outcome for outcome in outcomes if not outcome["success"]]
    assert {outcome["status"] for outcome in denied} == {"budget_exceeded"}
    assert all(outcome["output"].startswith("Task failed: workflow token budget ") for outcome in denied)


@pytest.mark.usefixtures("small")
async def test_exhausted_budget_starts_no_child(world: World) -> None:
    """A limit of 0 denies every step as data."""
    handle = await world.start("Counted", {"count": 25, "agent": "echo"}, budget_tokens=0)
    assert await handle.result() == {"budget_exceeded": 25}
    assert await events_of(handle, "slice_started") == []
    reason = "workflow token budget exhausted (0 / 0 tokens)"
    denied = await events_of(handle, "slice_denied")
    assert {event["reason"] for event in denied} == {reason}
    assert sum(event["step_count"] for event in denied) == 25
    assert (await handle.query("progress"))["failed"] == 25


@pytest.mark.usefixtures("small")
async def test_raised_limit_lets_waiting_slices_go_on(world: World) -> None:
    """A run that is told to wait keeps what it cannot pay for until somebody raises the budget."""
    handle = await world.start("FanOut", steps(15, "greedy"), budget_tokens=4_500, on_exhausted="wait")

    async def waits() -> bool:
        return "slice_waiting" in await event_types(handle)

    await wait_until("a slice waits", waits)
    await handle.signal("set_budget", {"limit_tokens": 20_000})
    assert [outcome["success"] for outcome in await handle.result()] == [True] * 15
    assert (await handle.query("budget"))["consumed_tokens"] == 15_000


async def test_slice_hands_back_what_it_cannot_pay(world: World) -> None:
    """A step goes on from its checkpoint in another child, with its own key."""
    item: dict[str, Any] = {"spec": {"task_id": "a", "agent": "metered", "prompt": "p"}}
    work = {"type": "steps", "prefix": "c0.0", "items": [item]}
    report = await world.run("Slice", {"work": work}, budget_tokens=250)
    [[at, begun]] = report["returned"]
    assert (at, report["spent"]) == (0, {"total_tokens": 200})
    assert begun["resume"]["usage"] == {"input_tokens": 200, "total_tokens": 200, "requests": 2}
    item["begun"] = begun
    again = await world.start("Slice", {"work": work}, budget_tokens=1_000)
    rest = await again.result()
    [[at, outcome]] = rest["ended"]
    assert (at, rest["spent"]) == (0, {"total_tokens": 300})
    assert outcome["usage"] == {"input_tokens": 500, "total_tokens": 500, "requests": 5}
    keys = [
        (await world.client.data_converter.decode(event.activity_task_scheduled_event_attributes.input.payloads))[0][
            "key"
        ]
        async for event in again.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ]
    assert set(keys) == {begun["key"]}
