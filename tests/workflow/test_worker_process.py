"""The worker as a process: what it says, how it ends, whether it is well, and which settings it refuses."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import urllib.error
import urllib.request
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from runtime.local import LocalServer, local_server
from runtime.settings import Settings
from tests.workers import OURS, SAMPLES, client_for, free_address, new_id, step_has_begun, worker_process


async def test_worker_process_says_what_it_serves_and_drains(
    server: LocalServer, settings: Settings, agents: Path
) -> None:
    """SIGTERM lets the step in flight end; the process then leaves with 0."""
    client = await client_for(server, settings)
    metrics = free_address()
    options = ["--agents", str(agents), "--workflows", f"{SAMPLES}:Typed", "--task-queue", settings.task_queue]
    async with worker_process(*options, "--address", server.address, PERDURE_METRICS_ADDRESS=metrics) as worker:
        said = await worker.until("serving")
        del said["timestamp"]
        assert said == {
            "event": "serving",
            "level": "info",
            "logger": "perdure.worker",
            "address": server.address,
            "namespace": "default",
            "task_queue": settings.task_queue,
            "workflows": sorted(["Typed", *OURS]),
            "agents": ["echo", "slow"],
            "store": None,
            "encrypted": False,
            "build_id": None,
        }
        phases = [{"name": "one", "steps": [{"task_id": "a", "agent": "slow", "prompt": "hi"}]}]
        handle = await client.start_workflow("Steps", phases, id=new_id(), task_queue=settings.task_queue)
        await step_has_begun(handle)
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics}/metrics").read())
        assert b"temporal_worker_task_slots_available" in page
        worker.process.send_signal(signal.SIGTERM)
        assert (await worker.until("draining"))["seconds"] == 30.0
        assert await worker.exit_code() == 0
    history = await handle.fetch_history()
    assert [event for event in history.events if event.HasField("activity_task_completed_event_attributes")]
    await handle.terminate()


async def asked(address: str, path: str, method: str = "GET") -> tuple[int, Any]:
    """Status and body of an answer to a health check."""

    def ask() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(urllib.request.Request(f"http://{address}{path}", method=method)) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.loads(refused.read() or "null")

    return await asyncio.to_thread(ask)


async def test_worker_process_tells_whether_it_lives_and_whether_it_serves(
    server: LocalServer, settings: Settings, agents: Path
) -> None:
    """It lives from the start to the end, and is ready only between its connection and its drain."""
    health = free_address()
    options = ["--agents", str(agents), "--task-queue", settings.task_queue, "--address", server.address]
    async with worker_process(*options, PERDURE_HEALTH_ADDRESS=health) as worker:
        await worker.until("serving")
        assert await asked(health, "/healthz") == (200, {"state": "serving"})
        assert await asked(health, "/readyz") == (200, {"state": "serving"})
        assert await asked(health, "/readyz?from=probe", "HEAD") == (200, None)
        assert await asked(health, "/") == (404, {"error": "The paths are /healthz and /readyz."})
        assert await asked(health, "/readyz", "POST") == (405, {"error": "The methods are GET and HEAD."})
        client = await client_for(server, settings)
        phases = [{"name": "one", "steps": [{"task_id": "a", "agent": "slow", "prompt": "hi"}]}]
        handle = await client.start_workflow("Steps", phases, id=new_id(), task_queue=settings.task_queue)
        await step_has_begun(handle)
        worker.process.send_signal(signal.SIGTERM)
        await worker.until("draining")
        assert await asked(health, "/readyz") == (503, {"state": "draining"})
        assert await asked(health, "/healthz") == (200, {"state": "draining"})
        assert await worker.exit_code() == 0
    await handle.terminate()


async def test_worker_process_is_not_ready_without_temporal(agents: Path, tmp_path: Path) -> None:
    """While it waits for the server, and when the server has gone, it lives and is not ready."""
    health = free_address()
    options = ["--agents", str(agents), "--address"]
    async with worker_process(*options, free_address(), PERDURE_HEALTH_ADDRESS=health) as worker:
        await worker.until("waiting for Temporal")
        assert await asked(health, "/readyz") == (503, {"state": "connecting"})
        assert await asked(health, "/healthz") == (200, {"state": "connecting"})
    async with AsyncExitStack() as processes:
        async with local_server(tmp_path / "server") as leaving:
            process = worker_process(*options, leaving.address, PERDURE_HEALTH_ADDRESS=health)
            worker = await processes.enter_async_context(process)
            await worker.until("serving")
        unanswered = {"state": "serving", "error": "Temporal does not answer."}
        assert await asked(health, "/readyz") == (503, unanswered)
        assert await asked(health, "/healthz") == (200, {"state": "serving"})


async def test_worker_process_refuses_a_health_address_that_is_taken(agents: Path) -> None:
    """It leaves with 2 and one sentence: a worker that nobody can ask would be killed as dead."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        options = ["--agents", str(agents), "--address", free_address()]
        async with worker_process(*options, PERDURE_HEALTH_ADDRESS=taken) as worker:
            assert await worker.ended() == (
                f"SettingsRejected: PERDURE_HEALTH_ADDRESS is '{taken}', which cannot be served "
                "(Address already in use).\n",
                2,
            )


