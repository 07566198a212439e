"""Reading runs that are encrypted, stuck, failed at their input or long; the command in a process of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.client import Client, WorkflowHandle

from activities.registry import Registry
from runtime.codec import key_id
from runtime.connect import connect
from runtime.recall import recall
from runtime.settings import Settings
from tests.commands import COMMAND_SECONDS, STARTER, Ran, unset
from tests.support import served, wait_until
from tests.workflow.reading_samples import Chatty, Stuck
from worker import build_worker

SAMPLES = "tests.workflow.reading_samples"
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
PHASES = [{"name": "one", "steps": [{"task_id": "a", "agent": "nobody", "prompt": "p"}]}]

Perdure = Callable[..., Awaitable[Ran]]


def text_of(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.fixture
def perdure(client: Client, tmp_path: Path) -> Perdure:
    """The command as a process in a folder of its own, against the session's server."""
    address = client.service_client.config.target_host

    async def call(*arguments: str, **environ: str) -> Ran:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(STARTER),
            *arguments,
            cwd=tmp_path,
            env={**unset(), "PYTHONPATH": str(STARTER.parent), "TEMPORAL_ADDRESS": address, **environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS)
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())

    return call


@asynccontextmanager
async def sealing(client: Client) -> AsyncIterator[tuple[Client, Settings]]:
    """A client with a key and a worker that serves it."""
    settings = Settings(task_queue=f"sealed-{uuid.uuid4()}", codec_key=SecretStr(text_of(KEY)), drain_seconds=1)
    sealed = await connect(settings, address=client.service_client.config.target_host)
    async with build_worker(sealed, settings, registry=Registry.empty(), workflows=[Stuck]):
        yield sealed, settings


@pytest.fixture(scope="module")
async def sealed_run(client: Client) -> str:
    """The id of an encrypted run that has ended."""
    async with sealing(client) as (sealed, settings):
        handle = await sealed.start_workflow(
            "Steps", PHASES, id=f"sealed-{uuid.uuid4()}", task_queue=settings.task_queue
        )
        await handle.result()
    return handle.id


NO_KEY = (
    f"A payload is encrypted with the key {key_id(KEY)!r}, and there is none here. Set PERDURE_CODEC_KEY to that key.\n"
)
WRONG_KEY = (
    f"A payload is encrypted with the key {key_id(KEY)!r}, and the keys here are {key_id(OTHER_KEY)!r}. "
    "Set PERDURE_CODEC_KEY to the missing one, or add it to PERDURE_CODEC_KEYS_OLD.\n"
)


@pytest.mark.parametrize("subcommand", ["result", "show", "events"])
@pytest.mark.parametrize(
    ("environ", "message"),
    [({}, NO_KEY), ({"PERDURE_CODEC_KEY": text_of(OTHER_KEY)}, WRONG_KEY)],
    ids=["no key", "wrong key"],
)
async def test_encrypted_run_is_not_read_without_its_key(
    perdure: Perdure, sealed_run: str, subcommand: str, environ: dict[str, str], message: str
) -> None:
    """One sentence names the key and where to set it; exit 2."""
    assert await perdure(subcommand, sealed_run, **environ) == Ran(2, "", message)


async def test_encrypted_run_is_read_with_its_key(perdure: Perdure, sealed_run: str) -> None:
    """With the key it reads as any other."""
    ran = await perdure("result", sealed_run, "--json", PERDURE_CODEC_KEY=text_of(KEY))
    assert (ran.code, ran.err) == (1, "")
    assert json.loads(ran.out)["result"]["failed"] == 1


async def test_stuck_run_tells_what_its_code_fails_with(client: Client, perdure: Perdure) -> None:
    """Also where the failure is encrypted."""
    async with sealing(client) as (sealed, settings):
        handle = await sealed.start_workflow(
            "Stuck", "the pump is broken", id=f"stuck-{uuid.uuid4()}", task_queue=settings.task_queue
        )
        await _failing(handle)
        shown = await perdure("show", handle.id, "--json", PERDURE_CODEC_KEY=text_of(KEY))
        await handle.terminate()
    assert (shown.code, json.loads(shown.out)["notice"]) == (
        0,
        f"Run {handle.id!r} cannot go on; its workflow code fails and is tried again: the pump is broken.",
    )


