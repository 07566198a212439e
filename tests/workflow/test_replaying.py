"""Whether tomorrow's code still runs yesterday's histories: a verdict for each, and nothing that is said twice."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from temporalio import workflow
from temporalio.client import WorkflowHandle

from activities.registry import Registry
from runtime import logs
from runtime.local import LocalServer
from runtime.replaying import ReplayVerdict, replay_histories
from runtime.settings import Settings
from tests.workers import OURS, client_for, new_id
from tests.workflow.worker_samples import Greeting, Typed
from worker import build_worker


async def test_replay_tells_for_each_history_whether_it_still_runs(
    server: LocalServer, settings: Settings, agents: Path
) -> None:
    """Verdicts come in the histories' order: one that runs, one whose code changed, one whose type is gone."""
    client = await client_for(server, settings)
    async with build_worker(client, settings, registry=Registry.load(agents), workflows=[Greeting]):
        handle: WorkflowHandle[Any, Any] = await client.start_workflow(
            Greeting.run, "Ada", id=new_id(), task_queue=settings.task_queue
        )
        await handle.result()
    history = await handle.fetch_history()
    assert await replay_histories([history], [Greeting]) == [ReplayVerdict(handle.id, "Greeting")]

    (changed,) = await replay_histories([history], [Changed])
    assert (changed.workflow_id, changed.workflow_type) == (handle.id, "Greeting")
    assert changed.failure is not None
    assert re.match("NondeterminismError: .*Nondeterminism", changed.failure)

    known = ", ".join(repr(name) for name in sorted(["Typed", *OURS]))
    assert await replay_histories([history], [Typed]) == [
        ReplayVerdict(
            handle.id,
            "Greeting",
            f"No workflow of the type 'Greeting' is known here. The types are {known}. Name its module.",
        )
    ]


async def test_replay_logs_nothing_twice(
    server: LocalServer, settings: Settings, agents: Path, json_log: io.StringIO
) -> None:
    """What a workflow says, it says when it happens, and not again when its history is run through."""
    client = await client_for(server, settings)
    async with build_worker(client, settings, registry=Registry.load(agents), workflows=[Greeting]):
        handle = await client.start_workflow(Greeting.run, "Ada", id=new_id(), task_queue=settings.task_queue)
        await handle.result()
    assert json_log.getvalue().count("greeting begins") == 1
    assert (await replay_histories([await handle.fetch_history()], [Greeting]))[0].failure is None
    assert json_log.getvalue().count("greeting begins") == 1


@pytest.fixture
def json_log() -> Iterator[io.StringIO]:
    """What the process logs."""
    stream, root = io.StringIO(), logging.getLogger()
    before, level = list(root.handlers), root.level
    logs.configure("info", "json", stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


@workflow.defn(name="Greeting")
class Changed:
    """Greeting after a change that its histories do not survive."""

    @workflow.run
    async def run(self, name: str) -> str:
        """Return without a step."""
        return name
