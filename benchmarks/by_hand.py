"""The same work without perdure's verbs: what an experienced user of the SDK would write by hand.

Fair by construction: the same activity, models, converter, timeouts, retry policy and window; no summaries.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy

from workflows.steps import AgentStepSpec, StepCall, StepOutcome

SLICE_STEPS, SLICES_AT_ONCE = 400, 4
# As the verbs divide a call.


async def _step(spec: AgentStepSpec) -> StepOutcome:
    outcome: StepOutcome = await workflow.execute_activity(
        "run_agent_step",
        StepCall(spec=spec, key=str(workflow.uuid4())),
        result_type=StepOutcome,
        start_to_close_timeout=timedelta(hours=24),
        heartbeat_timeout=timedelta(seconds=6),
        retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=30)),
    )
    return outcome


async def _side_by_side(specs: list[AgentStepSpec], window: int) -> list[StepOutcome]:
    slots = asyncio.Semaphore(window)

    async def one(spec: AgentStepSpec) -> StepOutcome:
        async with slots:
            return await _step(spec)

    return await asyncio.gather(*(one(spec) for spec in specs))


@workflow.defn
class FanOutByHand:
    """Steps side by side."""

    @workflow.run
    async def run(self, specs: list[AgentStepSpec], window: int) -> list[StepOutcome]:
        """The outcomes, in the order of the specs."""
        return await _side_by_side(specs, window)


@workflow.defn
class SequenceByHand:
    """Steps one after the other."""

    @workflow.run
    async def run(self, specs: list[AgentStepSpec], window: int) -> list[StepOutcome]:
        """The outcomes, in the order of the specs."""
        return [await _step(spec) for spec in specs]


@workflow.defn
class LoopByHand:
    """One agent that asks its model in an activity for each call, as the plugins of agent frameworks do, and calls each
    tool in one. An activity that loses its worker is tried again from the history, which therefore holds what it was
    given: the conversation so far."""

    @workflow.run
    async def run(self, prompt: str) -> str:
        """The model's last answer."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
        while True:
            answer = await _called("ask_model", messages, dict[str, Any])
            messages.append(answer)
            if not answer.get("tool_calls"):
                return str(answer["content"])
            for call in answer["tool_calls"]:
                text = await _called("call_page", call["function"]["arguments"], str)
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})


async def _called(activity: str, argument: Any, kind: Any) -> Any:
    return await workflow.execute_activity(
        activity,
        argument,
        result_type=kind,
        start_to_close_timeout=timedelta(minutes=10),
        retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=30)),
    )


@workflow.defn
class SliceByHand:
    """Some of the steps of `WideByHand`."""

    @workflow.run
    async def run(self, specs: list[AgentStepSpec], window: int) -> list[StepOutcome]:
        """The outcomes, in the order of the specs."""
        return await _side_by_side(specs, window)


@workflow.defn
class WideByHand:
    """More steps than one history holds: child workflows of 400 each, four at once."""

    @workflow.run
    async def run(self, count: int, window: int) -> int:
        """How many steps succeeded."""
        slots = asyncio.Semaphore(SLICES_AT_ONCE)

        async def one(first: int) -> list[StepOutcome]:
            async with slots:
                outcomes: list[StepOutcome] = await workflow.execute_child_workflow(
                    SliceByHand.run,
                    args=[specs(first, min(first + SLICE_STEPS, count)), window // SLICES_AT_ONCE],
                    id=f"{workflow.info().workflow_id}/{first}",
                )
                return outcomes

        slices = await asyncio.gather(*(one(first) for first in range(0, count, SLICE_STEPS)))
        return sum(outcome.success for outcomes in slices for outcome in outcomes)


def specs(first: int, end: int) -> list[AgentStepSpec]:
    """Echo steps with a short prompt each."""
    return [
        AgentStepSpec(task_id=f"step-{number}", agent="echo", prompt=f"prompt {number}") for number in range(first, end)
    ]
