"""A ground for each test: a folder and a task queue of its own, on the session's embedded server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.crash.diary import Diary
from tests.crash.processes import Ground
from tests.support import World

MEASURED = pytest.StashKey[list[str]]()


@pytest.fixture
def ground(tmp_path: Path, client: Client) -> Iterator[Ground]:
    """Where workers are started; on leaving, none of them is left."""
    made = Ground(tmp_path, f"crash-{uuid.uuid4()}", client.service_client.config.target_host)
    try:
        yield made
    finally:
        made.leave()


@pytest.fixture
def world(client: Client, ground: Ground) -> World:
    """Starts runs on the ground's task queue; who serves it is the test's affair."""
    return World(client, ground.task_queue)


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    """What the ground's agents did."""
    return Diary(tmp_path)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes down a figure, for the end of the session's report."""
    figures = request.config.stash.setdefault(MEASURED, [])
    return lambda figure: figures.append(f"{request.node.name}: {figure}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what was measured."""
    figures = config.stash.get(MEASURED, [])
    if figures:
        terminalreporter.section("measured")
        for figure in figures:
            terminalreporter.line(figure)
