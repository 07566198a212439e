"""What people see of a run: plain lines anywhere, and one live view on a terminal.

Pure: values in, text or renderables out. What is cut to fit a line says how long it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from runtime.pending import Pending, by_step
from runtime.questions import asker, waiting_lines
from runtime.standing import Json, RunInfo
from runtime.texts import clock, counted, dollars, duration, one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN_RUNNING = 8
SHOWN_FAILURES = 5
SHOWN_EVENTS = 6
SHOWN_PHASES = 10
# Rows of the live view, which must fit a terminal of 40 lines.
BAR_WIDTH = 24

MARKS = {"ok": "✓", "running": "▶", "waiting": "…", "suspended": "…"}
"""Mark by step state; every other state is a failure."""
FAILED_MARK = "✗"
STAGE_MARKS = {"succeeded": "✓", "running": "▶", "waits for an answer": "…"}
IN_FLIGHT = ("running", "waiting")


@dataclass
class View:
    """The latest that is known of a run while it is watched."""

    info: RunInfo
    progress: Json | None = None
    budget: Json | None = None
    notice: str | None = None
    """Why nothing newer is known."""
    events: list[Json] = field(default_factory=list)
    """The last envelopes."""
    approvals: list[Json] = field(default_factory=list)
    """What waits for a person's answer."""
    stages: dict[int, str] = field(default_factory=dict)
    """State of each stage of a graph, by its phase index."""
    pending: list[Pending] = field(default_factory=list)
    """What steps in flight tell by their heartbeats."""
    place: str = ""
    """The options that lead another command to the same runs."""

    def note(self, envelope: Json) -> None:
        """Take in the next event."""
        self.events = [*self.events, envelope][-SHOWN_EVENTS:]
        event = envelope["event"]
        if event["type"] in ("stage_started", "stage_finished"):
            self.stages[event["index"]] = event.get("status", "running")

    def stage_state(self, phase: Json) -> str | None:
        """How a phase stands that is a stage of a graph; None for any other."""
        state = self.stages.get(phase["index"])
        is_asking = any(asked["id"].partition(".")[0] == str(phase["index"]) for asked in self.approvals)
        return "waits for an answer" if state == "running" and is_asking else state

    def steps(self, now: datetime) -> list[Json]:
        """The steps of the progress, those in flight with their duration until now and what they tell.

        A run's own clock stands still between its workflow tasks, so it tells only when a step began.
        """
        steps = (self.progress or {}).get("steps", ())
        told = self._told()
        return [
            {
                **step,
                "duration_ms": max(0, (now - datetime.fromisoformat(step["begun"])) / timedelta(milliseconds=1)),
                "doing": doing(told[step["step"]], now) if step["step"] in told else "",
            }
            if step["status"] in IN_FLIGHT
            else step
            for step in steps
        ]

    def progress_json(self) -> Json | None:
        """The progress for programs: a step in flight has what it tells under `heartbeat`."""
        if self.progress is None:
            return None
        told = self._told()
        steps = [
            {**step, "heartbeat": told[step["step"]].to_json()} if step["step"] in told else step
            for step in self.progress["steps"]
        ]
        return {**self.progress, "steps": steps}

    def _told(self) -> dict[str, Pending]:
        steps = (self.progress or {}).get("steps", ())
        return by_step((step for step in steps if step["status"] == "running"), self.pending)


def budget_line(budget: Json) -> str:
    """The budget in one line."""
    consumed, limit = budget["consumed_tokens"], budget["limit_tokens"]
    text = f"{consumed:,} tokens used, no limit"
    if limit is not None:
        percent = 100 if limit == 0 else consumed * 100 // limit
        text = f"{consumed:,} of {limit:,} tokens used ({percent} %)"
    if budget["granted_tokens"]:
        text += f", {budget['granted_tokens']:,} held for steps in flight"
    if budget["consumed_usd"] or budget["limit_usd"] is not None:
        text += f"; {dollars(budget['consumed_usd'])} spent"
        text += "" if budget["limit_usd"] is None else f" of {dollars(budget['limit_usd'])}"
    return text


