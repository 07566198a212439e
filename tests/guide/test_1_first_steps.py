"""Read this first: what a workflow over agents looks like, and what it gets back."""

from temporalio import workflow
from temporalio.client import Client

from workflows import AgentStepSpec, AgentWorkflow, StepOutcome

with workflow.unsafe.imports_passed_through():
    from tests.support import served


@workflow.defn
class Refactor(AgentWorkflow):
    """A planner, then one coder for each line of the plan."""

    @workflow.run
    async def run(self, task: str) -> list[StepOutcome]:
        plan = await self.agent(AgentStepSpec(task_id="plan", agent="echo", prompt=task))
        if not plan.success:
            return [plan]
        lines = plan.output.splitlines()
        specs = [AgentStepSpec(task_id=f"impl-{i}", agent="echo", prompt=line) for i, line in enumerate(lines)]
        return await self.phase("implement", specs)


async def test_a_workflow_is_a_class_with_a_run_method(client: Client) -> None:
    """Subclass AgentWorkflow, decorate it as any Temporal workflow, and call the verbs in `run`."""
    async with served(client, Refactor) as world:
        outcomes = await world.run("Refactor", "split the parser\nadd tests")
    assert [(outcome["task_id"], outcome["output"]) for outcome in outcomes] == [
        ("impl-0", "split the parser"),
        ("impl-1", "add tests"),
    ]


async def test_steps_needs_no_python(client: Client) -> None:
    """`Steps` runs phases given as plain JSON, so any Temporal client, in any language, can start one."""
    phases = [
        {"name": "look", "steps": [{"task_id": "a", "agent": "echo", "prompt": "read the docs"}]},
        {"name": "write", "steps": [{"task_id": "b", "agent": "broken", "prompt": "write it down"}]},
    ]
    async with served(client) as world:
        report = await world.run("Steps", phases)
    outcomes = {phase["name"]: phase["outcomes"][0] for phase in report["phases"]}
    assert (outcomes["look"]["success"], outcomes["look"]["output"]) == (True, "read the docs")
    assert (outcomes["write"]["success"], outcomes["write"]["output"]) == (False, "Task failed: the disk is full")


@workflow.defn
class Careful(AgentWorkflow):
    """Asks a second agent when the first one fails."""

    @workflow.run
    async def run(self, question: str) -> str:
        first = await self.agent(AgentStepSpec(task_id="first", agent="broken", prompt=question))
        if first.success:
            return first.output
        second = await self.agent(AgentStepSpec(task_id="second", agent="echo", prompt=f"{question} ({first.error})"))
        return second.output


async def test_a_failed_step_is_data(client: Client) -> None:
    """A step that fails raises nothing: look at `success`, `status` and `error`, and decide."""
    async with served(client, Careful) as world:
        assert await world.run("Careful", "why?") == "why? (the disk is full)"
