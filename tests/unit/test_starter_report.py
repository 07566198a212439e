"""What people see of a run."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from rich.console import Console

from runtime.endings import closing_line, ending_lines
from runtime.pending import Pending, by_step
from runtime.report import (
    EVENT_TEXTS,
    View,
    budget_line,
    event_line,
    live_view,
    progress_lines,
    run_line,
)
from runtime.standing import Ending, RunInfo
from runtime.texts import clock, duration
from workflows.events import WorkflowEvent

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
NOW = START + timedelta(seconds=90)
INFO = RunInfo("plan-1", "r1", "Steps", "running", "perdure", START, None, 12)
CLOSED = replace(INFO, status="completed", closed=START + timedelta(seconds=3))
BUDGET = {
    "consumed_tokens": 1200,
    "limit_tokens": 5000,
    "granted_tokens": 300,
    "remaining_tokens": 3500,
    "consumed_usd": 0.012,
    "limit_usd": 2.0,
}
BEGUN = "2026-01-31T12:00:30.000Z"
PROGRESS = {
    "running": 1,
    "succeeded": 1,
    "failed": 1,
    "phases": [
        {"name": "plan", "index": 0, "status": "done", "step_count": 1, "running": 0, "succeeded": 1, "failed": 0},
        {"name": "do", "index": 1, "status": "running", "step_count": 2, "running": 1, "succeeded": 0, "failed": 1},
    ],
    "steps": [
        {"step": "0.0:a", "agent": "echo", "phase": 0, "status": "ok", "begun": BEGUN, "duration_ms": 40},
        {
            "step": "1.0:b",
            "agent": "bad",
            "phase": 1,
            "status": "failed",
            "begun": BEGUN,
            "duration_ms": 40,
            "error": "it\nbroke",
        },
        {"step": "1.0:c", "agent": "slow", "phase": 1, "status": "running", "begun": BEGUN},
    ],
    "omitted_steps": 2,
}
REPORT = {
    "phases": [
        {
            "name": "plan",
            "index": 0,
            "outcomes": [
                {"task_id": "a", "agent": "echo", "output": "hello", "success": True, "duration_ms": 40},
                {
                    "task_id": "b",
                    "agent": "bad",
                    "output": "Task failed: no",
                    "success": False,
                    "status": "failed",
                    "usage": {"total_tokens": 1200},
                },
            ],
        }
    ],
    "succeeded": 1,
    "failed": 1,
}


NO_STEPS = "Run 'plan-1' completed after 3.0 s: 0 steps succeeded, 0 failed."


def _envelope(**event: Any) -> dict[str, Any]:
    return {"offset": 0, "time": "2026-01-31T12:00:30.000Z", "event": event}


@pytest.fixture
def view() -> View:
    seen = View(INFO, PROGRESS, BUDGET)
    seen.note(_envelope(type="step_started", step="1.0:c", agent="slow"))
    return seen


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0.0 s"), (59_949, "59.9 s"), (59_960, "1 min 0 s"), (125_000, "2 min 5 s"), (11_520_000, "3 h 12 min")],
)
def test_duration_reads_well(milliseconds: float, text: str) -> None:
    """A duration in the unit that people would use."""
    assert duration(milliseconds) == text


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "1,200 of 5,000 tokens used (24 %), 300 held for steps in flight; $0.0120 spent of $2.00"),
        (
            {"limit_tokens": None, "granted_tokens": 0, "limit_usd": None, "consumed_usd": 0.0},
            "1,200 tokens used, no limit",
        ),
        ({"limit_tokens": 0, "granted_tokens": 0, "limit_usd": None}, "1,200 of 0 tokens used (100 %); $0.0120 spent"),
    ],
    ids=["limited", "unlimited", "nothing allowed"],
)
def test_budget_in_one_line(changed: dict[str, Any], text: str) -> None:
    """Used, limit, what is held, and dollars where there are any."""
    assert budget_line({**BUDGET, **changed}) == text


def test_progress_in_plain_lines(view: View) -> None:
    """Phases, steps in flight with their duration until now, failures, what is left out, and the budget."""
    assert progress_lines(view, NOW) == [
        "steps: 1 done, 1 failed, 1 running",
        "  ✓ phase 0 'plan': 1 done, 0 failed of 1",
        "  ▶ phase 1 'do': 0 done, 1 failed, 1 running of 2",
        "  ▶ 1.0:c (slow) running, 1 min 0 s",
        "  ✗ 1.0:b (bad) failed, 0.0 s: it broke",
        "  2 more steps are counted above and not listed",
        "budget: 1,200 of 5,000 tokens used (24 %), 300 held for steps in flight; $0.0120 spent of $2.00",
    ]


def _pending(**more: Any) -> Pending:
    return Pending("c", START + timedelta(seconds=31), **more)


@pytest.mark.parametrize(
    ("pending", "text"),
    [
        (_pending(progress="turn 3: grep_files …", tokens=12_431), "turn 3: grep_files …, 12,431 tokens"),
        (_pending(tokens=12_431, attempt=2), "12,431 tokens, attempt 2"),
        (
            _pending(attempt=2, next_attempt=NOW + timedelta(seconds=4), failure="model 'm' answered 429: Slow down."),
            "tried again in 4.0 s, after model 'm' answered 429: Slow down.",
        ),
        (_pending(), ""),
    ],
    ids=["busy", "second attempt", "between attempts", "silent"],
)
def test_step_tells_what_it_is_doing(view: View, pending: Pending, text: str) -> None:
    """A step in flight has what its heartbeat says behind it, in the lines and in the live view."""
    view.pending = [pending]
    line = f"  ▶ 1.0:c (slow) running, 1 min 0 s{f': {text}' if text else ''}"
    assert progress_lines(view, NOW)[3] == line
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(live_view(view, NOW))
    assert line in [shown.rstrip() for shown in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_step_tells_programs_what_it_is_doing(view: View) -> None:
    """In JSON the heartbeat stands with its step, and with no other."""
    view.pending = [_pending(progress="turn 3: grep_files …", tokens=12_431)]
    told = view.progress_json()
    assert told is not None
    assert [step.get("heartbeat") for step in told["steps"]] == [
        None,
        None,
        {"progress": "turn 3: grep_files …", "total_tokens": 12_431, "attempt": 1},
    ]


def test_heartbeats_find_their_steps() -> None:
    """Of two steps with one task id a heartbeat is of the one that began last before it was scheduled."""
    steps = [{"step": f"{n}.0:c", "begun": (START + timedelta(seconds=10 * n)).isoformat()} for n in range(3)]
    beats = [replace(_pending(tokens=n), scheduled=START + timedelta(seconds=10 * n + 1)) for n in (2, 1)]
    other = replace(_pending(), task="d")
    assert by_step(steps, [*beats, other]) == {"2.0:c": beats[0], "1.0:c": beats[1]}


def test_live_view_shows_what_there_is(view: View) -> None:
    """The live view holds the run, its phases, steps in flight, failures, budget, events and the notice."""
    view.notice = "no worker is polling task queue 'perdure'"
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(live_view(view, NOW))
    shown = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert shown == [
        run_line(INFO, NOW),
        f"0 plan {'━' * 24} 1 done, 0 failed of 1",
        f"1 do   {'━' * 12} {' ' * 11} 0 done, 1 failed, 1 running of 2".replace(f" {' ' * 11}", " " * 12),
        "steps: 1 done, 1 failed, 1 running",
        "  ▶ 1.0:c (slow) running, 1 min 0 s",
        "  ✗ 1.0:b (bad) failed, 0.0 s: it broke",
        f"budget {'━' * 5}╸{' ' * 18} {budget_line(BUDGET)}",
        f"{clock('2026-01-31T12:00:30.000Z')}  ▶ step 1.0:c (slow)",
        "no worker is polling task queue 'perdure'",
    ]


def test_every_event_has_its_text() -> None:
    """No event type is left to its stored form."""
    union = get_args(get_args(WorkflowEvent)[0])
    assert set(EVENT_TEXTS) == {member.model_fields["type"].default for member in union}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"type": "phase_start", "name": "plan", "index": 0, "step_count": 1}, "▶ phase 0 'plan' begins: 1 step"),
        (
            {"type": "phase_start", "name": "plan", "index": 0, "step_count": 1_001, "more": True},
            "▶ phase 0 'plan' begins: 1,001 steps or more",
        ),
        (
            {"type": "slice_started", "workflow_id": "r/0.1-ab", "first": "0.0:s", "step_count": 250, "tokens": 5_000},
            "▶ run r/0.1-ab carries 250 steps from 0.0:s, with 5,000 tokens",
        ),
        (
            {"type": "slice_finished", "workflow_id": "r/0.1-ab", "succeeded": 240, "failed": 0, "returned": 10},
            "✓ run r/0.1-ab ended: 240 succeeded, 0 failed, 10 left to others",
        ),
        (
            {"type": "slice_finished", "workflow_id": "r/0", "succeeded": 0, "failed": 1, "error": "it was terminated"},
            "✗ run r/0 ended: 0 succeeded, 1 failed: it was terminated",
        ),
        (
            {"type": "slice_started", "workflow_id": "r/1", "first": "0.0: item 0", "step_count": 1, "unit": "item"},
            "▶ run r/1 carries 1 item from 0.0: item 0",
        ),
        (
            {"type": "slice_finished", "workflow_id": "r/1", "succeeded": 0, "failed": 0, "items": 400},
            "✓ run r/1 ended: 400 items",
        ),
        (
            {"type": "slice_finished", "workflow_id": "r/1", "succeeded": 7, "failed": 1, "items": 4, "returned": 2},
            "✗ run r/1 ended: 4 items, of their steps 7 succeeded, 1 failed, 2 left to others",
        ),
        ({"type": "slice_waiting", "step_count": 7, "reason": "held"}, "… 7 steps to come: held"),
        ({"type": "slice_denied", "step_count": 1, "reason": "exhausted"}, "✗ 1 step not begun: exhausted"),
        (
            {"type": "slice_denied", "step_count": 2, "unit": "item", "reason": "no"},
            "✗ 2 items not begun: no",
        ),
        (
            {"type": "phase_end", "name": "plan", "index": 0, "succeeded": 1, "failed": 2},
            "✗ phase 0 'plan' ended: 1 succeeded, 2 failed",
        ),
        ({"type": "log", "level": "info", "message": "m", "fields": {"n": 1}}, 'info: m {"n": 1}'),
        (
            {
                "type": "step_finished",
                "step": "0.0:a",
                "status": "ok",
                "duration_ms": 900,
                "attempts": 2,
                "total_tokens": 9,
            },
            "✓ step 0.0:a ok, 0.9 s, 9 tokens, 2 attempts",
        ),
        (
            {"type": "budget_changed", "limit_tokens": None, "limit_usd": 1.5},
            "the budget is now without a limit of tokens and $1.50",
        ),
        (
            {"type": "usage_unknown", "step": "0.0:a", "charged_tokens": 1000},
            "0.0:a ended without telling what it spent: all that it held, 1,000 tokens, was charged",
        ),
        (
            {"type": "step_resumed", "step": "0.0:a", "at_least": 1200},
            "step 0.0:a goes on; its next model call takes 1,200 tokens",
        ),
        ({"type": "step_resumed", "step": "0.0:b", "at_least": 0}, "step 0.0:b goes on"),
        (
            {"type": "stage_finished", "stage": "s", "index": 0, "status": "failed", "duration_ms": 40, "error": "no"},
            "✗ stage 's' failed, 0.0 s: no",
        ),
        (
            {"type": "approval_asked", "id": "0", "stage": "s", "prompt": "Ship\nit?"},
            "… approval '0' of stage 's' waits: Ship it?",
        ),
        (
            {"type": "approval_asked", "id": "0.0:s.send-1", "stage": "s", "step": "0.0:s", "prompt": "Send?"},
            "… approval '0.0:s.send-1' of step '0.0:s' of stage 's' waits: Send?",
        ),
        (
            {"type": "approval_asked", "id": "c0.0:m.send-1", "stage": "", "step": "c0.0:m", "prompt": "Send?"},
            "… approval 'c0.0:m.send-1' of step 'c0.0:m' waits: Send?",
        ),
        ({"type": "approval_resolved", "id": "0", "answered_by": "ann"}, "approval '0' was answered by 'ann'"),
        ({"type": "approval_resolved", "id": "1", "by_deadline": True}, "approval '1' was decided by its deadline"),
        (
            {"type": "action_finished", "action": "w", "status": "succeeded", "duration_ms": 900, "attempts": 2},
            "✓ action 'w' succeeded, 0.9 s, 2 attempts",
        ),
        ({"type": "from_tomorrow", "x": 1}, '{"type": "from_tomorrow", "x": 1}'),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_event_in_one_line(event: dict[str, Any], text: str) -> None:
    """An event as a person reads it; one of a newer version as it is stored."""
    assert event_line(_envelope(**event)) == f"{clock('2026-01-31T12:00:30.000Z')}  {text}"


def test_long_text_is_cut_with_its_length() -> None:
    """A line stays a line, and says how much it leaves out."""
    line = event_line(_envelope(type="log", level="info", message="x" * 500, fields=None))
    assert line.endswith("x… (506 characters)")


def test_steps_ending_lists_its_outcomes() -> None:
    """The outcomes of Steps, then how the run ended."""
    assert ending_lines(CLOSED, Ending("Steps", "completed", REPORT)) == [
        "✓ a (echo) ok, 0.0 s: hello",
        "✗ b (bad) failed, 0.0 s, 1,200 tokens: Task failed: no",
        "Run 'plan-1' completed after 3.0 s: 1 step succeeded, 1 failed.",
    ]


@pytest.mark.parametrize(
    ("ending", "text", "is_success"),
    [
        (Ending("Mine", "completed", {"a": 1}), "Run 'plan-1' completed after 3.0 s.", True),
        (Ending("Steps", "completed", {"phases": [], "succeeded": 0, "failed": 0}), NO_STEPS, True),
        (
            Ending("Steps", "completed", REPORT),
            "Run 'plan-1' completed after 3.0 s: 1 step succeeded, 1 failed.",
            False,
        ),
        (Ending("Mine", "failed", None, "Oops", "it broke"), "Run 'plan-1' failed after 3.0 s: it broke.", False),
        (Ending("Mine", "cancelled"), "Run 'plan-1' was cancelled after 3.0 s.", False),
        (Ending("Mine", "terminated", None, None, "by me."), "Run 'plan-1' was terminated after 3.0 s: by me.", False),
        (Ending("Mine", "timed_out"), "Run 'plan-1' timed out after 3.0 s.", False),
    ],
    ids=["own", "no steps", "failed step", "failed", "cancelled", "terminated", "timed out"],
)
def test_ending_in_one_line(ending: Ending, text: str, is_success: bool) -> None:
    """How a run ended, and whether it did what it was for."""
    assert (closing_line(CLOSED, ending), ending.is_success) == (text, is_success)
