"""The world of this ring, its bounds and its command, for every file whose subject needs none of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import structlog
from temporalio.client import Client

import starter
from runtime.connect import connect
from runtime.local import local_server
from runtime.settings import Settings
from tests.commands import AGENTS, COMMAND_SECONDS, MODULE, SERVED, Perdure, Place, Ran, unset
from tests.slices import lower
from tests.support import World, served
from worker import build_worker


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    """A worker of our own workflows and of the agents of tests/agents.toml."""
    async with served(client) as world:
        yield world


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children carry a call from eleven steps on, in slices of six."""
    lower(monkeypatch)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a worker with a task queue and a folder of its own."""
    return Settings(task_queue=f"queue-{uuid.uuid4()}", workspace=tmp_path)


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    """A file with an agent that answers at once, and one that takes a second."""
    file = tmp_path / "agents.toml"
    file.write_text('[agents.echo]\nexecutor = "echo"\n[agents.slow]\nexecutor = "echo"\ndelay_seconds = 1\n')
    return file


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A folder with agents and a workflow of its own, and its server, which `--local` joins."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "agents.toml").write_text(AGENTS)
    (folder / "greeting.py").write_text(MODULE)
    async with local_server(folder / ".perdure") as server:
        yield Place(folder, server.address)


@pytest.fixture(scope="module")
def serving(place: Place) -> Iterator[None]:
    """A worker in a thread of its own, as the commands take the main one with its signals."""
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        leave = asyncio.Event()
        settings = Settings(task_queue=SERVED, agents=place.folder / "agents.toml", drain_seconds=1)
        async with build_worker(await connect(settings, address=place.address), settings):
            ready.set_result((asyncio.get_running_loop(), leave))
            await leave.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, leave = ready.result(COMMAND_SECONDS)
    yield
    loop.call_soon_threadsafe(leave.set)
    thread.join(COMMAND_SECONDS)


@pytest.fixture
def perdure(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Perdure]:
    """The command, called in this process; what it sets for its process is put back."""
    for name in os.environ.keys() - unset().keys():
        monkeypatch.delenv(name)
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    root, configured = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level

    def call(*arguments: str) -> Ran:
        code = starter.invoke(arguments)
        return Ran(code, *capsys.readouterr())

    yield call
    root.handlers[:], root.level = handlers, level
    structlog.configure(**configured)


@pytest.fixture
def remote(serving: None, perdure: Perdure, place: Place, monkeypatch: pytest.MonkeyPatch) -> Perdure:
    """The command against a service that has a worker."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", place.address)
    monkeypatch.setenv("PERDURE_TASK_QUEUE", SERVED)
    return perdure
