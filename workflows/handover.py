"""What a run and the children that carry slices of its fan-outs hand each other.

Law: these shapes are in recorded histories. A new field arrives with a default; none is renamed or removed.
What both sides know is left out: an outcome comes back by its place in the slice, without the names of its step.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from workflows.budget import Bundle, Ledger
from workflows.events import UsageUnknown
from workflows.graph.definition import Step
from workflows.graph.policies import Policy
from workflows.graph.results import EmptyOutput, StageOutput, Value, Values
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


class BodyItem(Stored):
    """One item of a `for_each`, and its place in the list."""

    index: NonNegativeInt
    item: Value


class Surroundings(Stored):
    """What the body of a `for_each` finds around it."""

    graph: str
    stage: str
    goal: str | None = None
    policies: tuple[Policy, ...] = ()
    """Of the graph, and of those around it."""
    has_templates: bool = True
    """Whether references are replaced in the stage."""
    layer: tuple[str, ...] = ()
    """Names that are replaced also where templates are off: those of a `for_each` around this one."""
    state: Values = Field(default_factory=dict)
    """What the body may read of the state."""
    referred: Values | None = None
    """What its references read instead: in a compensation, the state at the failure."""


class ItemsWork(Stored):
    """A slice of a `for_each`."""

    type: Literal["items"] = "items"
    place: str
    """What the identities of its steps begin with: phase index or `c<call number>`. Their item's number follows."""
    path: str = ""
    """What stands before that number: the item around this `for_each`, where there is one."""
    first: NonNegativeInt = 0
    """The number of the first item of the list."""
    body: Step
    around: Surroundings
    items: tuple[BodyItem, ...] = ()


Work = Annotated[StepsWork | ChainsWork | ItemsWork, Field(discriminator="type")]


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
    at_once: PositiveInt | None = None
    """How many of its items may be under way at once; unset, as many as its steps."""
    next_phase: NonNegativeInt = 0
    """The number of the first stage that a graph in its items begins."""
    exhausted: Ledger | None = None
    """The budget of the run, where nothing of it is left: every step that asks for some is denied."""


Ended = tuple[int, dict[str, Any]]
"""Place in the slice, and the `StepOutcome` without what both sides know. For a chain `ChainEnd`, for an item
`ItemEnd`."""

Returned = tuple[int, dict[str, Any]]
"""Place in the slice, and how the parent's later children go on: `Begun`, or for a chain `ChainItem`."""


class ChainEnd(Stored):
    """How a chain ended: its last outcome, None where there was none."""

    outcome: StepOutcome | None = None
    stage: NonNegativeInt = 0
    """The stage whose outcome it is."""
    crash: str | None = None
    """That a stage raised, and what."""


class ItemEnd(Stored):
    """How the body of a `for_each` ended for one item."""

    output: StageOutput = EmptyOutput()
    answer: str | None = None
    """The output's, where that was too large to travel whole."""
    written: Values = Field(default_factory=dict)
    """What the body wrote."""
    failure: str | None = None
    is_cut_off: bool = False
    """Whether the body did not come to its end: then nothing of the item is written into the state."""


class SliceChunk(Stored):
    """Payload of the signal `slice_outcomes`: what does not fit into the child's result is sent ahead."""

    slice: str
    """Workflow id of the child."""
    ended: tuple[Ended, ...] = ()
    returned: tuple[Returned, ...] = ()


class SliceShort(Stored):
    """Payload of the signal `slice_short`: a child needs more of the budget for steps under way."""

    slice: str
    """Workflow id of the child."""
    spent: Usage
    """By the child, from its beginning. Whatever else it had been allotted is the parent's again."""
    step_count: NonNegativeInt
    """How many steps wait for it."""
    wants: Bundle


class SliceAllotted(Stored):
    """Payload of the signal `slice_allotted`, the answer: how much more, or why nothing."""

    tokens: NonNegativeInt | None = None
    """None is no limit."""
    usd: NonNegativeFloat | None = None
    refused_by: Ledger | None = None
    """The parent's budget, where it cannot pay for what was wanted however its other steps end."""


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
    next_phase: NonNegativeInt = 0
    """The number after its last stage, where graphs in its items had some."""


def shortened(outcome: StepOutcome) -> dict[str, Any]:
    """An outcome as it travels to the one who knows its spec."""
    return outcome.model_dump(mode="json", exclude=KNOWN_TO_BOTH)


def restored(spec: AgentStepSpec, told: dict[str, Any]) -> StepOutcome:
    """The outcome that was shortened."""
    return StepOutcome.model_validate({**told, "task_id": spec.task_id, "agent": spec.agent})
