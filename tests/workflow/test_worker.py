"""The worker: what it serves, what it refuses, and how its process begins and ends."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog
from pydantic import SecretStr
from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.exceptions import ApplicationError
from temporalio.worker import PollerBehaviorAutoscaling, Worker, WorkerDeploymentConfig

from activities.registry import Registry
from runtime import PerdurePlugin, connect, logs
from runtime.local import LocalServer, local_server
from runtime.plugin import AgentThreads, load_workflows, workflow_name
from runtime.replaying import ReplayVerdict, replay_histories
from runtime.settings import Settings
from tests.workflow.worker_samples import Greeting, Order, Typed
from worker import build_worker
from workflows import ALL_WORKFLOWS
from workflows.errors import PayloadLocked, SettingsRejected
from workflows.wire import OPTIONS_MEMO

ROOT = Path(__file__).parents[2]
AGENTS = '[agents.echo]\nexecutor = "echo"\n[agents.slow]\nexecutor = "echo"\ndelay_seconds = 1\n'
SAMPLES = "tests.workflow.worker_samples"
OURS = [str(workflow_name(served)) for served in ALL_WORKFLOWS]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalServer]:
    async with local_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    file = tmp_path / "agents.toml"
    file.write_text(AGENTS)
    return file


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(task_queue=f"queue-{uuid.uuid4()}", workspace=tmp_path)


async def client_for(server: LocalServer, settings: Settings, *plugins: PerdurePlugin) -> Client:
    return await connect(settings, address=server.address, namespace=server.namespace, plugins=plugins)


def new_key() -> SecretStr:
    return SecretStr(base64.b64encode(os.urandom(32)).decode())


def new_id() -> str:
    return f"run-{uuid.uuid4()}"


async def test_worker_serves_the_given_workflows_and_agents(
    server: LocalServer, settings: Settings, agents: Path
) -> None:
    """A registry in hand needs no agents.toml, and the workflow's step runs on it."""
    client = await client_for(server, settings)
    async with build_worker(client, settings, registry=Registry.load(agents), workflows=[Greeting]):
        outcome = await client.execute_workflow(Greeting.run, "Ada", id=new_id(), task_queue=settings.task_queue)
    assert (outcome.output, outcome.success) == ("hello Ada", True)


async def test_worker_of_a_user_gets_everything_from_the_clients_plugin(
    server: LocalServer, settings: Settings, agents: Path
) -> None:
    """A plain Worker serves perdure's workflows and agents too, by perdure's settings where the user has none."""
    client = await client_for(server, settings, PerdurePlugin(settings, registry=Registry.load(agents)))
    worker = Worker(
        client,
        task_queue=settings.task_queue,
        workflows=[Typed],
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
    )
    config = worker.config(active_config=True)
    assert [each.__name__ for each in config["workflows"]][:2] == ["Typed", "Steps"]
    assert config["max_heartbeat_throttle_interval"] == timedelta(milliseconds=500)
    assert config["sticky_queue_schedule_to_start_timeout"] == timedelta(seconds=3), "the user's own stays"
    assert isinstance(config["activity_executor"], AgentThreads)
    phases = [{"name": "one", "steps": [{"task_id": "a", "agent": "echo", "prompt": "hi"}]}]
    async with worker:
        report = await client.execute_workflow("Steps", phases, id=new_id(), task_queue=settings.task_queue)
    assert report["phases"][0]["outcomes"][0]["output"] == "hi"
    with pytest.raises(RuntimeError):  # its threads ended with it
        config["activity_executor"].submit(int)


async def test_worker_fails_a_run_whose_input_is_wrong(server: LocalServer, settings: Settings) -> None:
    """A validation error ends the run; without perdure it would retry its workflow task for ever."""
    client = await client_for(server, settings)
    async with build_worker(client, settings, registry=Registry.empty(), workflows=[Typed]):
        with pytest.raises(WorkflowFailureError) as failed:
            await client.execute_workflow("Typed", {"item": 5}, id=new_id(), task_queue=settings.task_queue)
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "ValidationError"


