"""What a graph, its stages and its proposals bring back.

Source: car-workflow and car-engine; field names and tags are theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    JsonValue,
    PrivateAttr,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    SkipValidation,
    model_serializer,
)
from pydantic_core import from_json

from workflows.actions import ActionStatus
from workflows.wire import Stored

Value = Annotated[JsonValue, SkipValidation, SerializeAsAny()]
Values = Annotated[dict[str, JsonValue], SkipValidation, SerializeAsAny()]
"""JSON that was checked where it came in: in a definition, an answer, an outcome. Where it is large, checking and
copying it again for each result that holds it takes far longer than all the rest of its stage."""

StageStatus = Literal["succeeded", "failed", "skipped", "compensated"]
WorkflowStatus = Literal["completed", "failed", "compensated", "partially_compensated", "paused"]


class ActionResult(Stored):
    """How one action of a proposal ended."""

    action_id: str
    status: ActionStatus
    output: Value = None
    error: str | None = None
    state_changes: Values = Field(default_factory=dict)
    duration_ms: int = 0
    timestamp: str | None = None
    rolled_back: bool = False


class ProposalCost(Stored):
    """What a proposal took."""

    tool_calls: int = 0
    actions_executed: int = 0
    actions_skipped: int = 0
    total_duration_ms: int = 0
    retries: int = 0


class ProposalResult(Stored):
    """How a proposal ended: one result for each action, in the order of the proposal."""

    proposal_id: str
    results: tuple[ActionResult, ...]
    cost: ProposalCost = ProposalCost()

    @property
    def is_success(self) -> bool:
        """Whether every action succeeded."""
        return all(result.status == "succeeded" for result in self.results)


class AgentTokens(Stored):
    """What one agent of a pattern spent."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None


class AgentOutput(Stored):
    """What one agent of a pattern answered. It succeeded if it has no error and its answer is not empty."""

    name: str
    answer: str
    turns: int = 0
    tool_calls: int = 0
    duration_ms: int = 0
    error: str | None = None
    outcome: Value = None
    tokens: AgentTokens | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the agent answered."""
        return self.error is None and bool(self.answer)


class PatternOutput(Stored):
    """Every agent's answer, and the one that the pattern settled on."""

    type: Literal["pattern"] = "pattern"
    outputs: tuple[AgentOutput, ...]
    final_answer: str
    _is_of_many: bool = PrivateAttr(default=False)

    @property
    def is_of_many(self) -> bool:
        """Whether there may be any number of outputs, so that a run writes them into its result in parts."""
        return self._is_of_many

    def of_many(self) -> PatternOutput:
        """The same, to be written in parts."""
        self._is_of_many = True
        return self


class ProposalOutput(Stored):
    """A proposal's result."""

    type: Literal["proposal"] = "proposal"
    result: ProposalResult


class SubWorkflowOutput(Stored):
    """The nested graph's result."""

    type: Literal["sub_workflow"] = "sub_workflow"
    result: WorkflowResult


class EmptyOutput(Stored):
    """A stage that brought nothing."""

    type: Literal["empty"] = "empty"


class ApprovalOutput(Stored):
    """A person's answer."""

    type: Literal["approval"] = "approval"
    response: Value
    answered_by: str | None = None


class ReviewFinding(Stored):
    """One finding of a review."""

    criterion: str
    passed: bool
    evidence: str = ""
    severity: Literal["blocker", "major", "minor", "info"] = "info"


class ReviewOutput(Stored):
    """An adversarial review's verdict."""

    type: Literal["review"] = "review"
    passed: bool
    blocker_count: int
    findings: tuple[ReviewFinding, ...]
    reviewer: str


class LoopOutput(Stored):
    """What each round of a loop brought, and whether its condition came true."""

    type: Literal["loop"] = "loop"
    iterations: int
    satisfied: bool
    iterations_output: tuple[StageOutput, ...] = ()


@dataclass(frozen=True, slots=True)
class CarriedOutputs:
    """What the items that children carried brought, of which there may be any number.

    Kept as JSON: of 100,000 items that is a tenth of the memory that models take, and no object in which garbage is
    looked for, all of them at once in the middle of an activation.
    """

    answers: tuple[str, ...]
    written: tuple[bytes, ...] | None
    """Each output as a history holds it, not nested so deep that nobody could read it. None where a program reads the
    outputs: then they are models."""


class ForEachOutput(Stored):
    """One body output for each item."""

    type: Literal["for_each"] = "for_each"
    items: int
    outputs: tuple[StageOutput, ...] = ()
    """Empty where they are kept as JSON, until that is written."""
    _carried: CarriedOutputs | None = PrivateAttr(default=None)

    @property
    def carried(self) -> CarriedOutputs | None:
        """What children brought, where they carried the items; None where the run itself did, and in a result."""
        return self._carried

    @property
    def written(self) -> tuple[bytes, ...] | None:
        """The outputs, where they are kept as JSON."""
        return None if self._carried is None else self._carried.written

    def carrying(self, carried: CarriedOutputs) -> ForEachOutput:
        """The same, of items that children carried."""
        self._carried = carried
        return self

    def _held(self) -> dict[str, Any]:
        """See base class."""
        return self.__dict__ if self.written is None else {**self.__dict__, "outputs": tuple(_read(self.written))}

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written = super()._leave_out_defaults(handler)
        return written if self.written is None else {**written, "outputs": _read(self.written)}


def _read(written: Sequence[bytes]) -> list[JsonValue]:
    return [from_json(output) for output in written]


class DeliverOutput(Stored):
    """One result for each sink."""

    type: Literal["deliver"] = "deliver"
    results: tuple[ProposalResult, ...]


StageOutput = Annotated[
    PatternOutput
    | ProposalOutput
    | SubWorkflowOutput
    | EmptyOutput
    | ApprovalOutput
    | ReviewOutput
    | LoopOutput
    | ForEachOutput
    | DeliverOutput,
    Field(discriminator="type"),
]


class StageResult(Stored):
    """One execution of a stage; a stage visited twice has two."""

    stage_id: str
    stage_name: str
    status: StageStatus
    output: StageOutput
    duration_ms: int
    error: str | None = None


class StageCompensation(Stored):
    """How the compensation of a completed stage ended."""

    for_stage_id: str
    status: StageStatus
    duration_ms: int
    error: str | None = None


class WorkflowResult(Stored):
    """How a graph ended."""

    workflow_id: str
    workflow_name: str
    status: WorkflowStatus
    stages: tuple[StageResult, ...]
    compensations: tuple[StageCompensation, ...]
    duration_ms: int
    timestamp: str
    final_state: Values


for _model in (SubWorkflowOutput, LoopOutput, ForEachOutput, StageResult, WorkflowResult):
    _model.model_rebuild()
