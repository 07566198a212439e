"""One server and one client for the whole session; every test has a task queue and runs of its own."""

from collections.abc import AsyncIterator

import hypothesis
import pytest
from temporalio.client import Client

from runtime.connect import connect
from runtime.local import local_server
from runtime.settings import Settings

# A property that takes long on a machine which does much else beside it is no worse a property.
hypothesis.settings.register_profile(
    "ring", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("ring")


@pytest.fixture(scope="session")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with local_server(tmp_path_factory.mktemp("server")) as server:
        yield await connect(Settings(), address=server.address)
