"""The work as users of perdure write it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


def row_of_stages(count: int) -> dict[str, Any]:
    """The same as a stage graph: a stage for each step."""
    stages = [_stage(f"step-{number}", f"prompt {number}") for number in range(count)]
    edges = [{"from": f"step-{number}", "to": f"step-{number + 1}"} for number in range(count - 1)]
    return {
        "id": "row",
        "name": "Row",
        "start": "step-0",
        "stages": stages,
        "edges": edges,
        "max_iterations": count,
    }


def _stage(name: str, task: str) -> dict[str, Any]:
    step = {"type": "pattern", "pattern": "pipeline", "task": task, "agents": [{"name": "echo"}]}
    return {"id": name, "step": step}


@workflow.defn
class Wide(AgentWorkflow):
    """More steps than one history holds, from a generator."""

    @workflow.run
    async def run(self, count: int, window: int) -> int:
        """How many steps succeeded."""
        return sum(outcome.success for outcome in await self.phase("wide", specs(count)))


def specs(count: int) -> Iterator[AgentStepSpec]:
    """Echo steps with a short prompt each."""
    for number in range(count):
        yield AgentStepSpec(task_id=f"step-{number}", agent="echo", prompt=f"prompt {number}")
