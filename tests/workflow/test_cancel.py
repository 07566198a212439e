"""Cancel and deadlines: what is in flight ends and is recorded, nothing new begins, what was done is undone."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from tests import programs
from tests.programs import step, steps
from tests.support import World, event_types, events_of, failure_of, served, wait_until


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(
        client,
        programs.FanOut,
        programs.Sequence,
        programs.Undoing,
        programs.Limited,
        programs.Stubborn,
    ) as world:
        yield world


async def has_begun(handle: WorkflowHandle[Any, Any], count: int) -> None:
    """Wait until so many steps have begun."""

    async def begun() -> bool:
        return (await event_types(handle)).count("step_started") >= count

    await wait_until(f"{count} steps have begun", begun)


async def test_cancel_ends_every_step_in_flight(world: World) -> None:
    """A cancelled fan-out cancels, awaits and records its steps, begins no other, and the run ends Canceled."""
    handle = await world.start("FanOut", steps(20, "slow"))
    await has_begun(handle, 8)
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert (await handle.describe()).status == WorkflowExecutionStatus.CANCELED
    finished = await events_of(handle, "step_finished")
    assert [event["status"] for event in finished] == ["cancelled"] * 8


async def test_cancel_settles_what_the_steps_had_spent(world: World) -> None:
    """The usage of cancelled steps is charged, and their grants are returned."""
    handle = await world.start("FanOut", steps(3, "slow"), budget_tokens=10_000)
    await has_begun(handle, 3)
    begun = time.monotonic()

    async def have_spent() -> bool:
        return time.monotonic() > begun + 1.5  # five turns of an agent that takes 0.3 s for each

    await wait_until("the steps have spent something", have_spent)
    await handle.cancel()
    await failure_of(handle)
    budget = await handle.query("budget")
    assert budget["granted_tokens"] == 0
    assert 3 <= budget["consumed_tokens"] <= 100


async def test_cancelled_steps_run_reports(world: World) -> None:
    """`Steps` fails with its report: what ended, and a cancelled outcome for each step that never began."""
    phases = [
        {"name": "one", "steps": [step("quick")]},
        {"name": "two", "steps": [step("done"), *steps(12, "slow")]},
        {"name": "three", "steps": [step("never")]},
    ]
    handle = await world.start("Steps", phases)
    await has_begun(handle, 9)
    await handle.cancel()
    failure = await failure_of(handle)
    assert isinstance(failure, ApplicationError)
    assert (failure.type, failure.message) == ("cancelled", "the run was cancelled")
    report = failure.details[0]
    statuses = [[outcome.get("status", "ok") for outcome in phase["outcomes"]] for phase in report["phases"]]
    assert statuses == [["ok"], ["ok", *["cancelled"] * 12]]
    assert [phase["name"] for phase in report["phases"]] == ["one", "two"]


async def test_cancel_is_raised_by_every_later_verb(world: World) -> None:
    """Code that catches its cancel cannot begin another step."""
    handle = await world.start("Stubborn")
    await has_begun(handle, 3)
    await handle.cancel()
    assert await handle.result() == "held up"
    assert (await event_types(handle)).count("step_started") == 3


@pytest.mark.parametrize("cancels", [1, 2], ids=["once", "twice"])
async def test_cancel_compensates_to_the_end(world: World, cancels: int) -> None:
    """A cancelled run undoes what it did, latest first, and a second cancel does not stop that."""
    handle = await world.start("Undoing", {"count": 10, "agent": "slow", "undo": "brief"})
    await has_begun(handle, 8)
    await handle.cancel()
    if cancels == 2:

        async def compensates() -> bool:
            return "compensation_started" in await event_types(handle)

        await wait_until("it compensates", compensates)
        await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    told = await events_of(handle, "compensation_finished")
    assert told == [
        {"type": "compensation_finished", "name": "second", "status": "succeeded"},
        {"type": "compensation_finished", "name": "first", "status": "succeeded"},
    ]


async def test_failed_compensation_does_not_stop_the_others(world: World) -> None:
    """A compensation whose step fails is reported; the others run, and none is denied by the budget."""
    plan = {"count": 2, "agent": "greedy", "undo": "echo", "undo_second": "broken"}
    handle = await world.start("Undoing", plan, budget_tokens=500)
    assert await handle.result() == "second:failed first:succeeded"


async def test_deadline_is_decided_by_the_timer(world: World) -> None:
    """When the timer is first the work is cancelled and awaited, whatever it returns, and the run goes on."""
    handle = await world.start("Limited", 0.6)
    assert await handle.result() == ["timed out", "None", "after"]
    finished = [event["status"] for event in await events_of(handle, "step_finished")]
    assert finished == [*["cancelled"] * 8, "ok"]


async def test_timed_out_step_keeps_its_usage(world: World) -> None:
    """Of a step that its own deadline ended, usage is kept and charged."""
    handle = await world.start("Sequence", [step("late", "slow", timeout_seconds=1)])
    [outcome] = await handle.result()
    assert (outcome["status"], outcome["error"]) == ("timed_out", "step 'late' timed out after 1000ms")
    spent = outcome["usage"]["total_tokens"]
    assert spent >= 1
    assert (await handle.query("budget"))["consumed_tokens"] == spent


async def test_step_that_nobody_serves_can_be_cancelled(world: World) -> None:
    """A step on a queue without a worker is cancelled at once, and charges nothing."""
    handle = await world.start("FanOut", [step("lost", task_queue="nobody-polls-this")], budget_tokens=100)
    await has_begun(handle, 1)
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert (await handle.query("budget"))["consumed_tokens"] == 0
    assert "usage_unknown" not in await event_types(handle)