async def _failing(handle: WorkflowHandle[Any, Any]) -> None:
    async def is_tried_again() -> bool:
        return (await handle.describe()).raw_description.pending_workflow_task.attempt > 1

    await wait_until("the workflow task is tried again", is_tried_again)


async def test_run_that_fails_at_its_input_ends_at_once(perdure: Perdure) -> None:
    """A typed input that does not fit is told as the run's failure, and nothing of the SDK's own troubles with it."""
    ran = await perdure("run", f"{SAMPLES}:Chatty", '"many"', "--local", "--id", "wrong", TEMPORAL_ADDRESS="")
    assert ran.code == 1
    assert [line for line in ran.err.splitlines() if not line.startswith("Temporal UI: ")] == [
        "Run 'wrong' has started."
    ]
    (line,) = ran.out.splitlines()
    assert line.startswith("Run 'wrong' failed after ")
    assert float(line.split()[4]) < 8, "its first workflow task was tried again after 10 s"
    assert ": 1 validation error for int Input should be a valid integer" in line


async def test_recall_reads_every_page_of_events_in_one_replay(client: Client) -> None:
    """A run that told more than a page holds is read whole."""
    async with served(client, Chatty) as world:
        handle = await world.start("Chatty", 2_500)
        assert await handle.result() == 2_500
    history = await handle.fetch_history()
    answers = await recall(history, {"events": [-1]}, settings=Settings(), workflows=[Chatty])
    page = answers["events"]
    assert [envelope["offset"] for envelope in page["events"]] == list(range(2_500))
    assert (page["last_offset"], page.get("more", False), page["dropped"]) == (2_499, False, 0)


async def test_record_names_no_machine(client: Client, perdure: Perdure) -> None:
    """A recording holds no process id and no host name; `-o -` prints it."""
    async with served(client, Chatty) as world:
        handle = await world.start("Chatty", 1)
        await handle.result()
    printed = await perdure("record", handle.id, "-o", "-")
    assert (printed.code, len(json.loads(printed.out)["events"])) == (0, 5)
    assert "identity" not in printed.out
    kept = await perdure("record", handle.id)
    assert kept.code == 0
    file = f"tests/replay/histories/Chatty-{handle.id}.json"
    assert kept.out == f"{file}\n"


async def test_local_keeps_checkpoints_in_a_folder(perdure: Perdure, tmp_path: Path) -> None:
    """`--local` has a store of its own, so a checkpoint may have any size."""
    (tmp_path / "agents.toml").write_text('[agents.a]\nexecutor = "echo"\nturns = 2\n')
    phases = json.dumps([{"name": "one", "steps": [{"task_id": "a", "agent": "a", "prompt": "x" * 10_000}]}])
    ran = await perdure("run", "Steps", phases, "--local", "--json", TEMPORAL_ADDRESS="")
    assert (ran.code, json.loads(ran.out)["result"]["succeeded"]) == (0, 1)
    assert [path.parent.name for path in (tmp_path / ".perdure/blobs").glob("*/*")] == ["steps"]


async def test_local_refuses_a_wrong_folder_before_it_starts_a_server(perdure: Perdure, tmp_path: Path) -> None:
    """A store or workspace that cannot be used is told first, and nothing is made."""
    ran = await perdure("list", "--local", TEMPORAL_ADDRESS="", PERDURE_WORKSPACE="/no/such")
    assert ran == Ran(
        2, "", "PERDURE_WORKSPACE is '/no/such', and there is no such folder. Make it, or name another.\n"
    )
    assert not (tmp_path / ".perdure").exists()
