"""`perdure prune`: what goes from the blob store, and what some run may still need."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow, ScheduleSpec, WorkflowHandle
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.worker import Worker

import starter
from activities.blobs import BlobStore
from runtime.commands.doctor import same_store, stored
from runtime.connect import connect
from runtime.plugin import check_folders
from runtime.pruning import Count, Pruned, prune
from runtime.settings import Settings
from tests import programs
from tests.support import World, served, wait_until
from tests.workflow.pruning_samples import Child, Parent
from worker import build_worker

LARGE = "a long prompt " * 20_000
NOW = timedelta(0)
KEY = base64.b64encode(bytes(range(32))).decode()

AGENTS = """
[agents.echo]
executor = "echo"
turns = 2
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(blobs=str(tmp_path / "blobs"))


@pytest.fixture
async def world(client: Client, settings: Settings, tmp_path: Path) -> AsyncIterator[World]:
    storing = await connect(settings, address=client.service_client.config.target_host)
    async with served(storing, programs.Sequence, Parent, Child, agents=AGENTS, blobs=tmp_path / "blobs") as world:
        yield world


@pytest.fixture
def store(settings: Settings) -> BlobStore:
    opened = check_folders(settings)
    assert opened is not None
    return opened


def step(task_id: str, **more: Any) -> dict[str, Any]:
    return {"task_id": task_id, "agent": "echo", "prompt": LARGE, **more}


async def ended(world: World) -> WorkflowHandle[Any, Any]:
    """A run that has ended, as lists show too."""
    handle = await world.start("Sequence", [step("a")])
    await handle.result()
    await wait_until("it is listed", lambda: _is_listed(world.client, f"WorkflowId = '{handle.id}' AND CloseTime > 0"))
    return handle


async def _is_listed(client: Client, query: str) -> bool:
    return bool([run async for run in client.list_workflows(query)])


async def begun(world: World) -> WorkflowHandle[Any, Any]:
    """A run that has done a step and waits for the next, which nobody serves."""
    handle = await world.start("Sequence", [step("a"), step("b", task_queue="nobody")])
    await wait_until("it waits", lambda: _waits(handle))
    return handle


async def _waits(handle: WorkflowHandle[Any, Any]) -> bool:
    pending = (await handle.describe()).raw_description.pending_activities
    return [activity.activity_id for activity in pending] == ["2"]


async def test_prune_removes_what_a_closed_run_left(world: World, store: BlobStore) -> None:
    """Payloads and checkpoints go; a second prune finds nothing, and a dry one only counts."""
    await ended(world)
    counted = await prune(world.client, store, NOW, dry_run=True)
    assert (counted.payloads.pieces, counted.checkpoints.pieces) == (4, 2)
    assert counted.payloads.bytes > 4 * len(LARGE)
    assert counted.kept == counted.unknown == Count()
    assert await prune(world.client, store, NOW, dry_run=False) == counted
    assert [*await store.list("payloads"), *await store.list("steps")] == []
    assert await prune(world.client, store, NOW, dry_run=False) == Pruned()


async def test_prune_leaves_what_is_young(world: World, store: BlobStore) -> None:
    """Nothing that was written within the limit goes, whoever owns it."""
    await ended(world)
    pruned = await prune(world.client, store, timedelta(hours=1), dry_run=False)
    assert (pruned.payloads, pruned.checkpoints, pruned.kept.pieces) == (Count(), Count(), 6)


async def test_prune_leaves_what_a_run_needs(world: World, store: BlobStore, tmp_path: Path) -> None:
    """An open run keeps all of its own, however old; the closed ones beside it lose theirs."""
    handle = await begun(world)
    await ended(world)
    _age(tmp_path)
    pruned = await prune(world.client, store, timedelta(hours=1), dry_run=False)
    assert pruned.payloads.pieces == pruned.checkpoints.pieces == 0, "the other run closed within the hour"
    pruned = await prune(world.client, store, NOW, dry_run=False)
    assert (pruned.payloads.pieces, pruned.checkpoints.pieces) == (4, 2)
    assert {key.split("/")[2] for key in await store.list("payloads")} == {handle.id}
    async with served_elsewhere(world, tmp_path):
        outcomes = await handle.result()
    assert [outcome["output"] for outcome in outcomes] == [LARGE, LARGE]


