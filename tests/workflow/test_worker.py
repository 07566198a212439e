"""The worker that `build_worker` makes, or a user with perdure's plugin: what it serves and what it refuses."""

from __future__ import annotations

import base64
import os
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.exceptions import ApplicationError
from temporalio.worker import PollerBehaviorAutoscaling, Worker, WorkerDeploymentConfig

from activities.registry import Registry
from runtime import PerdurePlugin
from runtime.local import LocalServer
from runtime.plugin import AgentThreads
from runtime.replaying import ReplayVerdict, replay_histories
from runtime.settings import Settings
from tests.histories import STARTED, most_at_once
from tests.workers import client_for, new_id
from tests.workflow.worker_samples import Greeting, Order, Typed
from worker import build_worker
from workflows.errors import PayloadLocked, SettingsRejected
from workflows.wire import OPTIONS_MEMO


def new_key() -> SecretStr:
    return SecretStr(base64.b64encode(os.urandom(32)).decode())


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
    assert 1 <= await most_at_once(handle, begin=STARTED) <= 2


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
