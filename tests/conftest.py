"""One server and one client for the whole session; every test has a task queue and runs of its own."""

import gc
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest
from temporalio.client import Client

from runtime.connect import connect
from runtime.local import LocalServer, local_server
from runtime.settings import Settings
from runtime.tuning import collect_seldom

# A property that takes long on a machine which does much else beside it is no worse a property.
hypothesis.settings.register_profile(
    "ring", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("ring")


@pytest.fixture(scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalServer]:
    async with local_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
async def client(server: LocalServer) -> Client:
    return await connect(Settings(), address=server.address)


@pytest.fixture(scope="session", autouse=True)
def collecting() -> None:
    """As in every worker: a session holds millions of objects, and a collection of all of them takes over a second."""
    collect_seldom()


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Between two files, where no workflow has two seconds to come to an end in."""
    yield
    gc.collect()
