"""Heartbeats go on while the event loop that agents run on does not."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs
from temporalio.client import Client

from activities.context import StepContext
from tests.support import served
from workflows import AgentStepSpec, RetryableStepError
from workflows.calls import HEARTBEAT_TIMEOUT

BACK_AFTER = timedelta(seconds=1)
BUSY_SECONDS = (HEARTBEAT_TIMEOUT + BACK_AFTER).total_seconds() + 2
AGENTS = f"""
[agents.patient]
executor = "function"
function = "{__name__}:patient"

[agents.early]
executor = "function"
function = "{__name__}:early"

[agents.busy]
executor = "function"
function = "{__name__}:busy"
"""

waits, was_refused, is_done = asyncio.Event(), asyncio.Event(), asyncio.Event()
begun: list[int] = []


async def patient(step: AgentStepSpec) -> str:
    waits.set()
    await is_done.wait()
    return "done"


async def early(step: AgentStepSpec, context: StepContext) -> str:
    begun.append(context.attempt)
    if context.attempt == 1:
        was_refused.set()
        raise RetryableStepError("not yet", after=BACK_AFTER)
    return "done"


async def busy(step: AgentStepSpec) -> str:
    await waits.wait()
    await was_refused.wait()
    await asyncio.sleep(BACK_AFTER.total_seconds() / 2)  # its failure must be told before the loop stands still
    time.sleep(BUSY_SECONDS)  # noqa: ASYNC251 - what must cost nobody an attempt
    is_done.set()
    return "done"


async def test_loop_that_stands_still_costs_no_step_its_attempt(client: Client) -> None:
    """An agent holds the loop for longer than Temporal waits for a heartbeat: neither it nor its neighbour is lost.
    An attempt that came meanwhile was given up before it could begin, and so never begins.
    """
    steps = [{"task_id": name, "agent": name, "prompt": "p"} for name in ("patient", "early", "busy")]
    with capture_logs() as logs:
        async with served(client, agents=AGENTS) as world:
            report: dict[str, Any] = await world.run("Steps", [{"name": "all", "steps": steps}])
    told = [(one["output"], one["success"], one.get("attempts", 1)) for one in report["phases"][0]["outcomes"]]
    assert told == [("done", True, 1), ("done", True, 3), ("done", True, 1)]
    assert begun == [1, 3]
    [warning] = [line for line in logs if line["event"].startswith("The event loop stood still")]
    assert warning["async_agents"] == ["busy", "patient"]
    assert warning["seconds"] >= BUSY_SECONDS - 1
    assert warning["at"].startswith("test_heartbeats.py:")