def run_line(info: RunInfo, now: datetime) -> str:
    """A run in one line."""
    took = duration(((info.closed or now) - info.started) / timedelta(milliseconds=1))
    parent = "" if info.parent is None else f"  child of {info.parent}"
    return f"{info.id}  {info.type}  {info.status}  {info.started.astimezone():%Y-%m-%d %H:%M:%S}  {took}{parent}"


def progress_lines(view: View, now: datetime) -> list[str]:
    """Phases, steps in flight, failures and budget, for a person who reads plain lines."""
    if view.progress is None or view.budget is None:
        return []
    progress, steps = view.progress, view.steps(now)
    lines = [f"steps: {_counts(progress)}"]
    lines += [f"  {phase_line(phase, view.stage_state(phase))}" for phase in progress["phases"]]
    carrying = [child for child in progress.get("slices", ()) if child["status"] == "running"]
    lines += [f"  carried by {child['workflow_id']}: {_units(child)}" for child in carrying]
    running = [step for step in steps if step["status"] in IN_FLIGHT]
    failed = [step for step in steps if _is_failure(step)]
    lines += [f"  {step_line(step)}" for step in [*running, *failed]]
    omitted = progress.get("omitted_steps", 0)
    lines += [f"  {omitted:,} more steps are counted above and not listed"] if omitted else []
    return [*lines, f"budget: {budget_line(view.budget)}", *waiting_lines(view.info.id, view.approvals, view.place)]


def phase_line(phase: Json, stage_state: str | None = None) -> str:
    """A phase with its counts; one that is a stage with its state."""
    if stage_state is not None:
        mark = STAGE_MARKS.get(stage_state, FAILED_MARK)
        return f"{mark} stage {phase['index']} {phase['name']!r}: {_stage_counts(phase, stage_state)}"
    is_running = phase["status"] == "running"
    mark = "▶" if is_running else FAILED_MARK if phase["failed"] else "✓"
    return f"{mark} phase {phase['index']} {phase['name']!r}: {_counts(phase)} of {phase['step_count']}"


def step_line(step: Json) -> str:
    """A step with its state, and what it is doing or what it failed with."""
    mark = MARKS.get(step["status"], FAILED_MARK)
    text = f"{mark} {step['step']} ({step['agent']}) {step['status']}, {duration(step.get('duration_ms', 0))}"
    told = step.get("error") or step.get("doing")
    return f"{text}: {one_line(told)}" if told else text


def doing(pending: Pending, now: datetime) -> str:
    """What a step in flight is doing: its own words, what it has spent, and which attempt it is at."""
    parts = [pending.progress] if pending.progress else []
    parts += [f"{pending.tokens:,} tokens"] if pending.tokens else []
    if pending.next_attempt is not None:
        left = max(0, (pending.next_attempt - now) / timedelta(milliseconds=1))
        parts.append(f"tried again in {duration(left)}, after {pending.failure}")
    elif pending.attempt > 1:
        parts.append(f"attempt {pending.attempt}")
    return ", ".join(parts)


def pending_line(step: str, pending: Pending, now: datetime) -> str:
    """What a step in flight is doing, as a line among those of events."""
    return f"{clock(now.isoformat())}  {one_line(f'▶ step {step}: {doing(pending, now)}')}"


def event_line(envelope: Json) -> str:
    """An event as a line: its time, and what happened. An event of a newer version is shown as it is stored."""
    event = envelope["event"]
    tell = EVENT_TEXTS.get(event["type"])
    text = one_line(tell(event) if tell else json.dumps(event, ensure_ascii=False))
    return f"{clock(envelope['time'])}  {text}"


def _phase_start(event: Json) -> str:
    more = " or more" if event.get("more") else ""
    return f"▶ phase {event['index']} {event['name']!r} begins: {counted(event['step_count'], 'step')}{more}"


def _phase_end(event: Json) -> str:
    mark = FAILED_MARK if event["failed"] else "✓"
    return (
        f"{mark} phase {event['index']} {event['name']!r} ended: "
        f"{event['succeeded']} succeeded, {event['failed']} failed"
    )


def _log(event: Json) -> str:
    fields = event.get("fields")
    return f"{event['level']}: {event['message']}" + (f" {json.dumps(fields, ensure_ascii=False)}" if fields else "")


