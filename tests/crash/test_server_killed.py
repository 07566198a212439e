"""The embedded server is killed with SIGKILL, and started again on the same folder and port."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from temporalio.client import Client

from runtime.connect import connect
from runtime.local import free_port
from runtime.settings import Settings
from tests.crash.checks import lawful_finishes, report_of, until_in_flight
from tests.crash.diary import Diary
from tests.crash.histories import finishes, repeated
from tests.crash.processes import Ground
from tests.crash.programs import labour
from tests.support import World, wait_until
from workflows.errors import PerdureError


@pytest.fixture
def own_ground(tmp_path: Path) -> Iterator[Ground]:
    """A ground whose server is the test's own."""
    made = Ground(tmp_path, f"crash-{uuid.uuid4()}", f"127.0.0.1:{free_port()}")
    try:
        yield made
    finally:
        made.leave()


async def reached(address: str) -> Client:
    """A client, once the server serves its namespace."""
    port = int(address.rpartition(":")[2])

    async def holds() -> list[Client]:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return []  # the SDK is not asked before the port is open: it would wait between its attempts
        try:
            return [await connect(Settings(), address=address)]
        except PerdureError:
            return []

    [client] = await wait_until(f"a server answers at {address}", holds)
    return client


async def test_server_killed_in_a_run_and_started_again_loses_nothing(
    own_ground: Ground, diary: Diary, measured: Callable[[str], None]
) -> None:
    """The run completes on the same worker, every finished step is still finished, and none begins again."""
    port = int(own_ground.address.rpartition(":")[2])
    server = own_ground.server(port)
    client = await reached(own_ground.address)
    run = await World(client, own_ground.task_queue).start("Phased", [labour(40, 0.8)], max_concurrency=10)
    own_ground.worker()
    await until_in_flight(diary, run, count=10, finished=10)
    before = {finish.key for finish in await finishes(run)}
    killed = server.kill()
    own_ground.server(port)
    again = (await reached(own_ground.address)).get_workflow_handle(run.id)
    report = await report_of(again)

    assert [outcome.success for outcome in report.outcomes] == [True] * 40
    finished = await lawful_finishes(diary, again)
    assert len(finished) == 40, f"{len(finished)} of 40 steps are in the history"
    forgotten = before - {finish.key for finish in finished}
    assert not forgotten, f"{len(forgotten)} finished steps were forgotten by the server"
    under_way = min(finish.time for finish in finished if finish.key not in before) - killed
    measured(f"under way {under_way:.2f} s after the kill; repeated: {len(repeated(diary.work()))} of 40 steps")
