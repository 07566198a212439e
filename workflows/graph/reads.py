"""What the body of a `for_each` reads of the state around it, found without running it.

Law: errs on the side of yes. A key that the body may read counts, also where it would have written it before; where
that cannot be told from the definition, or where items touch what they share, it says why. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from pydantic import JsonValue

from workflows.graph.definition import (
    ActionProposal,
    ApprovalStep,
    Condition,
    DedupStep,
    DeliverStep,
    ForEachStep,
    GraphDefinition,
    LoopUntilStep,
    PatternStep,
    ProposalCompensation,
    ProposalStep,
    Step,
    SubWorkflowStep,
)
from workflows.graph.policies import Policy, RequireState
from workflows.graph.templates import references

REVIEW_KEY = "review_key"
# The one field of a pattern's config that names a state key.


@dataclass(slots=True)
class Reads:
    """State keys that a body may read, and what it does that needs the whole state, or the run itself."""

    has_templates: bool
    keys: set[str] = field(default_factory=set)
    computes: str | None = None
    """Which key it computes; in words that follow `its body`, as the next."""
    shares: str | None = None
    """What it shares with the rest of the run."""

    def add(self, *values: JsonValue) -> None:
        """What the references of values read."""
        if self.has_templates:
            for value in values:
                self.keys.update(references(value))

    def add_conditions(self, conditions: Iterable[Condition]) -> None:
        """The keys that conditions ask for."""
        self.keys.update(condition.key for condition in conditions)

    def add_named(self, key: JsonValue, where: str) -> None:
        """A key that a value names, which may have references of its own."""
        if self.has_templates and references(key):
            self.computes = f"computes the key that {where} reads"
        elif isinstance(key, str):
            self.keys.add(key)


def reads_of(body: Step, policies: Iterable[Policy], *, has_templates: bool) -> Reads:
    """What a body may read of the state of its graph. What a graph nested in it reads is that one's own."""
    reads = Reads(has_templates)
    reads.keys.update(policy.key for policy in policies if isinstance(policy, RequireState))
    _add_step(reads, body)
    return reads


def _add_step(reads: Reads, step: Step) -> None:
    match step:
        case PatternStep():
            reads.add(step.task, step.config, *(agent.system_prompt for agent in step.agents))
            if step.pattern == "adversarial_review":
                reads.add_named(step.config.get(REVIEW_KEY), "a review")
        case ProposalStep():
            _add_proposal(reads, step.proposal)
        case SubWorkflowStep():
            reads.add(step.workflow.initial_state)
            _look_into(reads, step.workflow)
        case ApprovalStep():
            reads.shares = "asks a person"
        case LoopUntilStep():
            reads.add_conditions(step.until)
            _add_step(reads, step.body)
        case ForEachStep():
            reads.keys.add(step.items_from)
            _add_step(reads, step.body)
        case DedupStep():
            reads.keys.add(step.items_from)
        case DeliverStep():
            if step.payload_key is not None:
                reads.keys.add(step.payload_key)
            for sink in step.sinks:
                _add_proposal(reads, sink)
        case _:
            assert_never(step)


def _add_proposal(reads: Reads, proposal: ActionProposal) -> None:
    for action in proposal.actions:
        reads.add(action.parameters)
        reads.add_conditions(action.preconditions)
        reads.keys.update(action.state_dependencies)
        if action.type == "state_read":
            reads.add_named(action.parameters.get("key"), "a state_read")
        if action.idempotent and action.type == "tool_call":
            reads.shares = "has idempotent actions, which run once in a run"


def _look_into(reads: Reads, graph: GraphDefinition) -> None:
    """Find what a nested graph shares with the run; the state that it reads is its own."""
    inside = Reads(reads.has_templates)
    for stage in graph.stages:
        _add_step(inside, stage.step)
        if isinstance(stage.compensation, ProposalCompensation):
            _add_proposal(inside, stage.compensation.proposal)
    reads.shares = reads.shares or inside.shares
