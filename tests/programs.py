"""The workflows that the tests run: small programs over the verbs, as users write them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow

from workflows import AgentStepSpec, AgentWorkflow, Continue, Saga, StepOutcome, Stop
from workflows.deadline import Finished, TimedOut, within


def step(task_id: str, agent: str = "echo", prompt: str | None = None, **more: Any) -> AgentStepSpec:
    """A step whose prompt, unless given, is its id."""
    return AgentStepSpec(task_id=task_id, agent=agent, prompt=task_id if prompt is None else prompt, **more)


def steps(count: int, agent: str = "echo", **more: Any) -> list[AgentStepSpec]:
    """Steps s0, s1, …"""
    return [step(f"s{number}", agent, **more) for number in range(count)]


@workflow.defn
class FanOut(AgentWorkflow):
    """`parallel` over the given specs."""

    @workflow.run
    async def run(self, specs: list[AgentStepSpec]) -> list[StepOutcome]:
        """The outcomes."""
        return await self.parallel(specs)


@workflow.defn
class Sequence(AgentWorkflow):
    """`agent` for each of the given specs, one after the other."""

    @workflow.run
    async def run(self, specs: list[AgentStepSpec]) -> list[StepOutcome]:
        """The outcomes."""
        return [await self.agent(spec) for spec in specs]


@workflow.defn
class EveryVerb(AgentWorkflow):
    """Each verb once."""

    @workflow.run
    async def run(self, _: Any) -> dict[str, Any]:
        """What each verb returned, as outputs."""
        self.log("info", "begins", {"why": "to show"})
        alone = await self.agent(step("alone"))
        phase = await self.phase("build", [*steps(3), step("bad", "broken")])
        piped = await self.pipeline(["a", "b", "c"], [first_stage, second_stage])
        looped = await self.loop(steps(2), 5, self.next_round)
        return {
            "agent": alone.output,
            "phase": [outcome.output for outcome in phase],
            "pipeline": [outcome.output if outcome else None for outcome in piped],
            "loop": [outcome.output for outcome in looped],
        }

    def next_round(self, outcomes: list[StepOutcome]) -> Continue | Stop:
        """A third round is the last."""
        rounds = len(outcomes[0].output)
        return Stop() if rounds > 6 else Continue([step("again", prompt=outcomes[0].output + "+++")])


def first_stage(previous: StepOutcome | None, item: str) -> AgentStepSpec | None:
    """No step for `b`."""
    return None if item == "b" else step(f"first-{item}")


def second_stage(previous: StepOutcome | None, item: str) -> AgentStepSpec | None:
    """A stage that raises for `c`."""
    if item == "c":
        raise ValueError("c cannot be staged")
    assert previous is not None
    return step(f"second-{item}", prompt=f"{previous.output} then second")


@workflow.defn
class Piped(AgentWorkflow):
    """A pipeline whose chains end in every way that there is."""

    @workflow.run
    async def run(self, items: list[str]) -> list[StepOutcome | None]:
        """The last outcome of each chain."""
        return await self.pipeline(items, [self.begin, self.go_on])

    def begin(self, previous: StepOutcome | None, item: str) -> AgentStepSpec | None:
        """The item names what its first stage does."""
        assert previous is None
        if item == "crash":
            raise ValueError("no such item")
        return None if item == "nothing" else step(f"begin-{item}", "broken" if item == "failure" else "echo")

    def go_on(self, previous: StepOutcome | None, item: str) -> AgentStepSpec | None:
        """The second stage."""
        if item == "late crash":
            raise ValueError("too late")
        assert previous is not None
        return None if item == "stop" else step(f"go-on-{item}", prompt=f"after {previous.output}")


@workflow.defn
class Looped(AgentWorkflow):
    """A loop that counts how often it was asked."""

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> dict[str, Any]:
        """The last round's outputs, and the rounds that `next` saw."""
        seen: list[list[str]] = []

        def next_round(outcomes: list[StepOutcome]) -> Continue | Stop:
            seen.append([outcome.task_id for outcome in outcomes])
            if len(seen) == plan.get("stop_after"):
                return Stop()
            return Continue([] if plan.get("runs_dry") else [step(f"round-{len(seen)}")])

        last = await self.loop(steps(plan["first"]), plan["cap"], next_round)
        return {"last": [outcome.task_id for outcome in last], "seen": seen}


@workflow.defn
class Undoing(AgentWorkflow):
    """A saga around a phase: two compensations, the first of which fails where it is told to."""

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> str:
        """Works through a phase, and undoes it where that fails or is cancelled."""
        saga = Saga(self)
        try:
            saga.push("first", self.agent, step("undo-first", plan.get("undo", "echo")))
            saga.push("second", self.agent, step("undo-second", plan.get("undo_second", "brief")))
            outcomes = await self.phase("work", steps(plan["count"], plan["agent"]))
            if not all(outcome.success for outcome in outcomes):
                raise RuntimeError("work failed")
        except BaseException as error:
            undone = await saga.compensate()
            if isinstance(error, asyncio.CancelledError):
                raise
            return " ".join(f"{compensation.name}:{compensation.status}" for compensation in undone)
        return "done"


