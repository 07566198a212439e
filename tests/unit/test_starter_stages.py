"""What people see of a graph's run: its stages while it goes on, what waits for them, and how it ended."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from runtime.endings import ending_lines
from runtime.questions import waiting_lines
from runtime.report import View, live_view, progress_lines, run_line
from runtime.standing import Ending, RunInfo, report_of
from runtime.texts import moment

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
INFO = RunInfo("ship-1", "r1", "StageGraph", "running", "perdure", START, None, 12)
CLOSED = replace(INFO, status="failed", closed=START + timedelta(seconds=3))


PATTERN = {"type": "pattern", "outputs": [], "final_answer": "the\nanswer"}


def _stage(name: str, output: Any = None, status: str = "succeeded", error: str | None = None) -> dict[str, Any]:
    output = {"type": "empty"} if output is None else output
    return {"stage_id": name, "stage_name": name, "status": status, "output": output, "duration_ms": 40, "error": error}


def _result(status: str, *stages: dict[str, Any], undone: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {
        "workflow_id": "ship",
        "workflow_name": "Ship",
        "status": status,
        "stages": list(stages),
        "compensations": list(undone),
        "duration_ms": 3000,
        "timestamp": "2026-01-31T12:00:00.000Z",
        "final_state": {},
    }


def test_failed_graph_tells_its_stages_and_what_was_undone() -> None:
    """Status, stages with answers or errors, graphs inside them, compensations, then how the run ended."""
    inner = {"type": "sub_workflow", "result": _result("completed", _stage("in", PATTERN))}
    undone = [
        {"for_stage_id": "build", "status": "failed", "duration_ms": 40, "error": "no"},
        {"for_stage_id": "plan", "status": "compensated", "duration_ms": 40},
    ]
    failed = _stage("deploy", status="failed", error="it broke")
    result = _result("partially_compensated", _stage("plan"), _stage("build", inner), failed, undone=undone)
    ending = Ending("StageGraph", "failed", result, "partially_compensated", "deploy: it broke")
    assert ending_lines(CLOSED, ending) == [
        "✗ graph 'ship' partially compensated, 3.0 s",
        "  ✓ stage 'plan' succeeded, 0.0 s",
        "  ✓ stage 'build' succeeded, 0.0 s: the answer",
        "    ✓ graph 'ship' completed, 3.0 s",
        "      ✓ stage 'in' succeeded, 0.0 s: the answer",
        "  ✗ stage 'deploy' failed, 0.0 s: it broke",
        "  ✗ stage 'build' could not be undone, 0.0 s: no",
        "  ✓ stage 'plan' undone, 0.0 s",
        "Run 'ship-1' failed after 3.0 s: deploy: it broke.",
    ]
    assert not ending.is_success


def _answers(*errors: str | None) -> dict[str, Any]:
    """The output of a pattern with one agent for each error; None has none."""
    agents = [
        {"name": f"a{number}", "answer": "" if error else "yes", "error": error} for number, error in enumerate(errors)
    ]
    return {"type": "pattern", "outputs": agents, "final_answer": ""}


def test_failed_stage_tells_why_its_agents_failed() -> None:
    """A pattern's own error does not say it; five agents are shown, also those of a `for_each`, and how many more."""
    items = {"type": "for_each", "items": 8, "outputs": [_answers(None), *[_answers("no disk")] * 7]}
    result = _result(
        "failed",
        _stage(
            "routed", _answers("no", None), "failed", error="stage 'pipeline' failed: the last agent 'a0' failed: no"
        ),
        _stage("each", items, "failed", error="7 of 8 items failed; item 1: agent error: no agents produced output"),
    )
    assert ending_lines(CLOSED, Ending("StageGraph", "failed", result, "failed", "each: it broke"))[1:-1] == [
        "  ✗ stage 'routed' failed, 0.0 s: stage 'pipeline' failed: the last agent 'a0' failed: no",
        "  ✗ stage 'each' failed, 0.0 s: 7 of 8 items failed; item 1: agent error: no agents produced output",
        *(f"    ✗ agent 'a0' of item {index}: no disk" for index in range(1, 6)),
        "    … 2 more; `perdure result` has them all",
    ]


