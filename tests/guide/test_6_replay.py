"""Replay: tomorrow's code runs yesterday's histories, and a test says so."""

from temporalio import workflow
from temporalio.client import Client

from workflows import AgentStepSpec, AgentWorkflow

with workflow.unsafe.imports_passed_through():
    from runtime.replaying import replay_histories
    from tests.support import served


def step(task_id: str) -> AgentStepSpec:
    return AgentStepSpec(task_id=task_id, agent="echo", prompt=task_id)


@workflow.defn(name="Release")
class Release(AgentWorkflow):
    """As it was when the run began."""

    @workflow.run
    async def run(self, _: None) -> None:
        await self.agent(step("build"))
        await self.agent(step("publish"))


@workflow.defn(name="Release")
class ReleaseWithFault(AgentWorkflow):
    """A change that would leave runs in flight stranded: it takes another way through their histories."""

    @workflow.run
    async def run(self, _: None) -> None:
        await workflow.sleep(60)
        await self.agent(step("build"))


@workflow.defn(name="Release")
class ReleaseWithPatch(AgentWorkflow):
    """The same wish, told to Temporal: old runs go the old way, new ones the new."""

    @workflow.run
    async def run(self, _: None) -> None:
        if workflow.patched("wait-first"):
            await workflow.sleep(60)
        await self.agent(step("build"))
        await self.agent(step("publish"))


async def test_a_recorded_history_finds_the_change_that_would_break_it(client: Client) -> None:
    """`perdure record` keeps a history, `perdure replay` runs today's code through it; so does this."""
    async with served(client, Release) as world:
        handle = await world.start("Release")
        await handle.result()
        history = await handle.fetch_history()
    verdicts = [
        (await replay_histories([history], [version]))[0] for version in (Release, ReleaseWithFault, ReleaseWithPatch)
    ]
    assert [verdict.failure is None for verdict in verdicts] == [True, False, True]
    assert "Nondeterminism" in (verdicts[1].failure or "")