def served_elsewhere(world: World, tmp_path: Path) -> Worker:
    """A worker of the task queue that nobody served."""
    (tmp_path / "agents.toml").write_text(AGENTS)
    settings = Settings(
        task_queue="nobody", agents=tmp_path / "agents.toml", blobs=str(tmp_path / "blobs"), drain_seconds=1
    )
    return build_worker(world.client, settings)


def _age(tmp_path: Path) -> None:
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 86_400, time.time() - 86_400))


async def test_prune_leaves_what_a_child_of_an_open_run_has(world: World, store: BlobStore) -> None:
    """A child that has closed keeps its input while the run above it is open: who looks at that run can see it."""
    handle = await world.start("Parent", LARGE)
    of_children = f"ParentWorkflowId = '{handle.id}' AND CloseTime > 0"
    await wait_until("the child has ended", lambda: _is_listed(world.client, of_children))
    assert (await prune(world.client, store, NOW, dry_run=False)).payloads == Count()
    assert len(await store.list("payloads")) == 2
    await handle.signal("end")
    assert await handle.result() == len(LARGE)
    await wait_until("it is listed", lambda: _is_listed(world.client, f"WorkflowId = '{handle.id}' AND CloseTime > 0"))
    assert (await prune(world.client, store, NOW, dry_run=False)).payloads.pieces == 2


async def test_prune_leaves_what_a_schedule_starts_with(world: World, store: BlobStore) -> None:
    """A schedule keeps the input of the runs that it will start."""
    name = f"nightly-{world.task_queue}"
    action = ScheduleActionStartWorkflow("Sequence", [step("a")], id=name, task_queue=world.task_queue)
    schedule = await world.client.create_schedule(name, Schedule(action=action, spec=ScheduleSpec()))
    await wait_until("it is listed", lambda: _is_scheduled(world.client, name))
    assert (await prune(world.client, store, NOW, dry_run=False)).payloads == Count()
    await schedule.delete()
    await wait_until("it is gone", lambda: _is_unscheduled(world.client, name))
    assert (await prune(world.client, store, NOW, dry_run=False)).payloads.pieces == 1


async def _is_scheduled(client: Client, name: str) -> bool:
    return name in [listed.id async for listed in await client.list_schedules()]


async def _is_unscheduled(client: Client, name: str) -> bool:
    return not await _is_scheduled(client, name)


async def test_prune_leaves_what_it_cannot_tell(world: World, store: BlobStore) -> None:
    """Pieces that name no run, or another namespace's, stay; the first are counted apart."""
    await store.put("steps/k/000001-0000000000000000", b"{}")
    await store.put(f"payloads/default/__{'0' * 64}/r/0", b"x")
    await store.put("unowned/2026-01-01/0", b"x")
    await store.put("payloads/elsewhere/w/r/0", b"x")
    pruned = await prune(world.client, store, NOW, dry_run=False)
    assert (pruned.unknown.pieces, pruned.kept, pruned.payloads) == (3, Count(), Count())
    assert len(await store.list("payloads")) == 2


async def test_prune_of_encrypted_checkpoints_needs_the_key(client: Client, settings: Settings, tmp_path: Path) -> None:
    """Whose a sealed checkpoint is stands in it."""
    sealing = Settings.model_validate({**settings.model_dump(), "codec_key": KEY})
    storing = await connect(sealing, address=client.service_client.config.target_host)
    store = check_folders(sealing)
    assert store is not None
    async with served(storing, programs.Sequence, agents=AGENTS, blobs=tmp_path / "blobs") as world:
        await ended(world)
    assert (await prune(storing, store, NOW, dry_run=True)).payloads.pieces == 4