def test_chain_tells_each_graph() -> None:
    """The graphs of a chain, one after the other."""
    ending = Ending("Chain", "completed", [_result("completed", _stage("s", PATTERN)), _result("completed")])
    assert ending_lines(CLOSED, ending) == [
        "✓ graph 'ship' completed, 3.0 s",
        "  ✓ stage 's' succeeded, 0.0 s: the answer",
        "✓ graph 'ship' completed, 3.0 s",
        "Run 'ship-1' completed after 3.0 s.",
    ]
    assert ending.is_success


def test_result_of_a_newer_version_is_shown_as_it_is_stored() -> None:
    """A result that this version cannot read is JSON all the same."""
    ending = Ending("StageGraph", "completed", {"from": "tomorrow"})
    assert ending_lines(CLOSED, ending) == [
        "{",
        '  "from": "tomorrow"',
        "}",
        "Run 'ship-1' completed after 3.0 s.",
    ]


def _phase(name: str, index: int, **counts: int) -> dict[str, Any]:
    counted = {"step_count": 0, "running": 0, "succeeded": 0, "failed": 0} | counts
    return {"name": name, "index": index, "status": "done", **counted}


@pytest.fixture
def view() -> View:
    phases = [_phase("plan", 0, step_count=2, succeeded=2), _phase("act", 1), _phase("review", 2)]
    progress = {"running": 0, "succeeded": 2, "failed": 0, "phases": phases, "steps": []}
    budget = {"consumed_tokens": 7, "limit_tokens": None, "granted_tokens": 0, "consumed_usd": 0, "limit_usd": None}
    seen = View(INFO, progress, budget, place=" --local")
    for number, event in enumerate(
        [
            {"type": "stage_started", "stage": "plan", "index": 0},
            {"type": "stage_finished", "stage": "plan", "index": 0, "status": "succeeded", "duration_ms": 0},
            {"type": "stage_finished", "stage": "act", "index": 1, "status": "failed", "duration_ms": 0},
            {"type": "stage_started", "stage": "review", "index": 2},
        ]
    ):
        seen.note({"offset": number, "time": "2026-01-31T12:00:30.000Z", "event": event})
    seen.events = []
    seen.approvals = [
        {
            "id": "2.review",
            "stage": "review",
            "prompt": "Ship\nit?",
            "fields": [{"name": "go", "options": ["yes", "no"], "required": True}],
            "asked": "2026-01-31T12:00:00Z",
            "deadline": "2026-02-01T12:00:00Z",
        }
    ]
    return seen


WAITING = [
    f"… stage 'review' waits for an answer until {moment('2026-02-01T12:00:00Z')}: Ship it?",
    "  go (required, one of 'yes', 'no')",
    "  perdure approve ship-1 2.review --local",
]


def test_stages_in_plain_lines(view: View) -> None:
    """A stage is told by its own state, not by the steps it lacks; what waits by the command that answers it."""
    assert progress_lines(view, START) == [
        "steps: 2 done, 0 failed",
        "  ✓ stage 0 'plan': succeeded, 2 done, 0 failed of 2",
        "  ✗ stage 1 'act': failed",
        "  … stage 2 'review': waits for an answer",
        "budget: 7 tokens used, no limit",
        *WAITING,
    ]


def test_live_view_shows_stages_and_what_waits(view: View) -> None:
    """The live view has a row for each stage, and the command that answers what waits."""
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(live_view(view, START))
    shown = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert shown == [
        run_line(INFO, START),
        f"0 plan   {'━' * 24} succeeded, 2 done, 0 failed of 2",
        f"1 act    {' ' * 24} failed",
        f"2 review {' ' * 24} waits for an answer",
        "steps: 2 done, 0 failed",
        "budget: 7 tokens used, no limit",
        *WAITING,
    ]


def test_many_questions_are_counted(view: View) -> None:
    """A view has room for some questions, and says how many more there are."""
    lines = waiting_lines("ship-1", view.approvals * 7, "")
    assert lines[-1] == "… 2 more wait; `perdure approvals ship-1` lists them"
    assert len(lines) == 16


def test_failed_chain_tells_the_graphs_before() -> None:
    """A chain that failed has the shape of one that completed: every graph that was begun."""
    failed, before = {"status": "failed"}, [{"status": "completed"}]
    details = [report_of("Chain", [failed, before]), report_of("Chain", [failed]), report_of("StageGraph", [failed])]
    assert [*details, report_of("Chain", [])] == [[*before, failed], [failed], failed, None]
