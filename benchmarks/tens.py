"""Tens of thousands of steps in one call."""

from __future__ import annotations

from collections.abc import Iterator

from temporalio import workflow

from workflows import AgentStepSpec, AgentWorkflow


def specs(count: int) -> Iterator[AgentStepSpec]:
    """Echo steps with a short prompt each."""
    return (AgentStepSpec(task_id=f"step-{number}", agent="echo", prompt=f"prompt {number}") for number in range(count))


@workflow.defn
class ManySteps(AgentWorkflow):
    """One phase."""

    @workflow.run
    async def run(self, count: int) -> int:
        """How many steps succeeded."""
        outcomes = await self.phase("many", specs(count))
        return sum(outcome.success for outcome in outcomes)
