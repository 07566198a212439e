"""Real processes, to be killed: workers started as a user starts them, and the embedded server on a port of its own.

Law: only processes that were started here are ever signalled, by their own process group; none is left behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runtime.local import find_temporal, server_arguments

ROOT = Path(__file__).parents[2]
AGENTS = Path(__file__).with_name("agents.toml")
PROGRAMS = "tests.crash.programs"

END_SECONDS = 30.0
# A worker drains for as long; a test that needs it is a test that fails.

SHOWN_CHARACTERS = 4_000
# The end of a log: a traceback and the lines before it.


@dataclass
class Process:
    """A process of ours, the leader of its own group."""

    popen: subprocess.Popen[bytes]
    log: Path
    started: float
    """Seconds since the epoch."""

    @classmethod
    def start(cls, command: list[str], environ: dict[str, str], *, folder: Path, log: Path) -> Process:
        """Start a command in a folder; what it says goes to the log."""
        with log.open("ab") as said:
            started = time.time()
            popen = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment() | environ,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # its group is its own, so that a signal reaches it and its children only
            )
        return cls(popen, log, started)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the group, unless the process has ended and was waited for."""
        if self.popen.poll() is None:
            with suppress(ProcessLookupError):  # it ended in between
                os.killpg(self.popen.pid, number)

    def kill(self) -> float:
        """End it at once, as the kernel does when memory runs out; when that was."""
        self.signal(signal.SIGKILL)
        self.popen.wait(END_SECONDS)
        return time.time()

    async def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        return await asyncio.to_thread(self.popen.wait, END_SECONDS)

    def said(self) -> str:
        """The end of its log, for messages."""
        return self.log.read_text(errors="replace")[-SHOWN_CHARACTERS:]


def _environment() -> dict[str, str]:
    """This process's, without what would point perdure or the SDK elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_"))}
    return kept | {"PYTHONPATH": str(ROOT), "PERDURE_LOG_FORMAT": "json"}


class Ground:
    """A folder, a task queue and an address, and every process that was started on them."""

    def __init__(self, folder: Path, task_queue: str, address: str) -> None:
        self.folder, self.task_queue, self.address = folder, task_queue, address
        self.processes: list[Process] = []

    def worker(self, **environ: str) -> Process:
        """Start a worker, as a user does, with settings in its environment."""
        options = {
            "--agents": str(AGENTS),
            "--workflows": PROGRAMS,
            "--task-queue": self.task_queue,
            "--address": self.address,
            "--blobs": "blobs",
        }
        command = [sys.executable, str(ROOT / "worker.py"), *(word for pair in options.items() for word in pair)]
        return self._start(command, environ, f"worker-{len(self.processes)}.log")

    def server(self, port: int) -> Process:
        """Start the embedded server on a port, over the folder's database."""
        command = [find_temporal(), *server_arguments(self.folder / "temporal.db", port, None)]
        return self._start(command, {}, "server.log")

    def _start(self, command: list[str], environ: dict[str, str], log: str) -> Process:
        process = Process.start(command, environ, folder=self.folder, log=self.folder / log)
        self.processes.append(process)
        return process

    def leave(self) -> None:
        """Kill whatever still runs, and check that no group has a process left. A failed test shows what they said."""
        for process in self.processes:
            process.kill()
            print(f"{process.log.name}, process {process.pid}: {process.said()}")
        left = [process.pid for process in self.processes if _group_lives(process.pid)]
        assert not left, f"processes of the groups {left} outlived their leaders"


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
