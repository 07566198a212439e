"""The workflows that run stage graphs inside them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from temporalio import workflow

from tests.programs import step
from workflows import AgentWorkflow, load_graph
from workflows.graph.results import ForEachOutput, PatternOutput, SubWorkflowOutput, WorkflowResult


@workflow.defn
class Composed(AgentWorkflow):
    """Graphs between steps of a program."""

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> list[Any]:
        """Outputs of steps and results of graphs."""
        before = await self.agent(step("before", plan.get("agent", "echo")))
        results = [await self.run_graph(load_graph(graph), plan.get("state")) for graph in plan["graphs"]]
        after = await self.agent(step("after", plan.get("agent", "echo")))
        return [before.output, *results, after.output]


@workflow.defn
class Readers(AgentWorkflow):
    """A program that reads what the items of a `for_each` brought, and goes on with it."""

    @workflow.run
    async def run(self, definition: Any) -> list[str]:
        """What was answered to the answers, also to those of a graph in the graph."""
        result = await self.run_graph(load_graph(definition))
        outcomes = await self.parallel([step(f"read-{at}", prompt=each) for at, each in enumerate(_answers(result))])
        return [outcome.output for outcome in outcomes]


def _answers(result: WorkflowResult) -> Iterator[str]:
    for stage in result.stages:
        if isinstance(stage.output, SubWorkflowOutput):
            yield from _answers(stage.output.result)
        elif isinstance(stage.output, ForEachOutput):
            yield from (each.final_answer for each in stage.output.outputs if isinstance(each, PatternOutput))


@workflow.defn
class SideBySide(AgentWorkflow):
    """Graphs at the same time."""

    @workflow.run
    async def run(self, graphs: list[Any]) -> list[WorkflowResult]:
        """Their results."""
        return await asyncio.gather(*(self.run_graph(load_graph(graph)) for graph in graphs))


@workflow.defn
class Walks(AgentWorkflow):
    """Many graphs, one after the other."""

    @workflow.run
    async def run(self, graphs: list[Any]) -> list[Any]:
        """Of each: its status, the stages it visited, what it undid, and what it left."""
        told = []
        for graph in graphs:
            result = await self.run_graph(load_graph(graph))
            stages = [[stage.stage_id, stage.error] for stage in result.stages]
            undone = [[undo.for_stage_id, undo.status] for undo in result.compensations]
            told.append([result.status, stages, undone, result.final_state])
        return told
