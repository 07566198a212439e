"""Fan-outs that children carry: outcomes, budget, events and cancel are those of one run.

A call is carried by children from 1,001 steps on. Here mostly from 11 on, in slices of 6: the worker runs in this
process and workflow code passes through the sandbox, so it sees the lowered bounds.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from tests import programs, slice_programs
from tests.programs import step, steps
from tests.support import World, event_types, events_of, failure_of, rejection_of, served, wait_until
from workflows import supply, wire

INLINE, SLICE = 10, 6

Handle = WorkflowHandle[Any, Any]


@pytest.fixture(scope="module")
async def world(client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    blobs: Path = tmp_path_factory.mktemp("blobs")
    async with served(client, programs.FanOut, *slice_programs.WORKFLOWS, blobs=blobs) as world:
        yield world


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of six steps, from eleven on."""
    monkeypatch.setattr(supply, "INLINE_STEPS", INLINE)
    monkeypatch.setattr(supply, "SLICE_STEPS", SLICE)


async def told(handle: Handle, kind: str) -> list[dict[str, Any]]:
    return await events_of(handle, kind)


async def children(world: World, handle: Handle) -> list[Handle]:
    """The children that a run has started, in their order."""
    return [world.client.get_workflow_handle(each["workflow_id"]) for each in await told(handle, "slice_started")]


async def carried(handle: Handle, count: int = 1) -> None:
    """Wait until children of a run carry steps."""

    async def started() -> bool:
        return len(await told(handle, "slice_started")) >= count

    await wait_until(f"{count} slices have started", started)


async def steps_begun(world: World, handle: Handle, count: int) -> None:
    """Wait until so many steps have begun in the children of a run."""

    async def begun() -> bool:
        types = [kind for child in await children(world, handle) for kind in await event_types(child)]
        return types.count("step_started") >= count

    await wait_until(f"{count} steps have begun", begun)


async def at_once(handles: list[Handle]) -> int:
    """The most steps that were in flight together, over several runs."""
    changes: list[tuple[int, int]] = []
    for handle in handles:
        async for event in handle.fetch_history_events():
            change = {EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: 1, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: -1}
            if event.event_type in change:
                changes.append((event.event_time.ToNanoseconds(), change[event.event_type]))
    running, most = 0, 0
    for _, change_by in sorted(changes):
        running += change_by
        most = max(most, running)
    return most


@pytest.mark.usefixtures("small")
async def test_slices_bring_what_one_run_would(world: World) -> None:
    """Outcomes are those of an inline call, in the order of the specs, whoever carried them."""
    specs = [step("late", "brief"), *steps(12), step("bad", "broken"), step("again", "flaky"), step("lost", "nobody")]
    handle = await world.start("FanOut", specs)
    outcomes = await handle.result()
    assert [outcome["task_id"] for outcome in outcomes] == [spec.task_id for spec in specs]
    by_id = {outcome.pop("task_id"): outcome for outcome in outcomes}
    assert {name: outcome["success"] for name, outcome in by_id.items() if not outcome["success"]} == {
        "bad": False,
        "lost": False,
    }
    assert by_id["bad"] | {"duration_ms": 0} == {
        "session_id": "task-run-bad",
        "agent": "broken",
        "output": "Task failed: the disk is full",
        "success": False,
        "status": "failed",
        "error": "the disk is full",
        "duration_ms": 0,
    }
    assert (by_id["again"]["output"], by_id["again"]["attempts"]) == ("again", 3)
    names = [
        each["step"] for child in await children(world, handle) for each in (await child.query("progress"))["steps"]
    ]
    assert sorted(names) == sorted(f"c0.0:{spec.task_id}" for spec in specs)


