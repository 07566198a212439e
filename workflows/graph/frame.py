"""One graph under way: the run's own, or one nested in it.

Frames share the run: its ledger, log, approvals, window and phase numbers. Nothing of a frame's state is shared.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import JsonValue

from workflows.graph.definition import GraphDefinition, Stage
from workflows.graph.pace import Pace
from workflows.graph.policies import Policy
from workflows.graph.results import StageOutput, StageResult
from workflows.graph.templates import is_on
from workflows.run import Run
from workflows.saga import Saga

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

State = MutableMapping[str, JsonValue]


@dataclass
class Frame:
    """A graph with its state, what it did so far, and what undoes it."""

    owner: AgentWorkflow
    graph: GraphDefinition
    state: dict[str, JsonValue]
    saga: Saga
    policies: tuple[Policy, ...]
    cache: dict[str, JsonValue]
    """Results of idempotent actions; one for the whole run."""
    pace: Pace
    is_for_program: bool = False
    """Whether a program is given what the stages bring: then that is models, however many there are."""
    results: list[StageResult] = field(default_factory=list)
    executions: int = 0
    completed: list[str] = field(default_factory=list)
    """Stages that compensation undoes, in order of completion; pushed on the saga in that order."""
    partial: StageOutput | None = None
    """What the stage under way had done when it was cut off."""
    at_failure: dict[str, JsonValue] = field(default_factory=dict)
    """The state when the graph failed: what references in its compensations read."""

    @property
    def run(self) -> Run:
        """The state of the whole run."""
        return self.owner.perdure

    def take_partial(self) -> StageOutput | None:
        """What the stage that was cut off had done, once."""
        partial, self.partial = self.partial, None
        return partial

    def uses_templates(self, stage: Stage) -> bool:
        """Whether `{{key}}` is replaced in this stage."""
        return is_on(self.graph.metadata, stage.metadata)
