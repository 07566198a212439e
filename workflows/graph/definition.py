"""A stage graph as people write it: every type of the definition, and its defaults.

Source: car-workflow, car-multi, car-ir and car-engine ("Common Agent Runtime"); JSON that they accept loads here.
What a definition means is the engine's business, and whether it makes sense is verify's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, NonNegativeInt, PositiveInt, model_validator

from workflows.steps import AgentSpec
from workflows.wire import Stored

DEFAULT_MAX_ITERATIONS = 100
# Stage executions of one run, all stages together: car's loop guard.
DEFAULT_MAX_RETRIES = 3
# Of an action that is tried again, after its first attempt: car's number.

PatternKind = Literal[
    "swarm_parallel",
    "swarm_sequential",
    "swarm_debate",
    "pipeline",
    "supervisor",
    "delegator",
    "map_reduce",
    "vote",
    "fleet",
    "adversarial_review",
    "tournament",
]
ActionKind = Literal["tool_call", "state_write", "state_read", "assertion"]
FailureBehavior = Literal["abort", "retry", "skip"]


class Definition(Stored):
    """What a person writes. Unknown fields are ignored here and reported by verify."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, serialize_by_alias=True)


class Condition(Definition):
    """A test of one state key; also an action's precondition."""

    key: str
    operator: str = "eq"
    value: JsonValue = None
    description: str = ""


class Action(Definition):
    """One entry of a proposal."""

    id: str
    """Generated from its place in the proposal (`action-<n>`) where it is missing."""
    type: ActionKind
    tool: str | None = None
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    preconditions: tuple[Condition, ...] = ()
    expected_effects: dict[str, JsonValue] = Field(default_factory=dict)
    state_dependencies: tuple[str, ...] = ()
    idempotent: bool = False
    max_retries: NonNegativeInt = DEFAULT_MAX_RETRIES
    failure_behavior: FailureBehavior = "abort"
    timeout_ms: NonNegativeInt | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)


def named(actions: Iterable[Any]) -> list[Any]:
    """Actions as they are written, those without an id named after their place in the proposal."""
    return [
        {"id": f"action-{number}", **action} if isinstance(action, dict) else action
        for number, action in enumerate(actions)
    ]


class ActionProposal(Definition):
    """A list of actions that succeed or fail together."""

    actions: tuple[Action, ...]
    id: str = "proposal"
    source: str = "unknown"
    timestamp: str | None = None
    context: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nameless(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("actions"), (list, tuple)):
            return data
        return {**data, "actions": named(data["actions"])}


class PatternStep(Definition):
    """A multi-agent algorithm over a task."""

    type: Literal["pattern"] = "pattern"
    pattern: PatternKind
    task: str
    agents: tuple[AgentSpec, ...] = ()
    config: dict[str, JsonValue] = Field(default_factory=dict)


class ProposalStep(Definition):
    """A proposal of actions."""

    type: Literal["proposal"] = "proposal"
    proposal: ActionProposal


class SubWorkflowStep(Definition):
    """A graph inside the graph, with a state and a loop guard of its own."""

    type: Literal["sub_workflow"] = "sub_workflow"
    workflow: GraphDefinition


class ApprovalField(Definition):
    """One field that a person fills in."""

    name: str
    label: str = ""
    field_type: str = "text"
    options: tuple[JsonValue, ...] = ()
    required: bool = False

    @model_validator(mode="before")
    @classmethod
    def _null_is_unset(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class ApprovalStep(Definition):
    """Wait for a person's answer."""

    type: Literal["approval"] = "approval"
    prompt: str
    fields: tuple[ApprovalField, ...] = ()
    output_key: str
    timeout_ms: PositiveInt | None = None
    on_timeout: Literal["fail"] | dict[str, JsonValue] = "fail"
    """What a deadline does: fail the stage, or give this answer."""


class LoopUntilStep(Definition):
    """Run the body until the conditions hold, `max_iterations` times at most."""

    type: Literal["loop_until"] = "loop_until"
    body: Step
    until: tuple[Condition, ...] = ()
    max_iterations: int


class ForEachStep(Definition):
    """Run the body for each item of the array at a state key."""

    type: Literal["for_each"] = "for_each"
    items_from: str
    body: Step
    max_concurrent: NonNegativeInt | None = None
    """Unset or 0: as many as the run allows."""


class DedupStep(Definition):
    """Let through the items that a named store has not seen yet."""

    type: Literal["dedup"] = "dedup"
    items_from: str
    into: str
    store: str
    hash_fields: tuple[str, ...] = ()
    ttl_secs: NonNegativeInt | None = None


class DeliverStep(Definition):
    """Hand a payload to each sink, best effort, in order."""

    type: Literal["deliver"] = "deliver"
    sinks: tuple[ActionProposal, ...]
    payload_key: str | None = None


Step = Annotated[
    PatternStep | ProposalStep | SubWorkflowStep | ApprovalStep | LoopUntilStep | ForEachStep | DedupStep | DeliverStep,
    Field(discriminator="type"),
]


class ProposalCompensation(Definition):
    """Undo a stage by a proposal."""

    type: Literal["proposal"] = "proposal"
    proposal: ActionProposal


class StageRefCompensation(Definition):
    """Undo a stage by running another stage's step."""

    type: Literal["stage_ref"] = "stage_ref"
    stage_id: str


Compensation = Annotated[ProposalCompensation | StageRefCompensation, Field(discriminator="type")]


class Stage(Definition):
    """One named step of a graph."""

    id: str
    name: str = ""
    """The id, where it is missing."""
    step: Step
    compensation: Compensation | None = None
    timeout_ms: NonNegativeInt | None = None
    on_failure: Literal["compensate", "route"] = "compensate"
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_id(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name") and "id" in data:
            return {**data, "name": data["id"]}
        return data


class Edge(Definition):
    """A transition between two stages, taken when all its conditions hold."""

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    conditions: tuple[Condition, ...] = ()
    label: str = ""


class GraphDefinition(Definition):
    """A graph of stages: car's `Workflow`."""

    id: str
    name: str
    start: str
    stages: tuple[Stage, ...]
    edges: tuple[Edge, ...] = ()
    max_iterations: NonNegativeInt = DEFAULT_MAX_ITERATIONS
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    goal: str | None = None
    initial_state: dict[str, JsonValue] = Field(default_factory=dict)


for _model in (SubWorkflowStep, LoopUntilStep, ForEachStep, Stage, GraphDefinition):
    _model.model_rebuild()
