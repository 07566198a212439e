"""Priority and fairness: what a run says of itself stands on all that it schedules."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowHandle
from temporalio.common import Priority

from tests.programs import FanOut, step, steps
from tests.support import World, rejection_of, served

ROOT = Path(__file__).parents[2]

URGENT: dict[str, Any] = {"priority": 1, "fairness_key": "team-a", "fairness_weight": 2.5}
ASKED = Priority(priority_key=1, fairness_key="team-a", fairness_weight=2.5)

GRAPH = {
    "id": "all",
    "name": "Every activity of a graph",
    "start": "ask",
    "stages": [
        {"id": "ask", "step": {"type": "pattern", "pattern": "vote", "task": "hi", "agents": [{"name": "echo"}]}},
        {"id": "new", "step": {"type": "dedup", "items_from": "items", "into": "unseen", "store": "priority"}},
        {
            "id": "act",
            "step": {
                "type": "proposal",
                "proposal": {
                    "actions": [{"type": "tool_call", "tool": "calculate", "parameters": {"expression": "1 + 1"}}]
                },
            },
        },
    ],
    "edges": [{"from": "ask", "to": "new"}, {"from": "new", "to": "act"}],
    "initial_state": {"items": ["a"]},
}
"""A graph that schedules each kind of activity."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(client, FanOut) as world:
        yield world


async def scheduled(handle: WorkflowHandle[Any, Any]) -> list[tuple[str, Priority]]:
    """Each activity that a run scheduled, with its priority."""
    attributes = [
        event.activity_task_scheduled_event_attributes
        async for event in handle.fetch_history_events()
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    return [(each.activity_type.name, Priority._from_proto(each.priority)) for each in attributes]


async def test_priority_stands_on_every_activity_of_a_run(world: World) -> None:
    """Steps, tool calls and what the engine asks for itself all carry the run's priority and fairness."""
    handle = await world.start("StageGraph", GRAPH, **URGENT)
    await handle.result()
    assert await scheduled(handle) == [("run_agent_step", ASKED), ("claim_unseen", ASKED), ("run_action", ASKED)]


async def test_priority_that_is_unset_leaves_activities_as_they_were(world: World) -> None:
    """A run without the options schedules as before: Temporal's own middle, or what its start said."""
    handle = await world.start("FanOut", steps(2), max_concurrency=2)
    await handle.result()
    assert await scheduled(handle) == [("run_agent_step", Priority.default)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"priority": 6},
            "memo perdure_options: 'priority' is 6; input should be less than or equal to 5.",
            id="no such level",
        ),
        pytest.param(
            {"fairness_key": "k" * 65},
            f"memo perdure_options: 'fairness_key' is '{'k' * 65}'; it takes 65 bytes, and Temporal takes 64.",
            id="long key",
        ),
        pytest.param(
            {"fairness_weight": 2},
            "memo perdure_options: 'fairness_weight' is 2; it is the weight of a fairness_key, and there is none.",
            id="weight of nothing",
        ),
    ],
)
async def test_priority_that_cannot_be_is_refused(world: World, options: dict[str, Any], message: str) -> None:
    """The run fails by name before anything is scheduled; the server would refuse it task after task."""
    handle = await world.start("FanOut", [step("a")], **options)
    assert await rejection_of(handle) == ("OptionsRejected", message)
    assert await scheduled(handle) == []


async def test_priority_of_the_command_stands_on_the_run_and_its_steps(world: World) -> None:
    """`perdure run --priority` sets the run's own tasks too, so that a backlog of runs is passed as one of steps is."""
    flags = ["--priority", "1", "--fairness-key", "team-a", "--fairness-weight", "2.5"]
    ran = await perdure(world, "run", "FanOut", json.dumps([{"task_id": "a", "agent": "echo", "prompt": "a"}]), *flags)
    handle = world.client.get_workflow_handle(ran["id"])
    await handle.result()
    started = (await anext(handle.fetch_history_events())).workflow_execution_started_event_attributes
    assert Priority._from_proto(started.priority) == ASKED
    assert await scheduled(handle) == [("run_agent_step", ASKED)]


async def perdure(world: World, *arguments: str) -> Any:
    """What the command says as JSON, in a process of its own that only starts the run."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_"))}
    environ |= {
        "TEMPORAL_ADDRESS": world.client.service_client.config.target_host,
        "PERDURE_TASK_QUEUE": world.task_queue,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "starter.py",
        *arguments,
        "--detach",
        "--json",
        cwd=ROOT,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return json.loads(out)
