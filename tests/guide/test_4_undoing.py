"""Sagas: what was done is undone when a later step fails, or when somebody cancels the run."""

import asyncio

from temporalio import workflow
from temporalio.client import Client

from workflows import AgentStepSpec, AgentWorkflow, Saga

with workflow.unsafe.imports_passed_through():
    from tests.support import event_types, events_of, failure_of, served, wait_until


def step(task_id: str, agent: str = "echo") -> AgentStepSpec:
    return AgentStepSpec(task_id=task_id, agent=agent, prompt=task_id)


@workflow.defn
class Deploy(AgentWorkflow):
    """Migrates, switches over and checks."""

    @workflow.run
    async def run(self, checker: str) -> str:
        saga = Saga(self)
        try:
            saga.push("migrate back", self.agent, step("migrate-back"))  # before doing: half-done wants undoing too
            await self.agent(step("migrate"))
            saga.push("switch back", self.agent, step("switch-back"))
            await self.agent(step("switch"))
            check = await self.agent(step("check", checker))
        except asyncio.CancelledError:
            await saga.compensate()
            raise
        if not check.success:
            undone = await saga.compensate()
            return f"{check.error}; undone: {', '.join(compensation.name for compensation in undone)}"
        return "deployed"


async def test_a_saga_undoes_latest_first(client: Client) -> None:
    """What was pushed runs in reverse order."""
    async with served(client, Deploy) as world:
        assert await world.run("Deploy", "echo") == "deployed"
        assert await world.run("Deploy", "broken") == "the disk is full; undone: switch back, migrate back"


async def test_a_cancelled_run_is_undone_too(client: Client) -> None:
    """A cancel ends the step in flight; the compensations still run, to their end, and then the run is Canceled."""
    async with served(client, Deploy) as world:
        handle = await world.start("Deploy", "slow")

        async def checks() -> bool:
            begun = [event["step"] for event in await events_of(handle, "step_started")]
            return "c2.0:check" in begun

        await wait_until("the check has begun", checks)
        await handle.cancel()
        assert type(await failure_of(handle)).__name__ == "CancelledError"
        assert (await event_types(handle)).count("compensation_finished") == 2
