"""The world of this ring, for every file whose subject needs no programs or agents of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from tests.support import World, served


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    """A worker of our own workflows and of the agents of tests/agents.toml."""
    async with served(client) as world:
        yield world
