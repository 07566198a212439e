"""The workflows that lose their workers: small programs over the verbs, as users write them."""

from __future__ import annotations

import json
from typing import Any

from temporalio import workflow

from workflows import AgentStepSpec, AgentWorkflow, BudgetSnapshot, Continue, Saga, StepOutcome, Stop
from workflows.wire import Stored


class Report(Stored):
    """What a run brought."""

    outcomes: tuple[StepOutcome, ...]
    budget: BudgetSnapshot
    undone: tuple[str, ...] = ()
    """`name:status` of each compensation, in the order in which they ran."""


def labour(count: int, seconds: float, prefix: str = "s") -> list[AgentStepSpec]:
    """Steps s0, s1, … that each work for so long."""
    return [AgentStepSpec(task_id=f"{prefix}{number}", agent="labour", prompt=str(seconds)) for number in range(count)]


def walks(count: int, turns: int, seconds: float, tokens: int) -> list[AgentStepSpec]:
    """Steps w0, w1, … that each take so many turns."""
    prompt = json.dumps({"turns": turns, "seconds": seconds, "tokens": tokens})
    return [AgentStepSpec(task_id=f"w{number}", agent="walk", prompt=prompt) for number in range(count)]


@workflow.defn
class Phased(AgentWorkflow):
    """One phase for each list of steps."""

    @workflow.run
    async def run(self, phases: list[list[AgentStepSpec]]) -> Report:
        """All outcomes, in the order of the steps."""
        outcomes: list[StepOutcome] = []
        for number, specs in enumerate(phases):
            outcomes += await self.phase(f"phase {number}", specs)
        return Report(outcomes=tuple(outcomes), budget=self.budget())


@workflow.defn
class Wide(AgentWorkflow):
    """More steps in one call than one history holds."""

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> list[str]:
        """The ids of those that succeeded, in their order. The plan: {"count", "seconds"}."""
        outcomes = await self.phase("wide", labour(plan["count"], plan["seconds"]))
        return [outcome.task_id for outcome in outcomes if outcome.success]


@workflow.defn
class Undoing(AgentWorkflow):
    """Does what must be undone, fails, and undoes it."""

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> Report:
        """What was done and undone. The plan: {"count", "seconds"}."""
        saga, outcomes = Saga(self), []
        for number, spec in enumerate(labour(plan["count"], 0.05, "do-")):
            saga.push(f"undo-{number}", self.agent, spec.model_copy(update=_undo(number, plan["seconds"])))
            outcomes.append(await self.agent(spec))
        undone = await saga.compensate()
        told = tuple(f"{compensation.name}:{compensation.status}" for compensation in undone)
        return Report(outcomes=tuple(outcomes), budget=self.budget(), undone=told)


def _undo(number: int, seconds: float) -> dict[str, str]:
    return {"task_id": f"undo-{number}", "prompt": str(seconds)}


@workflow.defn
class EveryVerb(AgentWorkflow):
    """Each verb, with steps of a given length."""

    @workflow.run
    async def run(self, seconds: float) -> Report:
        """The outcomes of all verbs, one after the other."""
        saga = Saga(self)
        saga.push("undo", self.agent, labour(1, seconds, "undo")[0])
        outcomes = [await self.agent(labour(1, seconds, "alone")[0])]
        outcomes += await self.parallel(labour(4, seconds, "parallel"))
        outcomes += await self.phase("walks", walks(3, turns=3, seconds=seconds / 3, tokens=100))
        piped = await self.pipeline(["a", "b", "c"], [_first(seconds), _second(seconds)])
        outcomes += [outcome for outcome in piped if outcome is not None]
        outcomes += await self.loop(labour(2, seconds, "round0-"), 3, _next_round(seconds))
        undone = await saga.compensate()
        told = tuple(f"{compensation.name}:{compensation.status}" for compensation in undone)
        return Report(outcomes=tuple(outcomes), budget=self.budget(), undone=told)


EVERY_VERB_OUTCOMES = (
    "alone0",
    *(f"parallel{number}" for number in range(4)),
    *(f"w{number}" for number in range(3)),
    *(f"second-{item}0" for item in "abc"),
    "round2-0",
)
"""The task ids of `EveryVerb`'s outcomes, in their order."""


def _first(seconds: float) -> Any:
    return lambda previous, item: labour(1, seconds, f"first-{item}")[0]


def _second(seconds: float) -> Any:
    return lambda previous, item: labour(1, seconds, f"second-{item}")[0]


def _next_round(seconds: float) -> Any:
    rounds = 0

    def decide(outcomes: list[StepOutcome]) -> Continue | Stop:
        nonlocal rounds
        rounds += 1
        return Stop() if rounds == 3 else Continue(labour(1, seconds, f"round{rounds}-"))

    return decide