def test_prune_from_the_command_line(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command counts for people and for programs, and refuses a span that is too short."""
    address = world.client.service_client.config.target_host
    monkeypatch.setenv("PERDURE_BLOBS", str(tmp_path / "blobs"))
    assert starter.invoke(["prune", "--address", address]) == 0
    assert capsys.readouterr().out == (
        "Removed 0 payloads (0.0 MB) and 0 checkpoints (0.0 MB).\nKept 0 pieces (0.0 MB) that are young or needed.\n"
    )
    assert starter.invoke(["prune", "--address", address, "--json", "--dry-run", "--older-than", "4w"]) == 0
    nothing = {"pieces": 0, "bytes": 0}
    counts = dict.fromkeys(("payloads", "checkpoints", "kept", "unknown"), nothing)
    assert json.loads(capsys.readouterr().out) == {"dry_run": True, "older_than_seconds": 2_419_200.0, **counts}
    for wrong, told in (
        ("5m", "is too short: what a run is about to need may be an hour old. The least is 1h."),
        ("soon", "is no span"),
    ):
        assert starter.invoke(["prune", "--older-than", wrong]) == 2
        assert told in capsys.readouterr().err
    monkeypatch.delenv("PERDURE_BLOBS")
    assert starter.invoke(["prune", "--address", address]) == 2
    assert capsys.readouterr().err == (
        "There is no blob store to prune. Name the one of the workers with PERDURE_BLOBS.\n"
    )


async def test_doctor_tells_of_the_store(settings: Settings, tmp_path: Path) -> None:
    """What it takes where it answers, why where it does not, and what is missing where there is none."""
    (tmp_path / "blobs").mkdir()
    found = await stored(settings, "temporal.example:7233")
    told = f"{settings.blobs!r} takes payloads from 131,072 bytes to 20 MB"
    assert (found.verdict, found.found) == ("ok", told)
    found = await stored(Settings(blobs="/no/mount/x"), "temporal.example:7233")
    assert (found.verdict, found.found) == (
        "fail",
        "PERDURE_BLOBS is '/no/mount/x', and there is no folder '/no/mount'. Mount it, or make it.",
    )
    verdicts = [(await stored(Settings(), address)).verdict for address in ("127.0.0.1:7233", "temporal.example:7233")]
    assert verdicts == ["ok", "warn"]


async def test_doctor_compares_the_stores_of_workers(client: Client, settings: Settings, tmp_path: Path) -> None:
    """Workers tell the server of their store: a different one is a doubt, and one without any is a fault."""
    runtime = Runtime(telemetry=TelemetryConfig(), worker_heartbeat_interval=timedelta(seconds=1))
    address = client.service_client.config.target_host
    storing = await connect(settings, address=address, runtime=runtime)
    async with served(storing, programs.Sequence) as world:
        here = settings.model_copy(update={"task_queue": world.task_queue})
        other = here.model_copy(update={"blobs": str(tmp_path / "other")})
        await wait_until("the worker has told", lambda: same_store(client, other))
        told = [await same_store(client, one) for one in (here, other, here.model_copy(update={"blobs": None}))]
    assert [[(finding.verdict, finding.found) for finding in findings] for findings in told] == [
        [],
        [("warn", "a worker of this task queue has another one")],
        [("warn", "a worker of this task queue has one")],
    ]
    without = await connect(Settings(), address=address, runtime=runtime)
    async with served(without, programs.Sequence) as world:
        here = settings.model_copy(update={"task_queue": world.task_queue})
        await wait_until("the worker has told", lambda: same_store(client, here))
        (finding,) = await same_store(client, here)
    assert (finding.verdict, finding.found) == ("fail", "a worker of this task queue has none")


async def test_doctor_says_nothing_where_workers_have_told_nothing(client: Client) -> None:
    """A task queue of which the server knows no worker has nothing to compare."""
    assert await same_store(client, Settings(task_queue="nobody-ever")) == []
