"""What a graph's run does when it fails or is cancelled: it undoes in reverse, and tells what it undid."""

from __future__ import annotations

from temporalio.client import WorkflowExecutionStatus

from tests.definitions import call, edge, graph, proposal, stage, write
from tests.graphs import (
    FAILURE,
    asks,
    check,
    error_of,
    fail,
    fails,
    ref,
    result_in_failure,
    row,
    statuses,
    undo,
    undone,
    until_told,
    visits,
    when,
    writes,
)
from tests.support import World, rejection_of


async def test_failure_ends_the_run_and_undoes_in_reverse(world: World) -> None:
    """Latest first, one for each execution, none for the failed stage nor where there is no handler."""
    definition = graph(
        stage("a", compensation=undo(last="a")),
        stage("b", compensation=undo(last="b")),
        stage("plain"),
        stage("c", fails(), compensation=undo(last="c")),
        edges=[
            edge("a", "b"),
            edge("b", "c", when("last", "x")),
            edge("b", "plain", when("again", operator="not_exists")),
            edge("b", "c"),
            edge("plain", "again"),
            edge("again", "a"),
        ],
    )
    definition["stages"].append(stage("again", writes(again=True)))
    result = await fail(world, definition)
    assert result["status"] == "compensated"
    assert visits(result) == ["a", "b", "plain", "again", "a", "b", "c"]
    assert undone(result) == [(name, "compensated") for name in ("b", "a", "b", "a")]
    assert result["final_state"]["last"] == "a"
    assert result["final_state"]["stage.c.succeeded"] is False
    assert result["final_state"]["stage.c.error"] == FAILURE


async def test_failure_without_anything_to_undo_is_failed(world: World) -> None:
    """No compensation ran -> failed; the execution fails with the stage and its error."""
    handle = await world.start("StageGraph", row(stage("a"), stage("b", fails())))
    assert await rejection_of(handle) == ("failed", f"b: {FAILURE}")
    assert (await handle.describe()).status is WorkflowExecutionStatus.FAILED


async def test_failed_compensation_does_not_stop_the_others(world: World) -> None:
    """What could not be undone is told, the rest is undone -> partially_compensated."""
    broken = {"type": "proposal", "proposal": fails()["proposal"]}
    definition = row(
        stage("a", compensation=undo(back="a")),
        stage("b", compensation=broken),
        stage("c", compensation=undo(back="c")),
        stage("d", fails()),
    )
    result = await fail(world, definition)
    assert result["status"] == "partially_compensated"
    assert result["compensations"] == [
        {"for_stage_id": "c", "status": "compensated"},
        {"for_stage_id": "b", "status": "failed", "error": FAILURE},
        {"for_stage_id": "a", "status": "compensated"},
    ]


async def test_compensation_by_a_stage_has_no_timeout(world: World) -> None:
    """Stage_ref runs the stage's step without the stage's timeout."""
    definition = graph(
        stage("a", compensation=ref("undo")),
        stage("b", fails()),
        stage("undo", asks("brief"), timeout_ms=1),
        edges=[edge("a", "b")],
    )
    result = await fail(world, definition)
    assert (result["status"], undone(result)) == ("compensated", [("a", "compensated")])


async def test_compensation_leaves_what_stages_told(world: World) -> None:
    """It changes no `stage.*` key, sees the writes of earlier ones, and `{{}}` reads the state at the failure."""
    count = {"type": "loop_until", "max_iterations": 2, "body": writes(counted=True)}
    later = proposal(check("n", "undone b"), write("n", "undone a"), write("read", "{{n}}"))["proposal"]
    definition = graph(
        stage("a", writes(n="a"), compensation={"type": "proposal", "proposal": later}),
        stage("b", writes(n="b"), compensation=undo(n="undone b")),
        stage("c", compensation=ref("count")),
        stage("d", fails()),
        stage("count", count),
        edges=[edge("a", "b"), edge("b", "c"), edge("c", "d")],
    )
    result = await fail(world, definition)
    assert (result["status"], undone(result)) == ("compensated", [(name, "compensated") for name in "cba"])
    assert result["final_state"] == {
        "n": "undone a",
        "read": "b",
        "counted": True,
        **{f"stage.{name}.succeeded": True for name in "abc"},
        "stage.a.answer": '"a"',
        "stage.b.answer": '"b"',
        "stage.c.answer": "",
        "stage.d.succeeded": False,
        "stage.d.error": FAILURE,
    }


async def test_cancelled_run_undoes_and_reports(world: World) -> None:
    """Type `cancelled`; what was in flight ends, what was done is undone, and the result tells both."""
    handle = await world.start(
        "StageGraph",
        row(
            stage(
                "a",
                compensation={"type": "proposal", "proposal": proposal(call("calculate", expression="1"))["proposal"]},
            ),
            stage("b", asks("slow"), compensation=undo(back="b")),
            stage("c"),
        ),
    )
    await until_told(handle, "step_started")
    await handle.cancel()
    result = await result_in_failure(handle, "cancelled")
    assert result["status"] == "compensated"
    assert statuses(result) == [("a", "succeeded"), ("b", "failed")]
    assert error_of(result, "b") == "the run was cancelled"
    assert undone(result) == [("a", "compensated")]
    assert "back" not in result["final_state"]


async def test_cancel_while_it_compensates_does_not_stop_that(world: World) -> None:
    """Compensation runs to its end, and the result is that of the failure."""
    handle = await world.start(
        "StageGraph",
        graph(
            stage("a", compensation=undo(back="a")),
            stage("b", compensation=ref("undo")),
            stage("c", fails()),
            stage("undo", asks("brief")),
            edges=[edge("a", "b"), edge("b", "c")],
        ),
    )
    await until_told(handle, "compensation_started")
    await handle.cancel()
    result = await result_in_failure(handle, "compensated")
    assert undone(result) == [("b", "compensated"), ("a", "compensated")]
    assert result["final_state"]["agent.brief.answer"] == "Do it"
