"""What the rings share: a world of scripted agents, a worker that serves it, and waiting without sleeping.

Workers are built by `worker.build_worker`, so that what is tested is what is served.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from activities.registry import Registry
from runtime.settings import Settings
from worker import build_worker
from workflows import wire

T = TypeVar("T")

AGENTS = Path(__file__).with_name("agents.toml")
WAIT_SECONDS = 30.0
# Far more than anything here takes; a test that needs it is a test that fails.


async def wait_until(what: str, holds: Callable[[], Awaitable[T]], seconds: float = WAIT_SECONDS) -> T:
    """The first truthy answer of `holds`; fails with the last one after the limit."""
    deadline = time.monotonic() + seconds
    while not (answer := await holds()):
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}; last seen: {answer!r}"
        await asyncio.sleep(0.05)
    return answer


@dataclass(frozen=True)
class World:
    """A worker of our workflows and scripted agents on a task queue of its own."""

    client: Client
    task_queue: str

    async def start(self, workflow: str, argument: Any = None, **options: Any) -> WorkflowHandle[Any, Any]:
        """Start a run, as any client would: by names, with plain JSON and options in the memo."""
        return await self.client.start_workflow(
            workflow,
            argument,
            id=f"{workflow}-{uuid.uuid4()}",
            task_queue=self.task_queue,
            memo={wire.OPTIONS_MEMO: options} if options else None,
        )

    async def run(self, workflow: str, argument: Any = None, **options: Any) -> Any:
        """Start a run and return its result, as JSON."""
        return await (await self.start(workflow, argument, **options)).result()


@asynccontextmanager
async def served(
    client: Client, *workflows: type, agents: str | None = None, blobs: Path | None = None, **options: Any
) -> AsyncIterator[World]:
    """A worker that serves the given workflows, and the agents of tests/agents.toml or of the given text."""
    task_queue = f"test-{uuid.uuid4()}"
    settings = Settings(task_queue=task_queue, blobs=None if blobs is None else str(blobs), drain_seconds=1)
    async with build_worker(client, settings, registry=_registry(agents), workflows=workflows, **options):
        yield World(client, task_queue)


def _registry(agents: str | None) -> Registry:
    if agents is None:
        return Registry.load(AGENTS)
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(agents)
        file.flush()
        return Registry.load(file.name)


async def failure_of(handle: WorkflowHandle[Any, Any]) -> BaseException:
    """Why a run ended without a result."""
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert failed.value.cause is not None
    return failed.value.cause


async def rejection_of(handle: WorkflowHandle[Any, Any]) -> tuple[str | None, str]:
    """Type and message of the ApplicationError that a run failed with."""
    cause = await failure_of(handle)
    assert isinstance(cause, ApplicationError), repr(cause)
    return cause.type, cause.message


async def events_of(handle: WorkflowHandle[Any, Any], kind: str | None = None) -> list[dict[str, Any]]:
    """Everything that a run has told so far, or the events of one type."""
    page = await handle.query(wire.EVENTS_QUERY)
    events = [envelope["event"] for envelope in page["events"]]
    return [event for event in events if kind in (None, event["type"])]


async def event_types(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """The types of a run's events, in order."""
    return [event["type"] for event in await events_of(handle)]
