"""Budgets and deadlines."""

from datetime import timedelta

from temporalio import workflow
from temporalio.client import Client

from workflows import AgentStepSpec, AgentWorkflow, StepOutcome, TimedOut, within

with workflow.unsafe.imports_passed_through():
    from tests.support import event_types, served, wait_until


@workflow.defn
class Spend(AgentWorkflow):
    """Four steps of 1,000 tokens, one after the other."""

    @workflow.run
    async def run(self, _: None) -> list[StepOutcome]:
        specs = [AgentStepSpec(task_id=f"s{i}", agent="greedy", prompt="think") for i in range(4)]
        return [await self.agent(spec) for spec in specs]


async def test_a_budget_is_a_run_option(client: Client) -> None:
    """A run started with `budget_tokens` denies what it cannot pay; a denied step is data like any failed one."""
    async with served(client, Spend) as world:
        outcomes = await world.run("Spend", budget_tokens=3_000)
    assert [outcome["success"] for outcome in outcomes] == [True, True, True, False]
    assert outcomes[3]["output"] == "Task failed: workflow token budget exhausted (3000 / 3000 tokens)"


async def test_a_budget_can_be_raised_while_the_run_waits(client: Client) -> None:
    """`on_exhausted="wait"` keeps a step waiting for the signal `set_budget` instead of denying it."""
    async with served(client, Spend) as world:
        handle = await world.start("Spend", budget_tokens=1_000, on_exhausted="wait")

        async def waits() -> bool:
            return "step_waiting" in await event_types(handle)

        await wait_until("a step waits for tokens", waits)
        await handle.signal("set_budget", {"limit_tokens": 4_000})
        assert all(outcome["success"] for outcome in await handle.result())


@workflow.defn
class Hurry(AgentWorkflow):
    """Gives a phase half a second."""

    @workflow.run
    async def run(self, _: None) -> str:
        slow = [AgentStepSpec(task_id="slow", agent="slow", prompt="take your time")]
        ended = await within(self.phase("research", slow), timedelta(seconds=0.5))
        return "too late" if isinstance(ended, TimedOut) else ended.value[0].output


async def test_within_puts_a_deadline_on_any_work(client: Client) -> None:
    """The timer decides: what is in flight when it fires is cancelled, awaited and recorded, and the run goes on."""
    async with served(client, Hurry) as world:
        assert await world.run("Hurry") == "too late"


@workflow.defn
class Patient(AgentWorkflow):
    """A step with a limit of its own."""

    @workflow.run
    async def run(self, _: None) -> StepOutcome:
        return await self.agent(AgentStepSpec(task_id="slow", agent="slow", prompt="wait", timeout_seconds=0.5))


async def test_a_step_can_have_its_own_limit(client: Client) -> None:
    """`timeout_seconds` of a step covers all its attempts; running out of time is data."""
    async with served(client, Patient) as world:
        outcome = await world.run("Patient")
    assert (outcome["status"], outcome["error"]) == ("timed_out", "step 'slow' timed out after 500ms")
