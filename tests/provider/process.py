"""The provider as a process of its own, so that it goes on counting while workers and servers are killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.provider.ledger import Ledger

ROOT = Path(__file__).parents[2]
START_SECONDS = 20.0
# Two slow cores, and no model library to load.


@dataclass(frozen=True)
class ProviderProcess:
    """A provider that runs elsewhere."""

    port: int
    ledger: Ledger
    pid: int

    def url(self, label: str = "") -> str:
        """The base URL for a client; the ledger knows its calls by the label."""
        return f"http://127.0.0.1:{self.port}/{label}/v1" if label else f"http://127.0.0.1:{self.port}/v1"


@asynccontextmanager
async def provider_process(script: str, folder: Path, *, port: int = 0) -> AsyncIterator[ProviderProcess]:
    """Start a provider with its script, its ledger and its log in a folder; killed at the end.

    `script` is the text of a Python module that defines `script`; it may import from `tests.provider`.
    """
    script_file, ledger_file = folder / "provider_script.py", folder / "provider.sqlite"
    script_file.write_text(script)
    command = ("-m", "tests.provider", "--port", str(port), "--script", str(script_file), "--ledger", str(ledger_file))
    with (folder / "provider.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # a signal for the test's group does not reach it
        )
    try:
        ledger = await _started(process, ledger_file, folder / "provider.log")
        yield ledger
        ledger.ledger.close()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _started(process: asyncio.subprocess.Process, ledger: Path, log: Path) -> ProviderProcess:
    assert process.stdout is not None
    async with asyncio.timeout(START_SECONDS):
        line = await process.stdout.readline()
    assert line, f"the provider ended instead of serving; {log} says why"
    return ProviderProcess(port=json.loads(line)["port"], ledger=Ledger(ledger), pid=process.pid)
