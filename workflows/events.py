"""What a run tells while it goes: a union of events, and the log that keeps the latest of them.

Pure: the caller brings the time. Offsets count every event ever appended, also across continue-as-new, so a reader
that asks for "after offset n" sees what it missed, and is told when some of that is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, JsonValue

from workflows.actions import ActionStatus
from workflows.steps import StepStatus, Usage
from workflows.wire import Stored, size

Told = TypeVar("Told", bound=Stored)

Unit = Literal["step", "item"]

KEPT_EVENTS = 10_000
# Eight to nine megabytes of a worker's memory for each cached run that has told so many.
PAGE_EVENTS = 1_000
PAGE_BYTES = 1_000_000
# One answer of the `events` query: a query result may not pass 2 MB.


class PhaseStart(Stored):
    """A phase begins."""

    type: Literal["phase_start"] = "phase_start"
    name: str
    index: int
    step_count: int
    more: bool = False
    """Whether steps may follow that are not counted: a generator tells how many it has in the end."""


class PhaseEnd(Stored):
    """A phase has ended, with its counts."""

    type: Literal["phase_end"] = "phase_end"
    name: str
    index: int
    succeeded: int
    failed: int


class Log(Stored):
    """What the verb `log` was given."""

    type: Literal["log"] = "log"
    level: str
    message: str
    fields: JsonValue


class BudgetExhausted(Stored):
    """Sent at the end of each phase and stage while a limit is reached."""

    type: Literal["budget_exhausted"] = "budget_exhausted"
    resource: Literal["workflow_tokens", "workflow_usd"]
    reason: str


class BudgetThreshold(Stored):
    """The soft limit: most of the budget is consumed."""

    type: Literal["budget_threshold"] = "budget_threshold"
    resource: Literal["workflow_tokens", "workflow_usd"]
    percent: int


class BudgetChanged(Stored):
    """The limits after a `set_budget` signal."""

    type: Literal["budget_changed"] = "budget_changed"
    limit_tokens: int | None
    limit_usd: float | None


class StepStarted(Stored):
    """A step begins."""

    type: Literal["step_started"] = "step_started"
    step: str
    agent: str


class StepFinished(Stored):
    """A step has ended."""

    type: Literal["step_finished"] = "step_finished"
    step: str
    status: StepStatus
    duration_ms: int
    attempts: int = 1
    total_tokens: int = 0
    error: str | None = None


class StepWaiting(Stored):
    """The step waits: for tokens, for specialists or people, or for the run that takes it up. `reason` tells."""

    type: Literal["step_waiting"] = "step_waiting"
    step: str
    reason: str


class StepResumed(Stored):
    """A suspended step goes on from its checkpoint."""

    type: Literal["step_resumed"] = "step_resumed"
    step: str
    at_least: int
    """Tokens that its next model call needs; 0 when unknown."""


class StepWarning(Stored):
    """What a worker had to say about a step."""

    type: Literal["step_warning"] = "step_warning"
    step: str
    message: str


class UsageUnknown(Stored):
    """A step, or a child that carried steps, ended without telling what it spent: all that it held was charged."""

    type: Literal["usage_unknown"] = "usage_unknown"
    step: str
    """Identity of the step, or the child's workflow id."""
    charged_tokens: int | None
    """None: it had no limit, so nothing could be charged."""


class UsageRecorded(Stored):
    """Usage reported from outside the run by `record_usage`."""

    type: Literal["usage_recorded"] = "usage_recorded"
    id: str
    usage: Usage


class SignalRejected(Stored):
    """A signal that could not be read; the run goes on as before."""

    type: Literal["signal_rejected"] = "signal_rejected"
    signal: str
    reason: str


class SliceStarted(Stored):
    """A child begins to carry steps of a fan-out; their own events are in the child."""

    type: Literal["slice_started"] = "slice_started"
    workflow_id: str
    """The child's."""
    phase: int | None = None
    first: str
    """Identity of the first step, or place of the first item."""
    step_count: int
    unit: Unit = "step"
    """What is counted: of a pipeline and a `for_each` items, each of which may take any number of steps."""
    tokens: int | None = None
    """Its allotment; None is no limit."""


class SliceFinished(Stored):
    """A child that carried steps has ended."""

    type: Literal["slice_finished"] = "slice_finished"
    workflow_id: str
    succeeded: int
    """Steps."""
    failed: int
    returned: int = 0
    """Steps, or items, that it did not begin or could not pay for; a later slice has them."""
    items: int | None = None
    """Items that ended, where it carried items."""
    total_tokens: int = 0
    error: str | None = None
    """Why it was lost; its steps have failed with this text."""


class SliceWaiting(Stored):
    """There are no tokens for the next steps of a fan-out; they wait, for others to settle or for a raise."""

    type: Literal["slice_waiting"] = "slice_waiting"
    step_count: int
    unit: Unit = "step"
    reason: str


class SliceDenied(Stored):
    """Steps of a fan-out that were not begun, and never will be."""

    type: Literal["slice_denied"] = "slice_denied"
    step_count: int
    unit: Unit = "step"
    reason: str


