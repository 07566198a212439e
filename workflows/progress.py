"""Where a run stands: the phases and steps behind the `progress` query and the Temporal UI's current details.

Pure: the caller brings the time. Counts are exact for any number of steps; of the steps themselves the
latest are kept, and what is left out is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Literal

from workflows.budget import BudgetSnapshot
from workflows.errors import cut
from workflows.events import Unit, rfc3339
from workflows.steps import StepOutcome, StepStatus, Usage
from workflows.wire import Stored

KEPT_STEPS = 10_000
# Steps that succeeded, and as many that failed, whose record stays in the worker's memory: 9 MB for so many.
SHOWN_STEPS = 1_500
# In one answer of the query, which may not pass 2 MB; running and failed steps come first.
LISTED_PHASES = 1_000
# In that answer too.
LISTED_SLICES = 1_000
# In that answer too; those in flight come first.
SHOWN_PHASES = 12
SHOWN_FAILURES = 8
# In the current details, which are read at a glance.
BAR_CELLS = 20

StepState = Literal["running", "waiting"] | StepStatus
SliceState = Literal["running", "done", "lost"]


class StepProgress(Stored):
    """One step. `phase` is None for a step outside phases."""

    step: str
    """`<phase index>.<round>:<task_id>`, or `c<call number>.<round>:<task_id>` outside phases."""
    agent: str
    phase: int | None
    status: StepState
    begun: str
    """The run's own time (RFC 3339)."""
    duration_ms: int | None = None
    """None until the step has ended: between its workflow tasks a run's clock stands still."""
    attempts: int = 1
    """Known when the step has ended."""
    usage: Usage = Usage()
    error: str | None = None


class PhaseProgress(Stored):
    """One phase with its counts."""

    name: str
    index: int
    status: Literal["running", "done", "failed"]
    """`failed` is a stage's; a phase whose steps failed is done."""
    step_count: int
    running: int
    succeeded: int
    failed: int


class SliceProgress(Stored):
    """A child that carries steps of this run; ask it, by its workflow id, for the steps themselves."""

    workflow_id: str
    phase: int | None = None
    status: SliceState
    step_count: int
    """Of these, those that it gave back are neither succeeded nor failed."""
    unit: Unit = "step"
    """What is counted there. Succeeded and failed are steps."""
    succeeded: int = 0
    failed: int = 0
    begun: str
    """The run's own time (RFC 3339)."""


class Progress(Stored):
    """Answer of the `progress` query."""

    running: int
    """Steps that have begun and not ended; of a slice in flight, all."""
    succeeded: int
    failed: int
    phases: tuple[PhaseProgress, ...]
    """The latest; `omitted_phases` came before them."""
    steps: tuple[StepProgress, ...]
    omitted_steps: int = 0
    """Steps that this answer leaves out; their counts are in the totals above."""
    omitted_phases: int = 0
    slices: tuple[SliceProgress, ...] = ()
    """Where the steps are that run in children. Of those that have ended, `steps` has the failed ones."""
    omitted_slices: int = 0


@dataclass(slots=True)
class PhaseRecord:
    """A phase while the run goes on."""

    name: str
    index: int
    step_count: int
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    is_done: bool = False
    has_failed: bool = False
    """A stage can fail without a failed step."""
    rounds: int = 0
    """Rounds of steps that the calls of a stage have taken so far."""
    ended: dict[str, StepOutcome] = field(default_factory=dict)
    """Outcomes by task_id, until the next phase begins: what a run that is stopped meanwhile reports."""


@dataclass(slots=True, eq=False)
class StepRecord:
    """A step while the run goes on. Compared by identity: a loop runs the same id again in its next round."""

    step: str
    agent: str
    phase: PhaseRecord | None
    begun: datetime
    status: StepState = "running"
    attempts: int = 1
    duration_ms: int | None = None
    usage: Usage = Usage()  # noqa: RUF009 - frozen
    error: str | None = None
    """Cut: outputs and whole errors are the outcome's, which is not kept here."""


@dataclass(slots=True, eq=False)
class SliceRecord:
    """A child that carries steps, while the run goes on."""

    workflow_id: str
    phase: PhaseRecord | None
    step_count: int
    unit: Unit
    begun: datetime
    status: SliceState = "running"
    succeeded: int = 0
    failed: int = 0