@pytest.mark.usefixtures("small")
async def test_phase_of_slices_tells_its_counts(world: World) -> None:
    """The parent tells its slices instead of their steps; counts are exact, and progress says where to look."""
    phases = [{"name": "many", "steps": [*steps(13), step("bad", "broken")]}, {"name": "few", "steps": steps(1)}]
    handle = await world.start("Steps", phases)
    report = await handle.result()
    assert (report["succeeded"], report["failed"]) == (14, 1)
    assert [event for event in await events_of(handle) if event["type"].startswith("phase")] == [
        {"type": "phase_start", "name": "many", "index": 0, "step_count": 14},
        {"type": "phase_end", "name": "many", "index": 0, "succeeded": 13, "failed": 1},
        {"type": "phase_start", "name": "few", "index": 1, "step_count": 1},
        {"type": "phase_end", "name": "few", "index": 1, "succeeded": 1, "failed": 0},
    ]
    started, finished = await told(handle, "slice_started"), await told(handle, "slice_finished")
    assert [(event["first"], event["phase"], event["step_count"]) for event in started] == [
        ("0.0:s0", 0, 6),
        ("0.0:s6", 0, 6),
        ("0.0:s12", 0, 2),
    ]
    assert sum(event["succeeded"] for event in finished) == 13
    assert {event["workflow_id"] for event in started} == {event["workflow_id"] for event in finished}
    assert all(event["workflow_id"].startswith(f"{handle.id}/0.") for event in started)
    progress = await handle.query("progress")
    assert (progress["running"], progress["succeeded"], progress["failed"]) == (0, 14, 1)
    assert [each["step"] for each in progress["steps"]] == ["0.0:bad", "1.0:s0"]
    assert progress["omitted_steps"] == 13
    assert [(each["status"], each["step_count"]) for each in progress["slices"]] == [("done", 6)] * 2 + [("done", 2)]


