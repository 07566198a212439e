"""The world of this ring, and its bounds, for every file whose subject needs none of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from runtime.settings import Settings
from tests.slices import lower
from tests.support import World, served


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