class Board:
    """Every phase and step of a run, as far as they are kept."""

    def __init__(self) -> None:
        self.phases: list[PhaseRecord] = []
        self.earlier_phases = 0
        """Those of the runs that this one continues."""
        self.succeeded = 0
        self.failed = 0
        self._open: dict[StepRecord, None] = {}
        self._succeeded: deque[StepRecord] = deque(maxlen=KEPT_STEPS)
        self._failed: deque[StepRecord] = deque(maxlen=KEPT_STEPS)
        self._slices: list[SliceRecord] = []
        self._in_slices = 0

    @property
    def running_here(self) -> int:
        """Steps in flight that no child carries."""
        return len(self._open)

    @property
    def running(self) -> int:
        """Steps that have begun and not ended; of a slice in flight, all."""
        return self.running_here + self._in_slices

    def open_phase(self, name: str, index: int, step_count: int) -> PhaseRecord:
        """A phase begins."""
        for earlier in reversed(self.phases):
            if earlier.is_done and not earlier.ended:
                break  # and so are all before it, but for those that overlapped
            if earlier.is_done:
                earlier.ended = {}
        phase = PhaseRecord(name, index, step_count)
        self.phases.append(phase)
        return phase

    def begin(self, step: str, agent: str, phase: PhaseRecord | None, now: datetime) -> StepRecord:
        """A step begins."""
        record = StepRecord(step, agent, phase, now)
        self._open[record] = None
        if phase:
            phase.running += 1
        return record

    def end(self, record: StepRecord, outcome: StepOutcome) -> None:
        """A step has ended with its outcome."""
        del self._open[record]
        (self._succeeded if outcome.success else self._failed).append(_ended(record, outcome))
        self.count(record.phase, outcome.success, not outcome.success)
        if record.phase:
            record.phase.running -= 1
            record.phase.ended[outcome.task_id] = outcome

    def withdraw(self, record: StepRecord) -> None:
        """A step that began goes on elsewhere."""
        del self._open[record]
        if record.phase:
            record.phase.running -= 1

    def open_slice(
        self, workflow_id: str, phase: PhaseRecord | None, step_count: int, now: datetime, unit: Unit = "step"
    ) -> SliceRecord:
        """A child begins to carry steps, or items."""
        record = SliceRecord(workflow_id, phase, step_count, unit, now)
        self._slices.append(record)
        self._in_slices += step_count
        if phase:
            phase.running += step_count
        return record

    def close_slice(self, record: SliceRecord, status: SliceState, succeeded: int, failed: int) -> None:
        """A child has ended; its steps are counted, those that it gave back are not."""
        record.status, record.succeeded, record.failed = status, succeeded, failed
        self._in_slices -= record.step_count
        if record.phase:
            record.phase.running -= record.step_count
        self.count(record.phase, succeeded, failed)

    def count(self, phase: PhaseRecord | None, succeeded: int, failed: int) -> None:
        """Steps that ended without having been begun here."""
        for counts in (self, phase):
            if counts is not None:
                counts.succeeded += succeeded
                counts.failed += failed

    def keep(self, step: str, outcome: StepOutcome, phase: PhaseRecord | None, now: datetime) -> None:
        """What a step brought that was counted already."""
        if phase:
            phase.ended[outcome.task_id] = outcome
        if not outcome.success:
            begun = now - timedelta(milliseconds=outcome.duration_ms)
            self._failed.append(_ended(StepRecord(step, outcome.agent, phase, begun), outcome))

    def report(self) -> Progress:
        """The answer of the `progress` query: steps in flight, then failures, then the latest that succeeded."""
        latest = chain(self._open, reversed(self._failed), reversed(self._succeeded))
        shown = list(islice(latest, SHOWN_STEPS))
        total = self.running + self.succeeded + self.failed
        return Progress(
            running=self.running,
            succeeded=self.succeeded,
            failed=self.failed,
            phases=tuple(_phase_progress(phase) for phase in self.phases[-LISTED_PHASES:]),
            steps=tuple(_step_progress(record) for record in sorted(shown, key=lambda record: record.begun)),
            omitted_steps=total - len(shown),
            omitted_phases=self.earlier_phases + max(0, len(self.phases) - LISTED_PHASES),
            slices=tuple(_slice_progress(record) for record in self._listed_slices()),
            omitted_slices=max(0, len(self._slices) - LISTED_SLICES),
        )

    def _listed_slices(self) -> list[SliceRecord]:
        """Those in flight, then the latest of the others; in the order in which they began."""
        latest_last = sorted(self._slices, key=lambda record: (record.status == "running", record.begun))
        return sorted(latest_last[-LISTED_SLICES:], key=lambda record: record.begun)

    def markdown(self, budget: BudgetSnapshot, waiting: Iterable[str] = ()) -> str:
        """The run at a glance, for the Temporal UI."""
        lines = [f"**{self.succeeded}** steps done, **{self.failed}** failed, **{self.running}** running"]
        lines += [_budget_line(budget)]
        if self.phases:
            earlier = self.earlier_phases + len(self.phases) - SHOWN_PHASES
            lines += ["", "**Phases**"]
            lines += [f"- … {earlier} earlier"] if earlier > 0 else []
            lines += [_phase_line(phase) for phase in self.phases[-SHOWN_PHASES:]]
        carrying = [record for record in self._slices if record.status == "running"]
        if carrying:
            lines += ["", "**Carried by**", *(_slice_line(record) for record in carrying[:SHOWN_PHASES])]
        waits = list(waiting)
        if waits:
            lines += ["", "**Waiting**", *(f"- {line}" for line in waits[:SHOWN_FAILURES])]
        failures = list(islice(reversed(self._failed), SHOWN_FAILURES))
        if failures:
            lines += ["", "**Failed**", *(_failure_line(record) for record in failures)]
        return "\n".join(lines)


