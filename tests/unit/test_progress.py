"""The board: exact counts, bounded lists, and the current details that the Temporal UI shows."""

from datetime import UTC, datetime, timedelta

from workflows import budget
from workflows.progress import (
    LISTED_SLICES,
    SHOWN_FAILURES,
    SHOWN_STEPS,
    Board,
    PhaseProgress,
    SliceProgress,
    StepProgress,
)
from workflows.steps import RunOptions, StepOutcome, Usage

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def ended(task_id: str, *, success: bool = True, error: str | None = None) -> StepOutcome:
    return StepOutcome(
        task_id=task_id,
        agent="a",
        output="",
        success=success,
        status="ok" if success else "failed",
        error=error,
        usage=Usage(input_tokens=5),
        duration_ms=12,
    )


def run_steps(board: Board, count: int, *, failing: int = 0) -> None:
    for number in range(count):
        record = board.begin(f"c0.0:s{number}", "a", None, NOON)
        board.end(record, ended(f"s{number}", success=number >= failing, error="no" if number < failing else None))


def test_report_shows_phases_and_steps() -> None:
    """One step ended, one in flight, and the phase that both are in."""
    board = Board()
    phase = board.open_phase("build", 0, 2)
    done = board.begin("0.0:done", "a", phase, NOON)
    board.begin("0.0:open", "b", phase, NOON)
    board.end(done, ended("done"))
    report = board.report()
    assert report.phases == (
        PhaseProgress(name="build", index=0, status="running", step_count=2, running=1, succeeded=1, failed=0),
    )
    begun = "2026-01-31T12:00:00.000Z"
    assert sorted(report.steps, key=lambda step: step.step) == [
        StepProgress(
            step="0.0:done", agent="a", phase=0, status="ok", begun=begun, duration_ms=12, usage=Usage(input_tokens=5)
        ),
        StepProgress(step="0.0:open", agent="b", phase=0, status="running", begun=begun),
    ]


def test_report_counts_what_it_leaves_out() -> None:
    """Of very many steps the failures and the latest are shown; the counts stay exact."""
    board = Board()
    run_steps(board, SHOWN_STEPS + 100, failing=3)
    report = board.report()
    assert (report.succeeded, report.failed, report.omitted_steps) == (SHOWN_STEPS + 97, 3, 100)
    assert [step.step for step in report.steps if step.status == "failed"] == ["c0.0:s2", "c0.0:s1", "c0.0:s0"]


def test_next_phase_lets_go_of_the_outcomes_before_it() -> None:
    """Outcomes are kept for the phase under way only: a run of many phases does not hold them all."""
    board = Board()
    first = board.open_phase("first", 0, 1)
    board.end(board.begin("0.0:a", "a", first, NOON), ended("a"))
    first.is_done = True
    assert list(first.ended) == ["a"]
    board.open_phase("second", 1, 0)
    assert first.ended == {}


def test_markdown_tells_the_run_at_a_glance() -> None:
    """Counts, budget, phases, who waits, and what failed."""
    board = Board()
    phase = board.open_phase("read | write", 0, 3)
    board.end(board.begin("0.0:a", "reader", phase, NOON), ended("a"))
    board.end(board.begin("0.0:b", "reader", phase, NOON), ended("b", success=False, error="disk\nfull"))
    ledger = budget.settle(budget.opened(RunOptions(budget_tokens=1_000)), None, Usage(input_tokens=250))
    assert board.markdown(budget.snapshot(ledger), ["2 steps wait"]).splitlines() == [
        "**1** steps done, **1** failed, **0** running",
        "Budget: `█████░░░░░░░░░░░░░░░` 250 of 1,000 tokens (25%)",
        "",
        "**Phases**",
        "- ▶ read | write: 1 of 3 done, 1 failed",
        "",
        "**Waiting**",
        "- 2 steps wait",
        "",
        "**Failed**",
        "- `0.0:b` (reader): disk full",
    ]


def test_markdown_stays_short() -> None:
    """Many failures do not make the details longer."""
    board = Board()
    run_steps(board, 1_000, failing=1_000)
    lines = board.markdown(budget.snapshot(budget.opened(RunOptions()))).splitlines()
    assert len([line for line in lines if line.startswith("- ")]) == SHOWN_FAILURES
    assert lines[1] == "Budget: 0 tokens used, no limit"


def test_report_shows_the_slices_of_a_phase() -> None:
    """Steps that a child carries are running until it reports; then they are counted, and the failed ones shown."""
    board = Board()
    phase = board.open_phase("build", 0, 5)
    carried = board.open_slice("run/0.0-1", phase, 3, NOON)
    other = board.open_slice("run/0.1-2", phase, 2, NOON)
    assert (board.running, board.running_here, phase.running) == (5, 0, 5)
    board.close_slice(carried, "done", 1, 1)
    board.keep("0.0:good", ended("good"), phase, NOON)
    board.keep("0.0:bad", ended("bad", success=False, error="no"), phase, NOON)
    report = board.report()
    assert (report.running, report.succeeded, report.failed, report.omitted_steps) == (2, 1, 1, 3)
    assert [(step.step, step.error) for step in report.steps] == [("0.0:bad", "no")]
    begun = "2026-01-31T12:00:00.000Z"
    assert report.slices == (
        SliceProgress(
            workflow_id="run/0.0-1", phase=0, status="done", step_count=3, succeeded=1, failed=1, begun=begun
        ),
        SliceProgress(workflow_id="run/0.1-2", phase=0, status="running", step_count=2, begun=begun),
    )
    assert sorted(phase.ended) == ["bad", "good"]
    board.close_slice(other, "lost", 0, 2)
    assert (board.running, board.failed, phase.failed) == (0, 3, 3)
    assert board.report().slices[1].status == "lost"


def test_report_lists_slices_in_flight_first() -> None:
    """Of very many slices those in flight are listed, then the latest; the others are counted."""
    board = Board()
    running = board.open_slice("oldest", None, 1, NOON)
    for number in range(LISTED_SLICES + 5):
        record = board.open_slice(str(number), None, 1, NOON + timedelta(seconds=number + 1))
        board.close_slice(record, "done", 1, 0)
    report = board.report()
    assert (len(report.slices), report.omitted_slices) == (LISTED_SLICES, 6)
    assert (report.slices[0].workflow_id, report.slices[1].workflow_id) == (running.workflow_id, "6")


def test_withdrawn_step_is_nowhere() -> None:
    """A step that goes on in another run is neither running nor ended here."""
    board = Board()
    phase = board.open_phase("build", 0, 1)
    board.withdraw(board.begin("0.0:a", "a", phase, NOON))
    assert (board.running, board.succeeded, board.failed, phase.running) == (0, 0, 0, 0)
