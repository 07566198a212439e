"""The workflows that the patterns' tests run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from temporalio import workflow

from workflows import AgentSpec, AgentWorkflow
from workflows.graph.definition import PatternStep
from workflows.graph.results import PatternOutput
from workflows.patterns import PatternFailed, run_pattern, tournament, vote

with workflow.unsafe.imports_passed_through():  # pytest and a worker, which no run needs a copy of
    from tests.support import World

AGENTS = Path(__file__).with_name("pattern_agents.toml").read_text()


def agent(name: str, *, plays: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """An agent as a graph writes it, and what it plays: reply by task_id, `*` for all others."""
    return {"name": name, "metadata": metadata if plays is None else {**metadata, "script": plays}}


def says(name: str, *reply: Any) -> dict[str, Any]:
    """An agent that always replies the same."""
    return agent(name, plays={"*": reply[0]})


def fails(name: str, text: str = "no idea") -> dict[str, Any]:
    """An agent that always fails."""
    return says(name, {"fail": text})


def plan(pattern: str, agents: list[Any], *, state: Any = None, **config: Any) -> dict[str, Any]:
    """The argument of `Patterned`."""
    return {"step": {"pattern": pattern, "agents": agents, "config": config}, "state": state or {}}


async def run(world: World, pattern: str, agents: list[Any], **config: Any) -> dict[str, Any]:
    """Run a pattern on the task `the task`; its output as JSON, or why it failed."""
    result: dict[str, Any] = await world.run("Patterned", plan(pattern, agents, **config))
    return result


def said(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and answer of each output; of a failed one its error."""
    return [(output["name"], output.get("error") or output["answer"]) for output in result["outputs"]]


@workflow.defn
class Patterned(AgentWorkflow):
    """One pattern step, as a graph runs it."""

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Its output; where it failed, the text and, unless the plan is brief, what its agents brought."""
        step = PatternStep.model_validate({"task": "the task", **plan["step"]})
        try:
            output = await run_pattern(self, step, plan.get("state", {}))
        except PatternFailed as failure:
            left = PatternOutput(outputs=() if plan.get("brief") else failure.outputs, final_answer="")
            return {"failed": failure.message, "outputs": left.model_dump(mode="json")["outputs"]}
        return output.model_dump(mode="json")


@workflow.defn
class Voting(AgentWorkflow):
    """A vote from Python: agents by name, and written out."""

    @workflow.run
    async def run(self, quorum: float | None) -> str:
        """The winner."""
        return (await vote(self, ["alice", AgentSpec(name="bob"), "alice"], "yes", quorum=quorum)).final_answer


@workflow.defn
class Unhandled(AgentWorkflow):
    """Lets a pattern's failure pass."""

    @workflow.run
    async def run(self, agents: list[AgentSpec]) -> str:
        """Never gets anywhere."""
        return (await tournament(self, agents, "the task")).final_answer
