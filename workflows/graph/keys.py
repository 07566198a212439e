"""Which state keys a graph can produce: what `{{key}}` and conditions may hope for.

Law: errs on the side of yes. A key that some stage might write counts, whatever the order, so what is reported as never
there is never there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from workflows.graph.definition import (
    ActionProposal,
    ApprovalStep,
    DedupStep,
    DeliverStep,
    ForEachStep,
    GraphDefinition,
    LoopUntilStep,
    PatternStep,
    ProposalCompensation,
    ProposalStep,
    Stage,
    Step,
    SubWorkflowStep,
)
from workflows.graph.proposal import changes
from workflows.graph.templates import references

GOAL = "goal"
"""Holds the definition's goal; nothing that a start brings can take its place."""
EVERY_STAGE = ("succeeded", "answer", "error")
ITEM_KEYS = ("item", "index")
"""What `for_each` adds to the state of its body."""
PAYLOAD_KEYS = ("payload",)
"""What `deliver` adds to the state of its sinks."""


@dataclass(slots=True)
class Keys:
    """Keys, beginnings of keys, or anything at all."""

    names: set[str] = field(default_factory=set)
    beginnings: set[str] = field(default_factory=set)
    """Each ends where a `.` follows in a key."""
    derived: set[str] = field(default_factory=set)
    """Beginnings that may be followed by `_` too: a pattern also runs its agents under names of its own."""
    is_anything: bool = False
    """A state_write computes its key, so no key can be excluded."""

    def __contains__(self, key: str) -> bool:
        if self.is_anything or key in self.names:
            return True
        return any(
            (letter == "." and key[:place] in self.beginnings) or (letter == "_" and key[:place] in self.derived)
            for place, letter in enumerate(key)
        )


def keys_of(graph: GraphDefinition, given: Iterable[str] = ()) -> Keys:
    """What a graph's own state may come to hold; nested graphs keep theirs to themselves."""
    keys = Keys({*graph.initial_state, *given})
    if graph.goal is not None:
        keys.names.add(GOAL)
    for stage in graph.stages:
        keys.names.update([f"stage.{stage.id}.{name}" for name in EVERY_STAGE])
        _add_step(keys, stage, stage.step)
        if isinstance(stage.compensation, ProposalCompensation):
            _add_proposal(keys, stage.compensation.proposal)
    return keys


def _add_step(keys: Keys, stage: Stage, step: Step) -> None:
    match step:
        case PatternStep():
            agents = [f"agent.{agent.name}" for agent in step.agents]
            keys.beginnings.update(agents)
            keys.derived.update(agents)
            if step.pattern == "adversarial_review":
                keys.names.add(f"stage.{stage.id}.review_passed")
        case ProposalStep():
            _add_proposal(keys, step.proposal)
        case ApprovalStep():
            keys.names.add(step.output_key)
            keys.beginnings.add(step.output_key)
        case LoopUntilStep():
            keys.names.add(f"stage.{stage.id}.iteration")
            _add_step(keys, stage, step.body)
        case ForEachStep():
            keys.beginnings.add(f"foreach.{stage.id}")
            _add_step(keys, stage, step.body)  # the body's writes are seen by the body itself
        case DedupStep():
            keys.names.update((step.into, f"stage.{stage.id}.unseen_count", f"stage.{stage.id}.total_count"))
        case DeliverStep():
            keys.names.update((f"stage.{stage.id}.delivered_count", f"stage.{stage.id}.failed_count"))
            for sink in step.sinks:
                _add_proposal(keys, sink)
        case SubWorkflowStep():
            pass
        case _:
            assert_never(step)


def _add_proposal(keys: Keys, proposal: ActionProposal) -> None:
    for action in proposal.actions:
        keys.names.update(changes(action))
        written = action.parameters.get("key") if action.type == "state_write" else None
        if written is not None and references(written):
            keys.is_anything = True