def _phase_progress(phase: PhaseRecord) -> PhaseProgress:
    return PhaseProgress(
        name=phase.name,
        index=phase.index,
        status="failed" if phase.has_failed else "done" if phase.is_done else "running",
        step_count=phase.step_count,
        running=phase.running,
        succeeded=phase.succeeded,
        failed=phase.failed,
    )


def _ended(record: StepRecord, outcome: StepOutcome) -> StepRecord:
    record.status, record.attempts, record.duration_ms = outcome.status, outcome.attempts, outcome.duration_ms
    record.usage, record.error = outcome.usage, None if outcome.error is None else cut(outcome.error)
    return record


def _slice_progress(record: SliceRecord) -> SliceProgress:
    return SliceProgress(
        workflow_id=record.workflow_id,
        phase=record.phase.index if record.phase else None,
        status=record.status,
        step_count=record.step_count,
        unit=record.unit,
        succeeded=record.succeeded,
        failed=record.failed,
        begun=rfc3339(record.begun),
    )


def _step_progress(record: StepRecord) -> StepProgress:
    return StepProgress(
        step=record.step,
        agent=record.agent,
        phase=record.phase.index if record.phase else None,
        status=record.status,
        begun=rfc3339(record.begun),
        duration_ms=record.duration_ms,
        attempts=record.attempts,
        usage=record.usage,
        error=record.error,
    )


def _phase_line(phase: PhaseRecord) -> str:
    mark = "▶" if not phase.is_done else "✗" if phase.failed or phase.has_failed else "✓"
    failed = f", {phase.failed} failed" if phase.failed else ""
    running = f", {phase.running} running" if phase.running else ""
    return f"- {mark} {in_markdown(phase.name)}: {phase.succeeded} of {phase.step_count} done{failed}{running}"


def _slice_line(record: SliceRecord) -> str:
    return f"- `{record.workflow_id}`: {record.step_count} {record.unit}s"


def _failure_line(record: StepRecord) -> str:
    return f"- `{record.step}` ({in_markdown(record.agent)}): {in_markdown(record.error or record.status)}"


def _budget_line(budget: BudgetSnapshot) -> str:
    dollars = f", ${budget.consumed_usd:.4f}" if budget.consumed_usd else ""
    of_dollars = "" if budget.limit_usd is None else f"{dollars or ', $0'} of ${budget.limit_usd:.2f}"
    if budget.limit_tokens is None:
        return f"Budget: {budget.consumed_tokens:,} tokens used, no limit{of_dollars or dollars}"
    share = min(1.0, budget.consumed_tokens / budget.limit_tokens) if budget.limit_tokens else 1.0
    bar = "█" * round(share * BAR_CELLS)
    used = f"{budget.consumed_tokens:,} of {budget.limit_tokens:,} tokens ({share:.0%})"
    held = f", {budget.granted_tokens:,} held by running steps" if budget.granted_tokens else ""
    return f"Budget: `{bar:░<{BAR_CELLS}}` {used}{held}{of_dollars or dollars}"


def in_markdown(text: str) -> str:
    """Text that cannot break a Markdown list, and of a length that is read at a glance."""
    return cut(" ".join(text.split()).replace("`", "'"))
