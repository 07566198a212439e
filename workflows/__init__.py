"""Durable multi-agent workflows on Temporal: the verbs, and what they take and give."""

from workflows.budget import BudgetSnapshot
from workflows.deadline import Finished, TimedOut, within
from workflows.errors import (
    BudgetExceeded,
    DuplicateTaskIds,
    InputRejected,
    OptionsRejected,
    PerdureError,
    RetryableStepError,
    StepCancelled,
)
from workflows.parsing import parse
from workflows.saga import CompensationResult, Saga
from workflows.steps import AgentSpec, AgentStepSpec, RunOptions, StepOutcome, Usage
from workflows.steps_workflow import Steps, parse_phases
from workflows.verbs import AgentWorkflow, Continue, Stop

ALL_WORKFLOWS: tuple[type, ...] = (Steps,)
"""The workflow types that every perdure worker serves."""

__all__ = [
    "ALL_WORKFLOWS",
    "AgentSpec",
    "AgentStepSpec",
    "AgentWorkflow",
    "BudgetExceeded",
    "BudgetSnapshot",
    "CompensationResult",
    "Continue",
    "DuplicateTaskIds",
    "Finished",
    "InputRejected",
    "OptionsRejected",
    "PerdureError",
    "RetryableStepError",
    "RunOptions",
    "Saga",
    "StepCancelled",
    "StepOutcome",
    "Steps",
    "Stop",
    "TimedOut",
    "Usage",
    "parse",
    "parse_phases",
    "within",
]
