"""The same work without perdure's verbs: what an experienced user of the SDK would write by hand.

Fair by construction: the same activity, models, converter, timeouts, retry policy and window; no summaries.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from workflows.steps import AgentStepSpec, StepCall, StepOutcome


async def _step(spec: AgentStepSpec) -> StepOutcome:
    outcome: StepOutcome = await workflow.execute_activity(
        "run_agent_step",
        StepCall(spec=spec, key=str(workflow.uuid4())),
        result_type=StepOutcome,
        start_to_close_timeout=timedelta(hours=24),
        heartbeat_timeout=timedelta(seconds=6),
        retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=30)),
    )
    return outcome


@workflow.defn
class FanOutByHand:
    """Steps side by side."""

    @workflow.run
    async def run(self, specs: list[AgentStepSpec], window: int) -> list[StepOutcome]:
        """The outcomes, in the order of the specs."""
        slots = asyncio.Semaphore(window)

        async def one(spec: AgentStepSpec) -> StepOutcome:
            async with slots:
                return await _step(spec)

        return await asyncio.gather(*(one(spec) for spec in specs))


@workflow.defn
class SequenceByHand:
    """Steps one after the other."""

    @workflow.run
    async def run(self, specs: list[AgentStepSpec], window: int) -> list[StepOutcome]:
        """The outcomes, in the order of the specs."""
        return [await _step(spec) for spec in specs]