def _step_finished(event: Json) -> str:
    is_ok = event["status"] == "ok"
    tokens = event.get("total_tokens", 0)
    attempts = event.get("attempts", 1)
    text = f"{'✓' if is_ok else FAILED_MARK} step {event['step']} {event['status']}, {duration(event['duration_ms'])}"
    text += f", {tokens:,} tokens" if tokens else ""
    text += f", {attempts} attempts" if attempts > 1 else ""
    return f"{text}: {event['error']}" if event.get("error") else text


def _budget_changed(event: Json) -> str:
    tokens, usd = event.get("limit_tokens"), event.get("limit_usd")
    return (
        f"the budget is now {'without a limit of tokens' if tokens is None else f'{tokens:,} tokens'}"
        f"{'' if usd is None else f' and {dollars(usd)}'}"
    )


def _usage_unknown(event: Json) -> str:
    charged = event.get("charged_tokens")
    amount = "nothing could be charged" if charged is None else f"all that it held, {charged:,} tokens, was charged"
    return f"{event['step']} ended without telling what it spent: {amount}"


def _step_resumed(event: Json) -> str:
    needed = event.get("at_least", 0)
    return f"step {event['step']} goes on" + (f"; its next model call takes {needed:,} tokens" if needed else "")


def _units(event: Json) -> str:
    """How many steps, or items."""
    return counted(event["step_count"], event.get("unit", "step"))


def _slice_started(event: Json) -> str:
    tokens = event.get("tokens")
    text = f"▶ run {event['workflow_id']} carries {_units(event)} from {event['first']}"
    return text if tokens is None else f"{text}, with {tokens:,} tokens"


def _slice_finished(event: Json) -> str:
    steps, items = f"{event['succeeded']:,} succeeded, {event['failed']:,} failed", event.get("items")
    if items is not None:
        has_steps = event["succeeded"] or event["failed"]
        steps = counted(items, "item") + (f", of their steps {steps}" if has_steps else "")
    text = f"{FAILED_MARK if event['failed'] else '✓'} run {event['workflow_id']} ended: {steps}"
    text += f", {event['returned']:,} left to others" if event.get("returned") else ""
    text += f", {event['total_tokens']:,} tokens" if event.get("total_tokens") else ""
    return f"{text}: {event['error']}" if event.get("error") else text


def _stage_finished(event: Json) -> str:
    is_ok = event["status"] == "succeeded"
    mark = "✓" if is_ok else FAILED_MARK
    text = f"{mark} stage {event['stage']!r} {event['status']}, {duration(event['duration_ms'])}"
    return f"{text}: {event['error']}" if event.get("error") else text


def _approval_resolved(event: Json) -> str:
    if event.get("by_deadline"):
        return f"approval {event['id']!r} was decided by its deadline"
    by = event.get("answered_by")
    return f"approval {event['id']!r} was answered" + (f" by {by!r}" if by else "")


def _action_finished(event: Json) -> str:
    mark = "✓" if event["status"] == "succeeded" else FAILED_MARK
    attempts = event.get("attempts", 1)
    text = f"{mark} action {event['action']!r} {event['status']}, {duration(event['duration_ms'])}"
    text += f", {attempts} attempts" if attempts > 1 else ""
    return f"{text}: {event['error']}" if event.get("error") else text


def _compensation_finished(event: Json) -> str:
    text = f"compensation {event['name']!r} {event['status']}"
    return f"{text}: {event['error']}" if event.get("error") else text


