"""Fan-outs that children carry, ended early: by a cancel, a deadline, or a hand on one of the children."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError, CancelledError

from tests.programs import FanOut, step, steps
from tests.slice_programs import Counted, LimitedMany, UndoingMany
from tests.slices import carried, children, steps_begun
from tests.support import World, events_of, failure_of, served


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(client, FanOut, Counted, LimitedMany, UndoingMany) as world:
        yield world


@pytest.mark.usefixtures("small")
async def test_cancel_reaches_every_step_of_every_child(world: World) -> None:
    """Steps in flight are cancelled, awaited and recorded; each child returns; then the run ends Canceled."""
    handle = await world.start("FanOut", steps(15, "slow"), max_concurrency=6, budget_tokens=100_000)
    await steps_begun(world, handle, 5)
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    found = await children(world, handle)
    assert {(await child.describe()).status for child in found} == {WorkflowExecutionStatus.COMPLETED}
    ended = [event["status"] for child in found for event in await events_of(child, "step_finished")]
    progress, budget = await handle.query("progress"), await handle.query("budget")
    assert (progress["running"], progress["failed"]) == (0, len(ended))
    assert set(ended) == {"cancelled"}
    assert budget["granted_tokens"] == 0
    assert budget["consumed_tokens"] < 1_000


@pytest.mark.usefixtures("small")
async def test_cancelled_steps_run_reports_what_children_did(world: World) -> None:
    """The report of a cancelled `Steps` run has an outcome for each step, also for those that never began."""
    handle = await world.start("Steps", [{"name": "slow", "steps": [step("quick"), *steps(14, "slow")]}])
    await steps_begun(world, handle, 6)
    await handle.cancel()
    failure = await failure_of(handle)
    assert isinstance(failure, ApplicationError)
    [phase] = failure.details[0]["phases"]
    assert [outcome.get("status", "ok") for outcome in phase["outcomes"]] == ["ok", *["cancelled"] * 14]


@pytest.mark.usefixtures("small")
async def test_deadline_ends_the_children(world: World) -> None:
    """A deadline around a fan-out ends its children, and the run goes on."""
    handle = await world.start("LimitedMany", 15)
    assert await handle.result() == ["timed out", "after"]
    assert (await handle.query("progress"))["running"] == 0


@pytest.mark.usefixtures("small")
async def test_cancelled_run_compensates_by_children(world: World) -> None:
    """What undoes is carried by children too, although the run is cancelled, and is never denied."""
    handle = await world.start("UndoingMany", 12, budget_tokens=1_000)
    await carried(handle)
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    [undone] = await events_of(handle, "compensation_finished")
    assert undone == {"type": "compensation_finished", "name": "all", "status": "succeeded"}
    assert (await handle.query("progress"))["succeeded"] == 12


@pytest.mark.usefixtures("small")
async def test_terminated_child_fails_its_steps(world: World) -> None:
    """Steps of a child that was terminated have failed and say so; its whole allotment is charged."""
    handle = await world.start("FanOut", [*steps(6, "slow"), *(step(f"t{n}") for n in range(6))], budget_tokens=12_000)
    await carried(handle, 2)
    first, *_ = await children(world, handle)
    await first.terminate("by hand")
    outcomes = await handle.result()
    reason = f"the run {first.id!r}, which carried this step, was terminated"
    assert [outcome["output"] for outcome in outcomes[:6]] == [f"Task failed: {reason}"] * 6
    assert [outcome["success"] for outcome in outcomes[6:]] == [True] * 6
    assert await events_of(handle, "usage_unknown") == [
        {"type": "usage_unknown", "step": first.id, "charged_tokens": 6_000},
    ]
    assert (await handle.query("budget"))["consumed_tokens"] == 6_000


@pytest.mark.usefixtures("small")
async def test_child_that_is_cancelled_by_hand_ends_its_steps_alone(world: World) -> None:
    """The steps of that child are cancelled outcomes; the others go on."""
    handle = await world.start("FanOut", [*steps(6, "slow"), *(step(f"t{n}") for n in range(6))])
    await carried(handle, 2)
    first, *_ = await children(world, handle)
    await first.cancel()
    outcomes = await handle.result()
    assert [outcome["output"] for outcome in outcomes[:6]] == ["Task cancelled by caller"] * 6
    assert [outcome["success"] for outcome in outcomes[6:]] == [True] * 6


@pytest.mark.usefixtures("small")
async def test_run_can_be_reset_to_before_its_children(world: World) -> None:
    """The new run starts children of its own, under ids of their own."""
    handle = await world.start("Counted", {"count": 12, "agent": "echo"})
    await handle.result()
    before = {child.id for child in await children(world, handle)}
    await world.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=world.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            reason="a test",
            workflow_task_finish_event_id=3,  # the start of the first workflow task
            request_id=f"reset-{handle.id}",
        )
    )
    again = world.client.get_workflow_handle(handle.id)
    assert await again.result() == {"ok": 12}
    after = {child.id for child in await children(world, again)}
    assert (len(after), after & before) == (2, set())
