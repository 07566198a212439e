"""The work as users of perdure write it."""

from __future__ import annotations

from temporalio import workflow

from workflows import AgentStepSpec, AgentWorkflow, StepOutcome


@workflow.defn
class FanOut(AgentWorkflow):
    """Steps side by side; the run's `max_concurrency` is the window."""

    @workflow.run
    async def run(self, specs: list[AgentStepSpec], window: int) -> list[StepOutcome]:
        """The outcomes, in the order of the specs."""
        return await self.parallel(specs)


@workflow.defn
class Sequence(AgentWorkflow):
    """Steps one after the other."""

    @workflow.run
    async def run(self, specs: list[AgentStepSpec], window: int) -> list[StepOutcome]:
        """The outcomes, in the order of the specs."""
        return [await self.agent(spec) for spec in specs]
