"""Durable multi-agent workflows on Temporal: the verbs, and what they take and give."""

from workflows.budget import BudgetSnapshot
from workflows.deadline import Finished, TimedOut, within
from workflows.errors import (
    BudgetExceeded,
    DuplicateTaskIds,
    GraphRejected,
    InputRejected,
    OptionsRejected,
    PatternFailed,
    PerdureError,
    RetryableStepError,
    StepCancelled,
)
from workflows.graph.definition import GraphDefinition
from workflows.graph.results import WorkflowResult
from workflows.graph.seen import SeenStore
from workflows.graph.verify import load_graph, verify_graph
from workflows.graph_workflows import Chain, StageGraph
from workflows.parsing import parse
from workflows.saga import CompensationResult, Saga
from workflows.slices import Slice
from workflows.steps import AgentSpec, AgentStepSpec, RunOptions, StepOutcome, Usage
from workflows.steps_workflow import Steps, parse_phases
from workflows.verbs import AgentWorkflow, Continue, Stop

ALL_WORKFLOWS: tuple[type, ...] = (Steps, StageGraph, Chain, SeenStore, Slice)
"""The workflow types that every perdure worker serves."""

__all__ = [
    "ALL_WORKFLOWS",
    "AgentSpec",
    "AgentStepSpec",
    "AgentWorkflow",
    "BudgetExceeded",
    "BudgetSnapshot",
    "Chain",
    "CompensationResult",
    "Continue",
    "DuplicateTaskIds",
    "Finished",
    "GraphDefinition",
    "GraphRejected",
    "InputRejected",
    "OptionsRejected",
    "PatternFailed",
    "PerdureError",
    "RetryableStepError",
    "RunOptions",
    "Saga",
    "StageGraph",
    "StepCancelled",
    "StepOutcome",
    "Steps",
    "Stop",
    "TimedOut",
    "Usage",
    "WorkflowResult",
    "load_graph",
    "parse",
    "parse_phases",
    "verify_graph",
    "within",
]