async def test_worker_process_leaves_at_once_at_the_second_signal(
    server: LocalServer, settings: Settings, tmp_path: Path
) -> None:
    """Whoever cannot wait for the drain sends the signal again."""
    agents = tmp_path / "agents.toml"
    agents.write_text('[agents.slow]\nexecutor = "echo"\ndelay_seconds = 60\n')
    client = await client_for(server, settings)
    options = ["--agents", str(agents), "--task-queue", settings.task_queue, "--address", server.address]
    async with worker_process(*options) as worker:
        await worker.until("serving")
        phases = [{"name": "one", "steps": [{"task_id": "a", "agent": "slow", "prompt": "hi"}]}]
        handle = await client.start_workflow("Steps", phases, id=new_id(), task_queue=settings.task_queue)
        await step_has_begun(handle)
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGTERM)  # as `timeout` does: one wish, heard twice
        await worker.until("draining")
        insisting = asyncio.create_task(worker.until("leaving at once"))
        while not insisting.done():
            with suppress(ProcessLookupError):  # it has just left
                worker.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.05)
        assert (await insisting)["signal"] == "SIGTERM"
        assert await worker.exit_code() == 128 + signal.SIGTERM
    await handle.terminate()


async def test_worker_process_waits_for_a_server_that_is_not_up(agents: Path) -> None:
    """It tries again with a growing pause, one line each, and leaves when told to."""
    address = free_address()
    async with worker_process("--agents", str(agents), "--address", address) as worker:
        first, second = await worker.until("waiting for Temporal"), await worker.until("waiting for Temporal")
        assert [line["next_attempt_seconds"] for line in (first, second)] == [0.5, 1.0]
        assert first["reason"].startswith(f"Temporal at '{address}' cannot be reached.")
        worker.process.send_signal(signal.SIGINT)
        assert await worker.exit_code() == 0


async def test_worker_process_warns_of_a_service_without_a_store(
    server: LocalServer, settings: Settings, agents: Path
) -> None:
    """Where Temporal is on another machine, workers are too, and large checkpoints need a place."""
    elsewhere = server.address.replace("127.0.0.1", "0.0.0.0")  # the same server, by an address that is not local
    options = ["--agents", str(agents), "--task-queue", settings.task_queue, "--address", elsewhere]
    async with worker_process(*options) as worker:
        assert (await worker.until("serving"))["store"] is None
        warned = await worker.until(
            "no store: checkpoints over 3 KB are not kept, so after a crash such steps begin anew. "
            "Set PERDURE_BLOBS to a folder or a bucket that every worker reaches"
        )
        assert warned["level"] == "warning"


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        pytest.param(
            [],
            {"PERDURE_DRAIN_SECONDS": "soon"},
            "SettingsRejected: PERDURE_DRAIN_SECONDS is 'soon', and takes a number of seconds, 0 or more.\n",
            id="setting",
        ),
        pytest.param(
            ["--workflows", f"{SAMPLES}:Nope"],
            {},
            f"SettingsRejected: The setting 'workflows' names '{SAMPLES}:Nope', and 'Nope' is not there. "
            f"The workflows of '{SAMPLES}' are: 'Greeting', 'Typed'.\n",
            id="workflow",
        ),
        pytest.param(
            [],
            {"PERDURE_WORKSPACE": "/no/such"},
            "SettingsRejected: PERDURE_WORKSPACE is '/no/such', and there is no such folder. "
            "Make it, or name another.\n",
            id="workspace",
        ),
        pytest.param(
            ["--blobs", "/no/mount/blobs"],
            {},
            "SettingsRejected: PERDURE_BLOBS is '/no/mount/blobs', and there is no folder '/no/mount'. "
            "Mount it, or make it.\n",
            id="blobs",
        ),
        pytest.param(
            [],
            {"PERDURE_METRICS_ADDRESS": "203.0.113.1:1"},
            "SettingsRejected: PERDURE_METRICS_ADDRESS is '203.0.113.1:1', which cannot be served "
            "(Failed starting Prometheus exporter: Cannot assign requested address (os error 99)).\n",
            id="metrics address",
        ),
    ],
)
async def test_worker_process_refuses_wrong_settings(
    arguments: list[str], environ: dict[str, str], message: str
) -> None:
    """It leaves with 2 and one sentence, before it looks for a server."""
    async with worker_process("--address", free_address(), *arguments, **environ) as worker:
        assert await worker.ended() == (message, 2)
