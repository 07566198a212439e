"""What steps spend and how they end, as metrics of the worker that carries their run.

Law: counted where the ledger settles and where a step's end is recorded, so the metrics tell what the run tells. A
replay counts nothing; only a workflow task that fails and is tried again may count twice.
"""

from __future__ import annotations

from temporalio import workflow

from workflows.budget import NANO
from workflows.steps import StepOutcome, Usage

TOKENS = "perdure_tokens"
COST = "perdure_cost_nanodollars"
# Counters hold whole numbers, and a call may cost less than a millionth of a dollar.
STEPS = "perdure_steps"


def count_spent(agent: str, spent: Usage) -> None:
    """Count what one scheduling of a step has spent."""
    meter = workflow.metric_meter()
    # A step whose worker was lost is charged with its whole grant, and nobody knows what was input and what output.
    unknown = spent.total_tokens - spent.input_tokens - spent.output_tokens
    tokens = (("input", spent.input_tokens), ("output", spent.output_tokens), ("unknown", unknown))
    for kind, number in tokens:
        if number > 0:
            counter = meter.create_counter(TOKENS, "Tokens that steps have used", "tokens")
            counter.add(number, {"agent": agent, "type": kind})
    if spent.cost_usd:
        counter = meter.create_counter(COST, "What the calls of steps cost, where their price is known", "nanodollars")
        counter.add(round(spent.cost_usd * NANO), {"agent": agent})


def count_ended(outcome: StepOutcome) -> None:
    """Count the end of a step."""
    counter = workflow.metric_meter().create_counter(STEPS, "Steps that have ended", "steps")
    counter.add(1, {"agent": outcome.agent, "status": outcome.status})