async def test_worker_encrypts_what_the_history_stores(server: LocalServer, settings: Settings) -> None:
    """With a key nothing that was said is readable in the history, and the run works as before."""
    sealed = settings.model_copy(update={"codec_key": new_key()})
    client = await client_for(server, sealed)
    async with build_worker(client, sealed, registry=Registry.empty(), workflows=[Typed]):
        order = Order(item="sealed words", count=2)
        handle = await client.start_workflow(Typed.run, order, id=new_id(), task_queue=settings.task_queue)
        assert await handle.result() == order
    history = await handle.fetch_history()
    assert b"sealed words" not in b"".join(event.SerializeToString() for event in history.events)
    assert await replay_histories([history], [Typed], sealed) == [ReplayVerdict(handle.id, "Typed")]
    other = settings.model_copy(update={"codec_key": new_key()})
    reader = await client_for(server, other)
    with pytest.raises(PayloadLocked):  # who has another key cannot read it
        await reader.get_workflow_handle(handle.id).result()


async def test_worker_is_versioned_when_both_of_temporals_variables_are_set(
    server: LocalServer, settings: Settings
) -> None:
    """A run then stays with the build that it began with."""
    client = await client_for(server, settings)
    versioned = settings.model_copy(update={"deployment_name": "agents", "build_id": "b7"})
    config = build_worker(client, versioned, registry=Registry.empty()).config(active_config=True)
    assert config["deployment_config"] == WorkerDeploymentConfig(
        WorkerDeploymentVersion("agents", "b7"), True, VersioningBehavior.PINNED
    )
    alone = settings.model_copy(update={"build_id": "b7"})
    config = build_worker(client, alone, registry=Registry.empty()).config(active_config=True)
    assert config["deployment_config"] is None


async def test_worker_tuned_by_resources_has_never_more_steps_than_its_ceiling(
    server: LocalServer, settings: Settings, agents: Path
) -> None:
    """With a share of the machine as the measure, `max_concurrent_steps` still holds, and everything ends."""
    client = await client_for(server, settings)
    changes = {"max_cpu": 1.0, "max_memory": 0.99, "max_concurrent_steps": 2, "max_pollers": 2}
    tuned = settings.model_copy(update=changes)
    worker = build_worker(client, tuned, registry=Registry.load(agents))
    config = worker.config(active_config=True)
    expected = PollerBehaviorAutoscaling(minimum=1, maximum=2, initial=2)
    assert config["workflow_task_poller_behavior"] == expected
    assert config["activity_task_poller_behavior"] == expected
    phases = [{"name": "one", "steps": [{"task_id": f"s{n}", "agent": "slow", "prompt": "hi"} for n in range(5)]}]
    async with worker:
        handle = await client.start_workflow("Steps", phases, id=new_id(), task_queue=settings.task_queue)
        await handle.result()
    assert 1 <= await most_at_once(handle) <= 2


async def most_at_once(handle: WorkflowHandle[Any, Any]) -> int:
    """The most steps of a run that workers had at one moment."""
    changes = []
    async for event in handle.fetch_history_events():
        change = event.HasField("activity_task_started_event_attributes") - event.HasField(
            "activity_task_completed_event_attributes"
        )
        changes.append((event.event_time.ToNanoseconds(), change))
    return max(accumulate(change for _, change in sorted(changes)))


async def test_worker_whose_maker_gives_a_number_of_slots_is_not_tuned_by_resources(
    server: LocalServer, settings: Settings
) -> None:
    """The SDK takes numbers or a tuner; what the code says wins over the settings."""
    client = await client_for(server, settings)
    tuned = settings.model_copy(update={"max_cpu": 0.5})
    config = build_worker(client, tuned, registry=Registry.empty(), max_concurrent_activities=3).config(
        active_config=True
    )
    assert config["tuner"] is None
    assert (config["max_concurrent_activities"], config["max_concurrent_workflow_tasks"]) == (3, 10)