EVENT_TEXTS: dict[str, Callable[[Json], str]] = {
    "phase_start": _phase_start,
    "phase_end": _phase_end,
    "log": _log,
    "budget_exhausted": lambda event: event["reason"],
    "budget_threshold": lambda event: f"{event['percent']} % of the budget is used ({event['resource']})",
    "budget_changed": _budget_changed,
    "step_started": lambda event: f"▶ step {event['step']} ({event['agent']})",
    "step_finished": _step_finished,
    "step_waiting": lambda event: f"… step {event['step']} waits: {event['reason']}",
    "step_resumed": _step_resumed,
    "step_warning": lambda event: f"step {event['step']}: {event['message']}",
    "usage_unknown": _usage_unknown,
    "usage_recorded": lambda event: f"usage {event['id']!r} recorded: {event['usage'].get('total_tokens', 0):,} tokens",
    "signal_rejected": lambda event: f"signal {event['signal']!r} was not understood: {event['reason']}",
    "slice_started": _slice_started,
    "slice_finished": _slice_finished,
    "slice_waiting": lambda event: f"… {_units(event)} to come: {event['reason']}",
    "slice_denied": lambda event: f"{FAILED_MARK} {_units(event)} not begun: {event['reason']}",
    "stage_started": lambda event: f"▶ stage {event['stage']!r} begins",
    "stage_finished": _stage_finished,
    "approval_asked": lambda event: f"… approval {event['id']!r} of {asker(event)} waits: {event['prompt']}",
    "approval_resolved": _approval_resolved,
    "action_started": lambda event: f"▶ action {event['action']!r} calls {event['tool']!r}",
    "action_finished": _action_finished,
    "compensation_started": lambda event: f"compensation {event['name']!r} begins",
    "compensation_finished": _compensation_finished,
}
"""What to say by event type."""


def _counts(of: Json) -> str:
    text = f"{of['succeeded']:,} done, {of['failed']:,} failed"
    return f"{text}, {of['running']:,} running" if of["running"] else text


def _stage_counts(stage: Json, state: str) -> str:
    """A stage's state, and the counts of its steps where it has any: approvals and actions have none."""
    return f"{state}, {_counts(stage)} of {stage['step_count']}" if stage["step_count"] else state


def _is_failure(step: Json) -> bool:
    return step["status"] not in MARKS


def live_view(view: View, now: datetime) -> RenderableType:
    """The live view: phases with bars, steps in flight, budget, latest failures and last events."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(run_line(view.info, now), style="bold")]
    if view.progress is not None:
        steps = view.steps(now)
        running = [step for step in steps if step["status"] in IN_FLIGHT]
        failed = [step for step in steps if _is_failure(step)]
        parts += [_phases(view), Text(f"steps: {_counts(view.progress)}")]
        parts += _rows(running, SHOWN_RUNNING, "running", "cyan")
        parts += _rows(failed[::-1], SHOWN_FAILURES, "failed", "red")
    if view.budget is not None:
        parts.append(_budget(view.budget))
    parts += [Text(line, style="yellow") for line in waiting_lines(view.info.id, view.approvals, view.place)]
    parts += [Text(event_line(envelope), style="dim", no_wrap=True) for envelope in view.events[-SHOWN_EVENTS:]]
    if view.notice is not None:
        parts.append(Text(view.notice, style="yellow"))
    return Group(*parts)


def _phases(view: View) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    phases: Sequence[Json] = (view.progress or {}).get("phases", ())
    table = Table.grid(padding=(0, 1))
    for phase in phases[-SHOWN_PHASES:]:
        done, state = phase["succeeded"] + phase["failed"], view.stage_state(phase)
        bar = ProgressBar(total=max(1, phase["step_count"]), completed=done, width=BAR_WIDTH)
        counts = f"{_counts(phase)} of {phase['step_count']}" if state is None else _stage_counts(phase, state)
        table.add_row(str(phase["index"]), phase["name"], bar if state is None or phase["step_count"] else "", counts)
    if len(phases) > SHOWN_PHASES:
        table.add_row("", f"… {len(phases) - SHOWN_PHASES} earlier phases", "", "")
    return table


def _budget(budget: Json) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    if budget["limit_tokens"] is None:
        from rich.text import Text

        return Text(f"budget: {budget_line(budget)}")
    table = Table.grid(padding=(0, 1))
    table.add_row(
        "budget",
        ProgressBar(total=max(1, budget["limit_tokens"]), completed=budget["consumed_tokens"], width=BAR_WIDTH),
        budget_line(budget),
    )
    return table


def _rows(steps: Sequence[Json], shown: int, what: str, style: str) -> Iterable[RenderableType]:
    from rich.text import Text

    rows = [Text(f"  {step_line(step)}", style=style, no_wrap=True) for step in steps[:shown]]
    if len(steps) > shown:
        rows.append(Text(f"  … {len(steps) - shown:,} more {what}", style=style))
    return rows