@workflow.defn
class Limited(AgentWorkflow):
    """A deadline around a fan-out, and a verb after it."""

    @workflow.run
    async def run(self, seconds: float) -> list[str]:
        """Whether the deadline came, what the work left, and that the run goes on."""
        ended = await within(self.parallel(steps(10, "slow")), timedelta(seconds=seconds))
        after = await self.agent(step("after"))
        match ended:
            case Finished(outcomes):
                return ["finished", *(outcome.status for outcome in outcomes)]
            case TimedOut(left):
                return ["timed out", repr(left), after.output]


@workflow.defn
class Stubborn(AgentWorkflow):
    """Catches its cancel and calls another verb."""

    @workflow.run
    async def run(self, _: Any) -> str:
        """Whether the verb after the cancel ran."""
        try:
            await self.parallel(steps(3, "slow"))
        except asyncio.CancelledError:
            try:
                await self.agent(step("after"))
            except asyncio.CancelledError:
                return "held up"
        return "ran"


@workflow.defn
class Forgetful(AgentWorkflow):
    """Has an `__init__` that does not call its base class's."""

    def __init__(self) -> None:
        self.note = "forgot"

    @workflow.run
    async def run(self, _: Any) -> str:
        """Never gets anywhere."""
        return (await self.agent(step("never"))).output


@workflow.defn
class Duplicates(AgentWorkflow):
    """Gives a verb the same step twice."""

    @workflow.run
    async def run(self, verb: str) -> str:
        """Never gets anywhere."""
        twice = [step("a"), step("b"), step("a")]
        if verb == "phase":
            await self.phase("twice", twice)
        elif verb == "loop":
            await self.loop(twice, 1, lambda _: Stop())
        else:
            await self.parallel(twice)
        return "ran"


@workflow.defn
class Oversized(AgentWorkflow):
    """Makes a prompt that no history takes."""

    @workflow.run
    async def run(self, characters: int) -> list[StepOutcome]:
        """Its outcome, without the prompt, and one after it."""
        return [await self.agent(step("large", prompt="x" * characters)), await self.agent(step("after"))]


@workflow.defn
class Rolling(AgentWorkflow):
    """Goes through many rounds, as new whenever its history grows long."""

    @workflow.run
    async def run(self, state: dict[str, int]) -> dict[str, Any]:
        """How many rounds there were, and in how many runs."""
        for number in range(state["done"], state["rounds"]):
            await self.phase(f"round {number}", [step(f"s{number}", "metered", "x" * state["bytes"])])
            state = state | {"done": number + 1}
            await self.continue_as_new_if_needed(state | {"runs": state["runs"] + 1})
        return {"rounds": state["done"], "runs": state["runs"]}


@workflow.defn
class Wide(AgentWorkflow):
    """A fan-out of prompts that are large only together."""

    @workflow.run
    async def run(self, plan: dict[str, int]) -> list[int]:
        """The lengths of the answers."""
        outcomes = await self.parallel(
            step(f"s{number}", "echo", "x" * plan["characters"]) for number in range(plan["count"])
        )
        return [len(outcome.output) for outcome in outcomes]


@workflow.defn
class Mistaken(AgentWorkflow):
    """Makes the mistakes that programs make."""

    @workflow.run
    async def run(self, mistake: str) -> Any:
        """What the verb makes of it."""
        match mistake:
            case "a stage that returns a dict":
                wrong: Any = lambda previous, item: {"task_id": item}  # noqa: E731
                return await self.pipeline(["a", "b"], [wrong])
            case "a prompt that cannot be stored":
                outcomes = await self.parallel([step("bad", prompt="\ud800"), step("good")])
                return [(outcome.success, outcome.status) for outcome in outcomes]
            case "next that returns nothing":
                nothing: Any = lambda outcomes: None  # noqa: E731
                return await self.loop(steps(1), 3, nothing)
            case "a log that is no JSON":
                circle: list[Any] = []
                circle.append(circle)
                self.log("info", "\ud800", circle)
                self.log(None, "a", {b"\xff": 1})  # type: ignore[arg-type]
                return "logged"
            case "a deadline that has passed":
                ended = await within(self.agent(step("late")), timedelta(seconds=-1))
                return type(ended).__name__
        raise AssertionError(mistake)


@workflow.defn
class Nested(AgentWorkflow):
    """A deadline inside a deadline: the inner one's work takes its time to end."""

    @workflow.run
    async def run(self, _: Any) -> str:
        """Whether the outer deadline was kept."""

        async def inner() -> str:
            await within(self.agent(step("a", "slow", timeout_seconds=60)), timedelta(seconds=0.3))
            return (await self.agent(step("b", "slow"))).status

        ended = await within(inner(), timedelta(seconds=0.6))
        return type(ended).__name__


@workflow.defn
class Aside(AgentWorkflow):
    """Runs two fan-outs in tasks of its own and waits for one of them."""

    @workflow.run
    async def run(self, _: Any) -> None:
        """Never ends by itself."""
        tasks = [asyncio.create_task(self.parallel(steps(2, "slow"))) for _ in range(2)]
        await tasks[0]


@workflow.defn
class UndoingAsNew(AgentWorkflow):
    """Continues as new inside a `try` that would undo what it did."""

    @workflow.run
    async def run(self, is_second: bool) -> str:
        """Whether anything was undone."""
        if is_second:
            return "as new"
        saga = Saga(self)
        try:
            saga.push("undo", self.agent, step("undo"))
            workflow.continue_as_new(True)
        except BaseException:
            if await saga.compensate():
                return "undone"
            raise
