"""Programs whose fan-outs are carried by children."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from temporalio import workflow

from tests.programs import step
from workflows import AgentStepSpec, AgentWorkflow, Continue, Saga, StepOutcome, Stop
from workflows.deadline import TimedOut, within


def generated(count: int, agent: str = "echo", plan: Mapping[str, Any] | None = None) -> Iterator[AgentStepSpec]:
    """Steps s0, s1, … one by one, as the plan wants them."""
    plan = plan or {}
    for number in range(count):
        is_greedy = number >= plan.get("greedy_from", count)
        yield step(f"s{number}", "greedy" if is_greedy else agent, _prompt(number, plan))
    if plan.get("repeats"):
        yield step("s0", agent)


def _prompt(number: int, plan: Mapping[str, Any]) -> str:
    if number == plan.get("unstorable"):
        return "\ud800"
    if number == plan.get("huge"):
        return "x" * 1_050_000
    characters: int = plan.get("characters", 0)
    return f"s{number}" + "x" * characters


def first_stage(previous: StepOutcome | None, item: str) -> AgentStepSpec | None:
    """The item names what it does."""
    if item == "crash":
        raise ValueError("no such item")
    return None if item == "nothing" else step(f"first-{item}", item if item in ("broken", "greedy") else "echo")


def second_stage(previous: StepOutcome | None, item: str) -> AgentStepSpec | None:
    """After the first."""
    if item == "late crash":
        raise ValueError("too late")
    assert previous is not None
    return step(f"second-{item}", prompt=f"after {previous.output}")


@workflow.defn
class Counted(AgentWorkflow):
    """A phase of so many generated steps, of which only the count is kept."""

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> dict[str, int]:
        """How many outcomes there were of each status; their order is checked here."""
        outcomes = await self.phase("many", generated(plan["count"], plan["agent"], plan))
        if [outcome.task_id for outcome in outcomes] != [f"s{number}" for number in range(len(outcomes))]:
            raise AssertionError("the outcomes are not in the order of their specs")
        statuses = [outcome.status for outcome in outcomes]
        return {status: statuses.count(status) for status in sorted(set(statuses))}


@workflow.defn
class Lengths(AgentWorkflow):
    """A fan-out whose outcomes are too large to be returned together."""

    @workflow.run
    async def run(self, specs: list[AgentStepSpec]) -> list[int]:
        """The lengths of the outputs."""
        return [len(outcome.output) for outcome in await self.parallel(specs)]


@workflow.defn
class Rounds(AgentWorkflow):
    """A loop whose rounds are generated."""

    @workflow.run
    async def run(self, counts: list[int]) -> list[int]:
        """How many outcomes each round had."""
        seen: list[int] = []

        def more(outcomes: list[StepOutcome]) -> Continue | Stop:
            seen.append(len(outcomes))
            return Continue(generated(counts[len(seen)])) if len(seen) < len(counts) else Stop()

        await self.loop(generated(counts[0]), len(counts), more)
        return seen


@workflow.defn(name="SlicedPipe")
class Piped(AgentWorkflow):
    """A pipeline of stages with names, or of a method and a function."""

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> list[StepOutcome | None]:
        """The last outcome of each chain."""
        first = self.first if plan.get("method") else first_stage
        stages = [first, second_stage][: plan.get("stages", 2)]
        items = plan["items"] if isinstance(plan["items"], list) else [str(n) for n in range(plan["items"])]
        odd = [*([b"raw"] if plan.get("bytes") else []), *([math.nan] if plan.get("nan") else [])]
        return await self.pipeline([*items, *odd], stages)

    def first(self, previous: StepOutcome | None, item: Any) -> AgentStepSpec | None:
        """A stage that has no name of its own."""
        return step(f"first-{item}")


@workflow.defn
class SideBySide(AgentWorkflow):
    """Two fan-outs and single steps, all at once."""

    @workflow.run
    async def run(self, count: int) -> list[int]:
        """How many steps of each succeeded."""
        tasks = [asyncio.create_task(self.parallel(generated(count))) for _ in range(2)]
        singles = [asyncio.create_task(self.agent(step(f"single-{number}"))) for number in range(4)]
        sums = [sum(outcome.success for outcome in await task) for task in tasks]
        return [*sums, len([await single for single in singles])]


@workflow.defn
class LimitedMany(AgentWorkflow):
    """A deadline around a fan-out that children carry, and a step after it."""

    @workflow.run
    async def run(self, count: int) -> list[str]:
        """Whether the deadline came, and that the run goes on."""
        ended = await within(self.parallel(generated(count, "slow")), timedelta(seconds=1))
        after = await self.agent(step("after"))
        return ["timed out" if isinstance(ended, TimedOut) else "finished", after.output]


@workflow.defn
class UndoingMany(AgentWorkflow):
    """Undoes with a fan-out that children carry."""

    @workflow.run
    async def run(self, count: int) -> str:
        """Works until it is cancelled."""
        saga = Saga(self)
        try:
            saga.push("all", self.phase, "undo", generated(count, "greedy"))
            await self.phase("work", generated(count, "slow"))
        except asyncio.CancelledError:
            await saga.compensate()
            raise
        return "done"


@workflow.defn
class UndoingRefused(AgentWorkflow):
    """Works, and undoes, with fan-outs that children carry."""

    @workflow.run
    async def run(self, count: int) -> dict[str, Any]:
        """Why the last step of the work failed, and how the compensation ended."""
        saga = Saga(self)
        saga.push("all", self.phase, "undo", generated(count))
        worked = await self.phase("work", generated(count))
        return {"work": worked[-1].error, "undone": [each.status for each in await saga.compensate()]}


WORKFLOWS: tuple[type, ...] = (
    Counted,
    Lengths,
    Rounds,
    Piped,
    SideBySide,
    LimitedMany,
    UndoingMany,
    UndoingRefused,
)