class StageStarted(Stored):
    """A stage of a graph begins; `index` is its phase index."""

    type: Literal["stage_started"] = "stage_started"
    stage: str
    index: int


class StageFinished(Stored):
    """A stage of a graph has ended."""

    type: Literal["stage_finished"] = "stage_finished"
    stage: str
    index: int
    status: Literal["succeeded", "failed"]
    duration_ms: int
    error: str | None = None


class ApprovalAsked(Stored):
    """A person must answer."""

    type: Literal["approval_asked"] = "approval_asked"
    id: str
    stage: str
    prompt: str
    step: str | None = None
    """The step whose agent asks, where it is not the stage itself."""


class ApprovalResolved(Stored):
    """A person, or the deadline, has answered."""

    type: Literal["approval_resolved"] = "approval_resolved"
    id: str
    answered_by: str | None = None
    by_deadline: bool = False


class ActionStarted(Stored):
    """An action of a proposal calls its tool."""

    type: Literal["action_started"] = "action_started"
    action: str
    tool: str


class ActionFinished(Stored):
    """An action of a proposal has ended; one that calls no tool has only this event."""

    type: Literal["action_finished"] = "action_finished"
    action: str
    status: ActionStatus
    duration_ms: int
    attempts: int = 1
    error: str | None = None


class CompensationStarted(Stored):
    """A compensation begins."""

    type: Literal["compensation_started"] = "compensation_started"
    name: str


class CompensationFinished(Stored):
    """A compensation has ended."""

    type: Literal["compensation_finished"] = "compensation_finished"
    name: str
    status: Literal["succeeded", "failed"]
    error: str | None = None


WorkflowEvent = Annotated[
    PhaseStart
    | PhaseEnd
    | Log
    | BudgetExhausted
    | BudgetThreshold
    | BudgetChanged
    | StepStarted
    | StepFinished
    | StepWaiting
    | StepResumed
    | StepWarning
    | UsageUnknown
    | UsageRecorded
    | SignalRejected
    | SliceStarted
    | SliceFinished
    | SliceWaiting
    | SliceDenied
    | StageStarted
    | StageFinished
    | ApprovalAsked
    | ApprovalResolved
    | ActionStarted
    | ActionFinished
    | CompensationStarted
    | CompensationFinished,
    Field(discriminator="type"),
]


class EventEnvelope(Stored):
    """An event with its place in the run and the run's own time (RFC 3339)."""

    offset: int
    time: str
    event: WorkflowEvent


class EventPage(Stored):
    """Answer of the `events` query."""

    events: tuple[EventEnvelope, ...]
    last_offset: int
    """Ask again after this offset."""
    dropped: int = 0
    """Events after the asked offset that the log no longer holds."""
    more: bool = False
    """Whether events after `last_offset` are there already."""


class EventLog:
    """The latest events of a run, at most `kept`."""

    def __init__(self, *, first_offset: int = 0, tail: Iterable[EventEnvelope] = (), kept: int = KEPT_EVENTS) -> None:
        self._next = first_offset
        self._kept: deque[tuple[int, datetime | str, Any]] = deque(
            ((envelope.offset, envelope.time, envelope.event) for envelope in tail), maxlen=kept
        )

    def of_type(self, kind: type[Told]) -> list[Told]:
        """The events of one type that the log still holds, oldest first."""
        return [event for _, _, event in self._kept if type(event) is kind]

    @property
    def next_offset(self) -> int:
        """The offset that the next event gets."""
        return self._next

    def append(self, event: Any, time: datetime) -> None:
        """Keep an event; the oldest falls out where the log is full."""
        self._kept.append((self._next, time, event))
        self._next += 1

    def after(self, offset: int) -> EventPage:
        """The events that follow an offset (-1: from the first), as many as one answer holds."""
        first_kept = self._kept[0][0] if self._kept else self._next
        offset = min(max(offset, -1), self._next - 1)  # an offset from before a reset may lie beyond the end
        start = max(offset + 1, first_kept)
        page: list[EventEnvelope] = []
        taken = 0
        for position in range(start - first_kept, len(self._kept)):
            envelope = _envelope(*self._kept[position])
            taken += size(envelope)
            if page and (taken > PAGE_BYTES or len(page) == PAGE_EVENTS):
                break
            page.append(envelope)
        last = page[-1].offset if page else max(offset, start - 1)
        return EventPage(
            events=tuple(page),
            last_offset=last,
            dropped=max(0, first_kept - (offset + 1)),
            more=last + 1 < self._next,
        )

    def tail(self, count: int) -> tuple[EventEnvelope, ...]:
        """The latest events, oldest first."""
        first = max(0, len(self._kept) - count)
        return tuple(_envelope(*self._kept[position]) for position in range(first, len(self._kept)))


def _envelope(offset: int, time: datetime | str, event: Any) -> EventEnvelope:
    # Times are written out only when somebody reads: a run of many steps appends far more than is ever asked for.
    return EventEnvelope(offset=offset, time=time if isinstance(time, str) else rfc3339(time), event=event)


def rfc3339(time: datetime) -> str:
    """A UTC time to the millisecond, as `2026-01-31T12:00:00.000Z`."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
