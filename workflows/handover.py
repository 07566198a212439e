"""What a run and the children that carry slices of its fan-outs hand each other.

Law: these shapes are in recorded histories. A new field arrives with a default; none is renamed or removed.
What both sides know is left out: an outcome comes back by its place in the slice, without the names of its step.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt

from workflows.events import UsageUnknown
from workflows.steps import AgentStepSpec, Grant, Resume, StepOutcome, Usage
from workflows.wire import Stored

KNOWN_TO_BOTH = {"task_id", "session_id", "agent"}
"""Fields of an outcome that its spec tells."""


class Begun(Stored):
    """Where a step stands that was suspended in one run and goes on in another."""

    key: str
    """Its idempotency key, which it keeps."""
    resume: Resume
    """Its transcript, the answers it has, and what it has spent."""
    attempts: NonNegativeInt = 0
    at_least: NonNegativeInt = 0
    """Tokens without which it cannot go on."""
    at_least_nanodollars: NonNegativeInt = 0
    previous: Grant | None = None
    """What it had before; it gets at least twice as much, if there is as much."""
    left_ms: int | None = None
    """What its own limit leaves."""
    asked: dict[str, int] = Field(default_factory=dict)
    """How often it asked each specialist and for each tool."""
    begun_ms: NonNegativeInt = 0
    """When it began, for its duration."""


class StepItem(Stored):
    """One step of a slice; `begun` where an earlier child could not pay for all of it."""

    spec: AgentStepSpec
    begun: Begun | None = None


class StepsWork(Stored):
    """A slice of a `parallel`, a `phase` or a round of a `loop`."""

    type: Literal["steps"] = "steps"
    prefix: str
    """What the identities of its steps begin with: `<phase index or c<call number>>.<round>`."""
    items: tuple[StepItem, ...]


class ChainItem(Stored):
    """One item of a pipeline, and the stage at which its chain goes on."""

    item: Any
    stage: NonNegativeInt = 0
    step: StepItem | None = None
    """The stage's step, where the stage was asked for it already."""


class ChainStage(Stored):
    """A stage of a pipeline."""

    function: str
    """`module:function`"""
    prefix: str
    """What the identities of its steps begin with."""


class ChainsWork(Stored):
    """A slice of a `pipeline`."""

    type: Literal["chains"] = "chains"
    stages: tuple[ChainStage, ...]
    items: tuple[ChainItem, ...]


Work = Annotated[StepsWork | ChainsWork, Field(discriminator="type")]


class SlicePhase(Stored):
    """The phase, or the stage of a graph, that the steps of a slice belong to."""

    name: str
    index: int
    is_stage: bool = False


class SliceInput(Stored):
    """The argument of `Slice`. Its share of the window and its allotment are the options of its run."""

    work: Work
    phase: SlicePhase | None = None
    is_compensating: bool = False
    """Whether it undoes: no step of it is denied."""


Ended = tuple[int, dict[str, Any]]
"""Place in the slice, and the `StepOutcome` without what both sides know. For a chain: `ChainEnd`."""

Returned = tuple[int, dict[str, Any]]
"""Place in the slice, and how the parent's later children go on: `Begun`, or for a chain `ChainItem`."""


class ChainEnd(Stored):
    """How a chain ended: its last outcome, None where there was none."""

    outcome: StepOutcome | None = None
    stage: NonNegativeInt = 0
    """The stage whose outcome it is."""
    crash: str | None = None
    """That a stage raised, and what."""


class SliceChunk(Stored):
    """Payload of the signal `slice_outcomes`: what does not fit into the child's result is sent ahead."""

    slice: str
    """Workflow id of the child."""
    ended: tuple[Ended, ...] = ()
    returned: tuple[Returned, ...] = ()


class SliceReport(Stored):
    """The result of `Slice`. A place that neither it nor a chunk names was not begun."""

    ended: tuple[Ended, ...] = ()
    returned: tuple[Returned, ...] = ()
    succeeded: NonNegativeInt = 0
    """Steps of the child, also where a chain had several."""
    failed: NonNegativeInt = 0
    spent: Usage = Usage()
    usage_unknown: tuple[UsageUnknown, ...] = ()
    is_cancelled: bool = False


def shortened(outcome: StepOutcome) -> dict[str, Any]:
    """An outcome as it travels to the one who knows its spec."""
    return outcome.model_dump(mode="json", exclude=KNOWN_TO_BOTH)


def restored(spec: AgentStepSpec, told: dict[str, Any]) -> StepOutcome:
    """The outcome that was shortened."""
    return StepOutcome.model_validate({**told, "task_id": spec.task_id, "agent": spec.agent})
