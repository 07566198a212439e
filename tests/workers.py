"""What the tests of workers share: clients with settings, and `perdure-worker` as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHandle

from runtime import PerdurePlugin, connect
from runtime.local import LocalServer
from runtime.plugin import workflow_name
from runtime.settings import Settings
from tests.support import wait_until
from workflows import ALL_WORKFLOWS

ROOT = Path(__file__).parents[1]
SAMPLES = "tests.workflow.worker_samples"
OURS = [str(workflow_name(served)) for served in ALL_WORKFLOWS]
"""The types that every worker serves."""

SAID_SECONDS = 20.0
# Far more than a worker takes to say anything here; a test that needs it is a test that fails.


async def client_for(server: LocalServer, settings: Settings, *plugins: PerdurePlugin) -> Client:
    """A client with these settings."""
    return await connect(settings, address=server.address, namespace=server.namespace, plugins=plugins)


def new_id() -> str:
    """A workflow id that no run has had."""
    return f"run-{uuid.uuid4()}"


def free_address() -> str:
    """An address that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@dataclass
class WorkerProcess:
    """A `perdure-worker` and the lines that it writes."""

    process: asyncio.subprocess.Process

    async def until(self, event: str) -> dict[str, Any]:
        """The first line of this event that is still to come."""
        assert self.process.stderr is not None
        seen = []
        async with asyncio.timeout(SAID_SECONDS):
            async for line in self.process.stderr:
                seen.append(line.decode())
                if line.startswith(b"{") and json.loads(line)["event"] == event:
                    return dict(json.loads(line))
        raise AssertionError(f"the worker ended without {event!r}; it wrote:\n{''.join(seen)}")

    async def exit_code(self) -> int:
        """How it ended."""
        return (await self.ended())[1]

    async def ended(self) -> tuple[str, int]:
        """What it still wrote, and its exit code."""
        assert self.process.stderr is not None
        async with asyncio.timeout(SAID_SECONDS):
            said = await self.process.stderr.read()
            return said.decode(), await self.process.wait()


@asynccontextmanager
async def worker_process(*arguments: str, **environ: str) -> AsyncIterator[WorkerProcess]:
    """A worker with these arguments and variables; on leaving, it is gone."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "worker.py",
        *arguments,
        cwd=ROOT,
        env={**os.environ, "PERDURE_LOG_FORMAT": "json", **environ},
        stderr=subprocess.PIPE,
    )
    try:
        yield WorkerProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def step_has_begun(handle: WorkflowHandle[Any, Any]) -> None:
    """Wait until a worker has taken a step of the run."""

    async def begun() -> bool:
        pending = (await handle.describe()).raw_description.pending_activities
        return bool(pending) and pending[0].HasField("last_started_time")

    await wait_until("a step has begun", begun)