async def test_worker_of_an_agents_own_queue_takes_its_steps_and_no_others(
    server: LocalServer, settings: Settings, tmp_path: Path
) -> None:
    """Each queue's worker has only its own agents, so a step on the wrong queue would fail."""
    gpu = settings.model_copy(update={"task_queue": f"gpu-{uuid.uuid4()}"})
    client = await client_for(server, settings)
    (tmp_path / "writers.toml").write_text('[agents.writer]\nexecutor = "echo"\n')
    (tmp_path / "painters.toml").write_text('[agents.painter]\nexecutor = "echo"\n')
    steps = [{"task_id": agent, "agent": agent, "prompt": agent} for agent in ("writer", "painter", "writer")]
    phases = [{"name": f"{n}", "steps": [step]} for n, step in enumerate(steps)]
    async with (
        build_worker(client, settings, registry=Registry.load(tmp_path / "writers.toml")),
        build_worker(client, gpu, registry=Registry.load(tmp_path / "painters.toml")),
    ):
        handle = await client.start_workflow(
            "Steps",
            phases,
            id=new_id(),
            task_queue=settings.task_queue,
            memo={OPTIONS_MEMO: {"task_queues": {"painter": gpu.task_queue}}},
        )
        report = await handle.result()
    assert [phase["outcomes"][0]["success"] for phase in report["phases"]] == [True, True, True]
    queues = [
        event.activity_task_scheduled_event_attributes.task_queue.name
        async for event in handle.fetch_history_events()
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert queues == [settings.task_queue, gpu.task_queue, settings.task_queue]


async def test_worker_refuses_a_client_without_the_plugin(server: LocalServer, settings: Settings) -> None:
    """Such a client would store what no workflow can read."""
    client = await Client.connect(server.address)
    with pytest.raises(SettingsRejected) as refused:
        build_worker(client, settings, registry=Registry.empty())
    assert refused.value.message == (
        "The client has no PerdurePlugin, so it would store what no workflow can read. "
        "Make it with `runtime.connect`, or give it plugins=[PerdurePlugin()]."
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "no_such_module",
            "The setting 'workflows' names 'no_such_module', and there is no module 'no_such_module', neither in "
            "{here!r} nor installed. Name it as 'module' or 'module:Class'.",
            id="no module",
        ),
        pytest.param(
            f"{SAMPLES}:Greting",
            f"The setting 'workflows' names '{SAMPLES}:Greting', and 'Greting' is not there. "
            f"The workflows of '{SAMPLES}' are: 'Greeting', 'Typed'.",
            id="no class",
        ),
        pytest.param(
            f"{SAMPLES}:Order",
            f"The setting 'workflows' names '{SAMPLES}:Order', and 'Order' is not a workflow "
            f"(a class under @workflow.defn). The workflows of '{SAMPLES}' are: 'Greeting', 'Typed'.",
            id="no workflow",
        ),
        pytest.param(
            "workflows.wire",
            "The module 'workflows.wire' of the setting 'workflows' defines no workflow. "
            "Name the module that has the class under @workflow.defn.",
            id="none",
        ),
        pytest.param(
            "broken_flows",
            "The setting 'workflows' names 'broken_flows', which cannot be imported "
            "(ZeroDivisionError: division by zero).",
            id="broken module",
        ),
    ],
)
def test_load_workflows_refuses(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be found is named, with what there is instead."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "broken_flows.py").write_text("1 / 0\n")
    with pytest.raises(SettingsRejected) as refused:
        load_workflows([name])
    assert refused.value.message == message.format(here=str(tmp_path))


def test_load_workflows_finds_modules_and_classes() -> None:
    """A module gives all its workflows, in their order and once."""
    assert load_workflows([f"{SAMPLES}:Typed", SAMPLES]) == [Typed, Greeting]


async def test_replay_tells_for_each_history_whether_it_still_runs(
    server: LocalServer, settings: Settings, agents: Path
) -> None:
    """Verdicts come in the histories' order: one that runs, one whose code changed, one whose type is gone."""
    client = await client_for(server, settings)
    async with build_worker(client, settings, registry=Registry.load(agents), workflows=[Greeting]):
        handle: WorkflowHandle[Any, Any] = await client.start_workflow(
            Greeting.run, "Ada", id=new_id(), task_queue=settings.task_queue
        )
        await handle.result()
    history = await handle.fetch_history()
    assert await replay_histories([history], [Greeting]) == [ReplayVerdict(handle.id, "Greeting")]

    (changed,) = await replay_histories([history], [Changed])
    assert (changed.workflow_id, changed.workflow_type) == (handle.id, "Greeting")
    assert changed.failure is not None
    assert re.match("NondeterminismError: .*Nondeterminism", changed.failure)

    known = ", ".join(repr(name) for name in sorted(["Typed", *OURS]))
    assert await replay_histories([history], [Typed]) == [
        ReplayVerdict(
            handle.id,
            "Greeting",
            f"No workflow of the type 'Greeting' is known here. The types are {known}. Name its module.",
        )
    ]


async def test_replay_logs_nothing_twice(
    server: LocalServer, settings: Settings, agents: Path, json_log: io.StringIO
) -> None:
    """What a workflow says, it says when it happens, and not again when its history is run through."""
    client = await client_for(server, settings)
    async with build_worker(client, settings, registry=Registry.load(agents), workflows=[Greeting]):
        handle = await client.start_workflow(Greeting.run, "Ada", id=new_id(), task_queue=settings.task_queue)
        await handle.result()
    assert json_log.getvalue().count("greeting begins") == 1
    assert (await replay_histories([await handle.fetch_history()], [Greeting]))[0].failure is None
    assert json_log.getvalue().count("greeting begins") == 1


@pytest.fixture
def json_log() -> Iterator[io.StringIO]:
    """What the process logs."""
    stream, root = io.StringIO(), logging.getLogger()
    before, level = list(root.handlers), root.level
    logs.configure("info", "json", stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


@workflow.defn(name="Greeting")
class Changed:
    """Greeting after a change that its histories do not survive."""

    @workflow.run
    async def run(self, name: str) -> str:
        """Return without a step."""
        return name


@dataclass
class Served:
    """A `perdure-worker` process and the lines that it writes."""

    process: asyncio.subprocess.Process

    async def until(self, event: str, seconds: float = 20) -> dict[str, Any]:
        """The first line of this event that is still to come."""
        assert self.process.stderr is not None
        seen = []
        async with asyncio.timeout(seconds):
            async for line in self.process.stderr:
                seen.append(line.decode())
                if line.startswith(b"{") and json.loads(line)["event"] == event:
                    return dict(json.loads(line))
        raise AssertionError(f"the worker ended without {event!r}; it wrote:\n{''.join(seen)}")

    async def ended(self) -> int:
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            await self.process.stderr.read()
            return await self.process.wait()


@asynccontextmanager
async def served(*arguments: str, **environ: str) -> AsyncIterator[Served]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "worker.py",
        *arguments,
        cwd=ROOT,
        env={**os.environ, "PERDURE_LOG_FORMAT": "json", **environ},
        stderr=subprocess.PIPE,
    )
    try:
        yield Served(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_worker_process_says_what_it_serves_and_drains(
    server: LocalServer, settings: Settings, agents: Path
) -> None:
    """SIGTERM lets the step in flight end; the process then leaves with 0."""
    client = await client_for(server, settings)
    metrics = free_address()
    options = ["--agents", str(agents), "--workflows", f"{SAMPLES}:Typed", "--task-queue", settings.task_queue]
    async with served(*options, "--address", server.address, PERDURE_METRICS_ADDRESS=metrics) as worker:
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
        assert await worker.ended() == 0
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
    async with served(*options, PERDURE_HEALTH_ADDRESS=health) as worker:
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
        assert await worker.ended() == 0
    await handle.terminate()


async def test_worker_process_is_not_ready_without_temporal(agents: Path, tmp_path: Path) -> None:
    """While it waits for the server, and when the server has gone, it lives and is not ready."""
    health = free_address()
    async with served("--agents", str(agents), "--address", free_address(), PERDURE_HEALTH_ADDRESS=health) as worker:
        await worker.until("waiting for Temporal")
        assert await asked(health, "/readyz") == (503, {"state": "connecting"})
        assert await asked(health, "/healthz") == (200, {"state": "connecting"})
    async with AsyncExitStack() as processes:
        async with local_server(tmp_path / "server") as leaving:
            process = served("--agents", str(agents), "--address", leaving.address, PERDURE_HEALTH_ADDRESS=health)
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
        async with served(*options, PERDURE_HEALTH_ADDRESS=taken) as worker:
            assert worker.process.stderr is not None
            said = await asyncio.wait_for(worker.process.stderr.read(), 20)
            assert (said.decode(), await worker.process.wait()) == (
                f"SettingsRejected: PERDURE_HEALTH_ADDRESS is '{taken}', which cannot be served "
                "(Address already in use).\n",
                2,
            )


async def step_has_begun(handle: WorkflowHandle[Any, Any]) -> None:
    async with asyncio.timeout(10):
        while True:
            pending = (await handle.describe()).raw_description.pending_activities
            if pending and pending[0].HasField("last_started_time"):
                return
            await asyncio.sleep(0.05)


async def test_worker_process_leaves_at_once_at_the_second_signal(
    server: LocalServer, settings: Settings, tmp_path: Path
) -> None:
    """Whoever cannot wait for the drain sends the signal again."""
    agents = tmp_path / "agents.toml"
    agents.write_text('[agents.slow]\nexecutor = "echo"\ndelay_seconds = 60\n')
    client = await client_for(server, settings)
    options = ["--agents", str(agents), "--task-queue", settings.task_queue, "--address", server.address]
    async with served(*options) as worker:
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
        assert await worker.ended() == 128 + signal.SIGTERM
    await handle.terminate()


async def test_worker_process_waits_for_a_server_that_is_not_up(agents: Path) -> None:
    """It tries again with a growing pause, one line each, and leaves when told to."""
    address = free_address()
    async with served("--agents", str(agents), "--address", address) as worker:
        first, second = await worker.until("waiting for Temporal"), await worker.until("waiting for Temporal")
        assert [line["next_attempt_seconds"] for line in (first, second)] == [0.5, 1.0]
        assert first["reason"].startswith(f"Temporal at '{address}' cannot be reached.")
        worker.process.send_signal(signal.SIGINT)
        assert await worker.ended() == 0


async def test_worker_process_warns_of_a_service_without_a_store(
    server: LocalServer, settings: Settings, agents: Path
) -> None:
    """Where Temporal is on another machine, workers are too, and large checkpoints need a place."""
    elsewhere = server.address.replace("127.0.0.1", "0.0.0.0")  # the same server, by an address that is not local
    options = ["--agents", str(agents), "--task-queue", settings.task_queue, "--address", elsewhere]
    async with served(*options) as worker:
        assert (await worker.until("serving"))["store"] is None
        warned = await worker.until(
            "no store: checkpoints over 3 KB are not kept, so after a crash such steps begin anew. "
            "Set PERDURE_BLOBS to a folder that every worker reaches"
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
    async with served("--address", free_address(), *arguments, **environ) as worker:
        assert worker.process.stderr is not None
        said = await asyncio.wait_for(worker.process.stderr.read(), 20)
        assert (said.decode(), await worker.process.wait()) == (message, 2)