@pytest.mark.usefixtures("small")
async def test_child_opens_the_group_of_its_phase_again(world: World) -> None:
    """In the Temporal UI the steps of a child are under their phase."""
    handle = await world.start("Steps", [{"name": "many", "steps": steps(11)}])
    await handle.result()
    child, *_ = await children(world, handle)
    scheduled = [
        event
        async for event in child.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ]
    assert len(scheduled) == SLICE
    assert {marker.label.id for event in scheduled for marker in event.event_group_markers} == {"phase-0"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("window", [1, 3, 7])
async def test_children_share_the_window(world: World, window: int) -> None:
    """The steps of all children together are never more than the run's window, and they use all of it."""
    handle = await world.start("FanOut", steps(20, "echo"), max_concurrency=window)
    await handle.result()
    found = await children(world, handle)
    assert await at_once(found) <= window
    shares = [(await child.describe()).memo_value for child in found[: min(4, window)]]
    options = [await share(wire.OPTIONS_MEMO) for share in shares]
    assert sum(option.get("max_concurrency", 8) for option in options) == window


@pytest.mark.usefixtures("small")
async def test_fan_outs_side_by_side_share_the_window(world: World) -> None:
    """Two fan-outs and single steps wait for each other's places, and none of them for ever."""
    handle = await world.start("SideBySide", 14, max_concurrency=3)
    assert await handle.result() == [14, 14, 4]
    assert await at_once([handle, *await children(world, handle)]) <= 3


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
    assert await told(handle, "slice_started") == []
    reason = "workflow token budget exhausted (0 / 0 tokens)"
    denied = await told(handle, "slice_denied")
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


@pytest.mark.usefixtures("small")
async def test_cancel_reaches_every_step_of_every_child(world: World) -> None:
    """Steps in flight are cancelled, awaited and recorded; each child returns; then the run ends Canceled."""
    handle = await world.start("FanOut", steps(15, "slow"), max_concurrency=6, budget_tokens=100_000)
    await steps_begun(world, handle, 5)
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    found = await children(world, handle)
    assert {(await child.describe()).status for child in found} == {WorkflowExecutionStatus.COMPLETED}
    ended = [event["status"] for child in found for event in await told(child, "step_finished")]
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
    [undone] = await told(handle, "compensation_finished")
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
    assert await told(handle, "usage_unknown") == [
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
async def test_large_prompts_make_small_slices(world: World) -> None:
    """A slice is cut where its argument grows large; a step that fits into none is carried by the run itself."""
    huge = await world.start("Counted", {"count": 11, "agent": "echo", "huge": 3})
    assert await huge.result() == {"ok": 11}
    assert [event["step"] for event in await told(huge, "step_finished")] == ["0.0:s3"]
    slices = await world.start("Counted", {"count": 12, "agent": "echo", "characters": 300_000})
    assert await slices.result() == {"ok": 12}
    assert [event["step_count"] for event in await told(slices, "slice_started")] == [3, 3, 3, 3]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("window", [4, 24], ids=["the child ends early", "outcomes are sent ahead"])
async def test_large_outcomes_are_not_lost(world: World, window: int) -> None:
    """A child that has brought much begins no more; what is still in flight is sent ahead of its result."""
    handle = await world.start("Lengths", steps(12, "verbose", prompt="400000"), max_concurrency=window)
    assert await handle.result() == [400_000] * 12
    finished = await told(handle, "slice_finished")
    returned = sum(event.get("returned", 0) for event in finished)
    signalled = [
        event
        async for event in handle.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    ]
    assert (returned > 0, len(signalled) > 0) == (window == 4, window == 24)


@pytest.mark.usefixtures("small")
async def test_generator_is_asked_slice_by_slice(world: World) -> None:
    """Specs of a generator are counted as they come; the counts are exact in the end."""
    handle = await world.start("Counted", {"count": 26, "agent": "echo"})
    assert await handle.result() == {"ok": 26}
    assert await told(handle, "phase_start") == [
        {"type": "phase_start", "name": "many", "index": 0, "step_count": INLINE + 1, "more": True}
    ]
    [phase] = (await handle.query("progress"))["phases"]
    assert (phase["step_count"], phase["succeeded"]) == (26, 26)


@pytest.mark.usefixtures("small")
async def test_generator_that_repeats_an_id_ends_what_was_begun(world: World) -> None:
    """What was begun is cancelled and awaited; then the call raises."""
    handle = await world.start("Counted", {"count": 20, "agent": "slow", "repeats": True}, max_concurrency=20)
    assert await rejection_of(handle) == (
        "DuplicateTaskIds",
        "phase: task_id 's0' is used by more than one step. Give each step of a call its own.",
    )
    found = await children(world, handle)
    assert {(await child.describe()).status for child in found} == {WorkflowExecutionStatus.COMPLETED}
    assert (await handle.query("progress"))["running"] == 0
    assert (await event_types(handle))[-1] == "phase_end"


@pytest.mark.usefixtures("small")
async def test_list_with_repeated_ids_starts_no_child(world: World) -> None:
    """A list is looked through before anything is scheduled."""
    handle = await world.start("FanOut", [*steps(20), step("s3")])
    assert (await rejection_of(handle))[0] == "DuplicateTaskIds"
    assert await event_types(handle) == []


@pytest.mark.usefixtures("small")
async def test_prompt_that_cannot_be_stored_fails_alone(world: World) -> None:
    """A step that no JSON can hold does not take its slice with it."""
    handle = await world.start("Counted", {"count": 12, "agent": "echo", "unstorable": 3})
    assert await handle.result() == {"failed": 1, "ok": 11}


@pytest.mark.usefixtures("small")
async def test_rounds_of_a_loop_are_carried_too(world: World) -> None:
    """Each round is a call of its own, whatever its size."""
    assert await world.run("Rounds", [13, 2, 17]) == [13, 2, 17]


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
    assert len(await told(handle, "slice_started")) == 4
    assert [event["message"] for event in await told(handle, "log")] == [
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
async def test_pipeline_of_a_method_stays_inline(world: World) -> None:
    """A stage without a name of its own cannot go to a child."""
    handle = await world.start("SlicedPipe", {"items": 8, "method": True})
    assert [result["output"] for result in await handle.result()] == [f"after first-{number}" for number in range(8)]
    assert await told(handle, "slice_started") == []


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ({"method": True}, "stage 0 is 'Piped.first', which is no function of a module"),
        ({"bytes": True}, "item 6001 is a bytes, which is no plain JSON"),
    ],
    ids=["a method", "an item that is no JSON"],
)
async def test_pipeline_that_nothing_can_carry_is_refused(world: World, plan: dict[str, Any], why: str) -> None:
    """Beyond what one history holds, before anything is scheduled, saying how to mend it."""
    handle = await world.start("SlicedPipe", {"items": 6_001, **plan})
    count = 6_002 if "bytes" in plan else 6_001
    assert await rejection_of(handle) == (
        "FanOutTooLarge",
        f"pipeline: {count:,} items through 2 stages are more than the 12,000 steps that one history holds, and "
        f"children cannot carry it: {why}. Make each stage a function of a module, `def stage(previous, item)`, and "
        "each item plain JSON.",
    )
    assert await event_types(handle) == []


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


async def test_call_beyond_the_bound_is_carried_by_children(world: World) -> None:
    """The real bounds: one step more than a run carries itself, and a history that stays small."""
    handle = await world.start("Counted", {"count": supply.INLINE_STEPS + 1, "agent": "echo"}, max_concurrency=100)
    assert await handle.result() == {"ok": 1_001}
    assert [event["step_count"] for event in await told(handle, "slice_started")] == [251, 251, 251, 248]
    described = (await handle.describe()).raw_description.workflow_execution_info
    assert described.history_length < 100
    assert described.history_size_bytes < 250_000
