"""Model agents with the tools of an MCP server: a real server, and a provider that says what to call."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from temporalio.client import Client

from tests.provider import Provider, Script, call_tool, last_text
from tests.support import World, served, wait_until

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def workshop(client: Client, blobs: Path, script: Script) -> AsyncIterator[tuple[World, Provider]]:
    """A worker whose agent 'smith' asks the scripted provider and has the tools of a server."""
    async with Provider.serve(script) as provider:
        agents = f"""
            [mcp.workshop]
            command = ["{sys.executable}", "-m", "tests.mcp_server"]
            env = {{ PYTHONPATH = "{ROOT}" }}

            [agents.smith]
            executor = "model"
            model = "scripted"
            base_url = "{provider.url("smith")}"
            tools = ["workshop"]
        """
        async with served(client, agents=agents, blobs=blobs) as world:
            yield world, provider


async def outcome_of(world: World) -> dict[str, Any]:
    phases = [{"name": "forge", "steps": [{"task_id": "one", "agent": "smith", "prompt": "make it"}]}]
    report = await world.run("Steps", phases)
    outcome: dict[str, Any] = report["phases"][0]["outcomes"][0]
    return outcome


async def test_agent_calls_the_tools_of_a_server(client: Client, tmp_path: Path) -> None:
    """The server is offered to the model, called over one connection, and gone when the worker is."""
    async with workshop(client, tmp_path, call_tool("whoami", 3, then="made")) as (world, provider):
        outcome = await outcome_of(world)
        pids = {json.loads(last_text(request, "tool"))["pid"] for request in provider.requests[1:]}
        offered = {tool["function"]["name"] for tool in provider.requests[0]["tools"]}
    assert (outcome["output"], outcome["usage"]["tool_calls"]) == ("made", 3)
    assert {"add", "describe", "wait", "whoami"} <= offered
    assert len(pids) == 1
    assert not _lives(pids.pop())


async def test_agent_is_told_that_its_server_died(client: Client, tmp_path: Path) -> None:
    """A call in flight fails, the model hears why, and its next call has a new server."""
    file = tmp_path / "pid"
    async with workshop(client, tmp_path, call_tool("wait", 2, {"file": str(file), "for_seconds": 0.5})) as (
        world,
        provider,
    ):
        running = asyncio.create_task(outcome_of(world))
        os.kill(int(await wait_until("the call has begun", lambda: _written(file))), signal.SIGKILL)
        outcome = await running
        heard = [last_text(request, "tool") for request in provider.requests[1:]]
    assert outcome["output"] == "done"
    assert len(heard) == 2
    assert "MCP server 'workshop' was lost while it ran 'wait'. The call may have had its effect." in heard[0]
    assert heard[1] == "waited"


async def _written(file: Path) -> str:
    return file.read_text() if file.exists() else ""  # noqa: ASYNC240 - a few bytes


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
