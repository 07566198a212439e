"""The world of this ring, and its bounds, for every file whose subject needs none of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

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
