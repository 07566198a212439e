"""A worker as one writes it by hand: the same workflow and an activity that answers with its prompt.

`python -m benchmarks.hand_worker ADDRESS TASK_QUEUE` serves until it is killed.
"""

from __future__ import annotations

import asyncio
import sys

from temporalio import activity
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from benchmarks.by_hand import FanOutByHand
from workflows.steps import StepCall, StepOutcome


@activity.defn
async def run_agent_step(call: StepCall) -> StepOutcome:
    """The prompt."""
    return StepOutcome(task_id=call.spec.task_id, agent=call.spec.agent, output=call.spec.prompt, success=True)


async def _serve(address: str, task_queue: str) -> None:
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    restrictions = SandboxRestrictions.default.with_passthrough_modules("benchmarks", "pydantic", "workflows")
    worker = Worker(
        client,
        task_queue=task_queue,
        workflows=[FanOutByHand],
        activities=[run_agent_step],
        workflow_runner=SandboxedWorkflowRunner(restrictions=restrictions),
    )
    await worker.run()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
