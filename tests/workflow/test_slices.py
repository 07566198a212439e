"""Fan-outs that children carry: outcomes, order, events and window are those of one run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus

from tests import programs, slice_programs
from tests.histories import most_at_once, signals
from tests.programs import step, steps
from tests.slices import INLINE, SLICE, carried, children
from tests.support import World, event_types, events_of, rejection_of, served
from workflows import supply, wire


@pytest.fixture(scope="module")
async def world(client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    blobs: Path = tmp_path_factory.mktemp("blobs")
    async with served(client, programs.FanOut, *slice_programs.WORKFLOWS, blobs=blobs) as world:
        yield world


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
    started, finished = await events_of(handle, "slice_started"), await events_of(handle, "slice_finished")
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
    specs = steps(20, "together", prompt=f"{window} window-{window}")
    handle = await world.start("FanOut", specs, max_concurrency=window)
    assert {outcome["output"] for outcome in await handle.result()} == {"gathered"}
    found = await children(world, handle)
    assert await most_at_once(*found) == window
    shares = [(await child.describe()).memo_value for child in found[: min(4, window)]]
    options = [await share(wire.OPTIONS_MEMO) for share in shares]
    assert sum(option.get("max_concurrency", 8) for option in options) == window


@pytest.mark.usefixtures("small")
async def test_fan_outs_side_by_side_share_the_window(world: World) -> None:
    """Two fan-outs and single steps wait for each other's places, and none of them for ever."""
    handle = await world.start("SideBySide", 14, max_concurrency=3)
    assert await handle.result() == [14, 14, 4]
    assert await most_at_once(handle, *await children(world, handle)) <= 3


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "told_before",
    [
        {"ended": [[0, {"output": "as before", "success": True}]]},
        {"ended": [[0, {"output": "no success"}], [6, {}], [-1, {}]]},
        {"returned": [[0, {}], [99, {}]]},
    ],
    ids=["told twice", "unreadable", "returned and ended"],
)
async def test_last_word_of_a_child_counts(world: World, told_before: dict[str, Any]) -> None:
    """What a child that was reset, or a stranger, has told of its steps before does not end them twice."""
    handle = await world.start("FanOut", steps(12, "brief"), max_concurrency=4)
    await carried(handle)
    first, *_ = await children(world, handle)
    await handle.signal(wire.SLICE_OUTCOMES_SIGNAL, {"slice": first.id, **told_before})
    assert [outcome["output"] for outcome in await handle.result()] == [f"s{number}" for number in range(12)]
    assert (await handle.query("progress"))["succeeded"] == 12


@pytest.mark.usefixtures("small")
async def test_steps_of_which_nothing_readable_is_told_fail(world: World) -> None:
    """Where the child itself says no more, what was sent ahead in its name fails the step it is about, and says why."""
    handle = await world.start("FanOut", [*steps(6, "slow"), *(step(f"t{number}") for number in range(6))])
    await carried(handle, 2)
    first, *_ = await children(world, handle)
    chunk = {"slice": first.id, "ended": [[0, {"output": "?"}]], "returned": [[1, {}]]}
    await handle.signal(wire.SLICE_OUTCOMES_SIGNAL, chunk)
    await first.terminate("by hand")
    outcomes = await handle.result()
    unreadable, terminated = (
        f"the run {first.id!r}, which carried this step, told what cannot be read: ",
        "was terminated",
    )
    assert [outcome["output"].startswith(f"Task failed: {unreadable}") for outcome in outcomes] == [True] * 2 + [
        False
    ] * 10
    assert [outcome["output"].endswith(terminated) for outcome in outcomes[2:6]] == [True] * 4
    assert [outcome["success"] for outcome in outcomes] == [False] * 6 + [True] * 6


@pytest.mark.usefixtures("small")
async def test_child_of_steps_is_given_no_more_than_its_allotment(world: World) -> None:
    """It never asks for more, so whoever does in its name is a stranger."""
    handle = await world.start("FanOut", steps(12, "brief"), budget_tokens=20_000)
    await carried(handle, 2)
    held = (await handle.query("budget"))["granted_tokens"]
    first, *_ = await children(world, handle)
    short = {
        "slice": first.id,
        "spent": {},
        "step_count": 1,
        "wants": {"fresh": 6, "sharing": 1, "first_tokens": 9_000},
    }
    await handle.signal(wire.SLICE_SHORT_SIGNAL, short)
    assert (await handle.query("budget"))["granted_tokens"] == held
    assert [outcome["success"] for outcome in await handle.result()] == [True] * 12
    assert await events_of(handle, "signal_rejected") == [
        {
            "type": "signal_rejected",
            "signal": wire.SLICE_SHORT_SIGNAL,
            "reason": f"signal slice_short: {first.id!r} carries no steps of this run.",
        }
    ]


@pytest.mark.usefixtures("small")
async def test_large_prompts_make_small_slices(world: World) -> None:
    """A slice is cut where its argument grows large; a step that fits into none is carried by the run itself."""
    huge = await world.start("Counted", {"count": 11, "agent": "echo", "huge": 3})
    assert await huge.result() == {"ok": 11}
    assert [event["step"] for event in await events_of(huge, "step_finished")] == ["0.0:s3"]
    slices = await world.start("Counted", {"count": 12, "agent": "echo", "characters": 300_000})
    assert await slices.result() == {"ok": 12}
    assert [event["step_count"] for event in await events_of(slices, "slice_started")] == [3, 3, 3, 3]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("window", [4, 24], ids=["the child ends early", "outcomes are sent ahead"])
async def test_large_outcomes_are_not_lost(world: World, window: int) -> None:
    """A child that has brought much begins no more; what is still in flight is sent ahead of its result."""
    handle = await world.start("Lengths", steps(12, "verbose", prompt="400000"), max_concurrency=window)
    assert await handle.result() == [400_000] * 12
    finished = await events_of(handle, "slice_finished")
    returned = sum(event.get("returned", 0) for event in finished)
    is_sent_ahead = "slice_outcomes" in await signals(handle)
    assert (returned > 0, is_sent_ahead) == (window == 4, window == 24)


@pytest.mark.usefixtures("small")
async def test_generator_is_asked_slice_by_slice(world: World) -> None:
    """Specs of a generator are counted as they come; the counts are exact in the end."""
    handle = await world.start("Counted", {"count": 26, "agent": "echo"})
    assert await handle.result() == {"ok": 26}
    assert await events_of(handle, "phase_start") == [
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


async def test_call_beyond_the_bound_is_carried_by_children(world: World) -> None:
    """The real bounds: one step more than a run carries itself, and a history that stays small."""
    handle = await world.start("Counted", {"count": supply.INLINE_STEPS + 1, "agent": "echo"}, max_concurrency=100)
    assert await handle.result() == {"ok": 1_001}
    assert [event["step_count"] for event in await events_of(handle, "slice_started")] == [251, 251, 251, 248]
    described = (await handle.describe()).raw_description.workflow_execution_info
    assert described.history_length < 100
    assert described.history_size_bytes < 250_000
