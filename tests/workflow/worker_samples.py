"""Workflows of a user's own, as a worker is given them by name."""

from __future__ import annotations

import structlog
from pydantic import BaseModel
from temporalio import workflow

from workflows import AgentStepSpec, AgentWorkflow, StepOutcome


class Order(BaseModel):
    """A typed input."""

    item: str
    count: int


@workflow.defn
class Greeting(AgentWorkflow):
    """Runs one step and logs around it."""

    @workflow.run
    async def run(self, name: str) -> StepOutcome:
        structlog.get_logger("samples").info("greeting begins", name=name)
        return await self.agent(AgentStepSpec(task_id="greet", agent="echo", prompt=f"hello {name}"))


@workflow.defn
class Typed:
    """Takes a typed input and gives it back."""

    @workflow.run
    async def run(self, order: Order) -> Order:
        return order
