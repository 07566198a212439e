"""Payloads over the threshold are in the blob store: what a history, the store, a replay and a reader then hold."""

from __future__ import annotations

import base64
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.worker import Replayer

from runtime.connect import connect
from runtime.plugin import PerdurePlugin
from runtime.recall import recall
from runtime.recording import inlined, recorded
from runtime.replaying import replay_histories
from runtime.sealed import reading
from runtime.settings import Settings
from tests import programs
from tests.support import World, rejection_of, served, wait_until
from worker import build_worker
from workflows import wire
from workflows.errors import PayloadLocked

KEY = base64.b64encode(bytes(range(32))).decode()
SECRET = "the secret plan "
AGENTS = """
[agents.echo]
executor = "echo"

[agents.count]
executor = "command"
command = ["wc", "-c"]
"""

LARGE = SECRET * 20_000
# 320 KB: more than the threshold, less than what a history takes.
HUGE = SECRET * 320_000
# 5.1 MB: more than a history takes.


def settings_of(folder: Path, **more: Any) -> Settings:
    return Settings.model_validate({"blobs": str(folder / "blobs"), **more})


async def storing(client: Client, settings: Settings) -> Client:
    """A client of the same server with these settings."""
    return await connect(settings, address=client.service_client.config.target_host)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


@pytest.fixture
async def world(client: Client, settings: Settings) -> AsyncIterator[World]:
    async with served(await storing(client, settings), programs.FanOut, programs.Sequence, agents=AGENTS) as world:
        yield world


def kept(folder: Path, kind: str = "payloads") -> dict[str, bytes]:
    """The files of a store by their keys."""
    top = folder / "blobs"
    return {
        path.relative_to(top).as_posix(): path.read_bytes()
        for path in sorted((top / kind).rglob("*"))
        if path.is_file()
    }


def step(task_id: str, prompt: str, agent: str = "echo", **more: Any) -> dict[str, Any]:
    return {"task_id": task_id, "agent": agent, "prompt": prompt, **more}


async def history_size(handle: WorkflowHandle[Any, Any]) -> int:
    return len((await handle.fetch_history()).to_json())


async def test_storage_keeps_large_payloads_out_of_the_history(world: World, tmp_path: Path) -> None:
    """Input, prompts, outputs and result are in the store, the history holds references, and nobody notices."""
    handle = await world.start("FanOut", [step("a", LARGE), step("b", "small")])
    outcomes = await handle.result()
    assert [outcome["output"] for outcome in outcomes] == [LARGE, "small"]
    assert await history_size(handle) < 20_000
    folders = {key.rpartition("/")[0].split("/")[3] for key in kept(tmp_path)}
    assert {key.split("/")[2] for key in kept(tmp_path)} == {handle.id}
    assert handle.result_run_id in folders, "what the run stored stands under its run"
    assert len(folders) == 2, "and its input, stored before it had an id, under the day"
    assert len(kept(tmp_path)) == 4  # input, the step's call, its outcome, the result


async def test_storage_takes_what_no_history_takes(world: World, settings: Settings) -> None:
    """A prompt of 5 MB is a step like any other, and the run decides so once, for every replay."""
    handle = await world.start("Sequence", [step("a", HUGE, "count"), step("b", HUGE, "count")])
    outcomes = await handle.result()
    assert [outcome["output"].strip() for outcome in outcomes] == [str(len(HUGE))] * 2
    history = await handle.fetch_history()
    marked = [event for event in history.events if event.HasField("marker_recorded_event_attributes")]
    assert len(marked) == 1
    replayer = Replayer(workflows=[programs.Sequence], plugins=[PerdurePlugin(settings)])
    assert (await replayer.replay_workflow(history)).replay_failure is None


async def test_storage_takes_an_outcome_and_a_result_that_no_history_takes(world: World, settings: Settings) -> None:
    """What a step of 5 MB answers reaches the workflow whole, and its caller."""
    handle = await world.start("Sequence", [step("a", HUGE)])
    (outcome,) = await handle.result()
    assert outcome["output"] == HUGE
    replayer = Replayer(workflows=[programs.Sequence], plugins=[PerdurePlugin(settings)])
    assert (await replayer.replay_workflow(await handle.fetch_history())).replay_failure is None


async def test_storage_has_a_limit_too(client: Client, settings: Settings) -> None:
    """A prompt of more than 20 MB fails its step, and the run goes on."""
    async with served(await storing(client, settings), programs.Oversized) as world:
        first, second = await world.run("Oversized", 20_500_000)
    assert first["error"] == (
        "step 'large': prompt is 20.5 MB and the limit is 20.0 MB. Shorten it, or pass a reference to it."
    )
    assert second["success"]


async def test_storage_that_comes_later_does_not_change_what_a_run_decided(client: Client, tmp_path: Path) -> None:
    """A run that refused a prompt without a store refuses it on every replay, with a store too."""
    async with served(client, programs.Sequence, programs.Oversized) as world:
        handle = await world.start("Oversized", 3_000_000)
        outcome, _ = await handle.result()
    assert outcome["error"] == (
        "step 'large': prompt is 3.0 MB and the limit is 1.9 MB. "
        "Shorten it, pass a reference to it, or give the workers a blob store (PERDURE_BLOBS)."
    )
    plugin = PerdurePlugin(settings_of(tmp_path))
    replayer = Replayer(workflows=[programs.Oversized], plugins=[plugin])
    assert (await replayer.replay_workflow(await handle.fetch_history())).replay_failure is None


async def test_storage_stores_nothing_again_when_a_run_is_replayed(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    """A replay makes the references that the run has made: nothing is written twice, encrypted or not."""
    for key in (None, KEY):
        storing_client = await storing(client, settings.model_copy(update={"codec_key": _secret(key)}))
        async with served(storing_client, programs.Sequence, max_cached_workflows=0) as world:
            before = kept(tmp_path)
            await world.run("Sequence", [step(str(number), LARGE) for number in range(4)])
            # An input, a result and the calls and outcomes of four steps: each workflow task replays them all.
            assert len(kept(tmp_path)) - len(before) == 10


def _secret(key: str | None) -> Any:
    return Settings.model_validate({"codec_key": key}).codec_key


async def test_storage_holds_nothing_readable_when_payloads_are_encrypted(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    """The codec comes before the store: payloads and checkpoints are ciphertext in it."""
    sealing = settings.model_copy(update={"codec_key": _secret(KEY)})
    async with served(await storing(client, sealing), programs.FanOut) as world:
        handle = await world.start("FanOut", [step("a", LARGE)])
        assert (await handle.result())[0]["output"] == LARGE
    assert len(kept(tmp_path)) == 4
    assert not [key for key, data in kept(tmp_path).items() if SECRET.encode() in data]
    with pytest.raises(PayloadLocked):
        await reading(await storing(client, settings)).get_workflow_handle(handle.id).result()


async def test_storage_is_missed_by_name(client: Client, world: World, settings: Settings) -> None:
    """Who reads a run and has no store is told which variable helps."""
    handle = await world.start("FanOut", [step("a", LARGE)])
    await handle.result()
    with pytest.raises(PayloadLocked) as missed:
        await reading(client).get_workflow_handle(handle.id).result()
    key = str(missed.value.message).split("'")[1]
    assert key.startswith(f"payloads/default/{handle.id}/{handle.result_run_id}/")
    assert missed.value.message == (
        f"The payload {key!r} is in a blob store, and there is none here. "
        "Set PERDURE_BLOBS to the store of the run's workers."
    )


async def test_storage_without_a_payload_fails_the_run_for_good(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    """A run whose input is gone from the store fails, naming the key and the setting; it is not tried for ever."""
    stored = await storing(client, settings)
    handle = await World(stored, task_queue := f"test-{uuid.uuid4()}").start("FanOut", [step("a", LARGE)])
    (key,) = kept(tmp_path)
    shutil.rmtree(tmp_path / "blobs")
    worker = build_worker(stored, settings.model_copy(update={"task_queue": task_queue}), workflows=[programs.FanOut])
    async with worker:
        told = await rejection_of(handle)
    assert told == (
        "PayloadMissing",
        f"The payload {key!r} is not in the blob store {settings.blobs!r}. Set PERDURE_BLOBS to the store that the "
        "run's other workers and its starter have, or restore the piece.",
    )


async def test_storage_without_a_prompt_fails_the_step_for_good(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    """A step whose call is gone from the store fails once, as data, and says what is missing."""
    stored = await storing(client, settings)
    async with served(stored, programs.Sequence) as world:
        handle = await world.start("Sequence", [step("a", LARGE, task_queue="nobody")])
        await wait_until("scheduled", lambda: _is_scheduled(handle))
        (key,) = [key for key in kept(tmp_path) if str(handle.first_execution_run_id) in key]
        (tmp_path / "blobs" / key).unlink()
        async with build_worker(stored, settings.model_copy(update={"task_queue": "nobody"})):
            (outcome,) = await handle.result()
    assert (outcome["status"], outcome.get("attempts", 1)) == ("failed", 1)
    assert outcome["output"].startswith(f"Task failed: PayloadMissing: The payload {key!r} is not in the blob store")


async def _is_scheduled(handle: WorkflowHandle[Any, Any]) -> bool:
    return bool((await handle.describe()).raw_description.pending_activities)


async def test_storage_keeps_no_answers_to_queries(client: Client, tmp_path: Path) -> None:
    """What a run answers stays out of the store: no history would ever lead to it."""
    low = settings_of(tmp_path, payload_threshold_bytes=8_192)
    async with served(await storing(client, low), programs.FanOut) as world:
        handle = await world.start("FanOut", [step(f"{'a long name' * 20}-{number}", "x") for number in range(40)])
        await handle.result()
        before = kept(tmp_path)
        progress = await handle.query(wire.PROGRESS_QUERY)
    assert len(str(progress)) > low.payload_threshold_bytes
    assert kept(tmp_path) == before


async def test_storage_is_read_by_a_replay_and_never_written(world: World, settings: Settings, tmp_path: Path) -> None:
    """A replay fetches what the history refers to; without the store it says what is missing."""
    handle = await world.start("FanOut", [step("a", LARGE)])
    await handle.result()
    history, before = await handle.fetch_history(), kept(tmp_path)
    answers = await recall(history, {wire.PROGRESS_QUERY: []}, settings=settings, workflows=[programs.FanOut])
    assert answers["progress"]["phases"] is not None
    assert kept(tmp_path) == before
    nowhere = Replayer(workflows=[programs.FanOut], plugins=[PerdurePlugin(Settings())])
    failure = (await nowhere.replay_workflow(history, raise_on_replay_failure=False)).replay_failure
    assert "Set PERDURE_BLOBS to the store of the run's workers." in str(failure)


async def test_storage_is_not_needed_by_a_recorded_history(
    world: World,
) -> None:
    """`record` puts payloads in place of their references, so the file replays where no store is."""
    handle = await world.start("Sequence", [step("a", HUGE, "count"), step("b", LARGE)])
    await handle.result()
    history = await handle.fetch_history()
    assert await inlined(history, world.client.data_converter) == []
    file = WorkflowHistory.from_json(handle.id, recorded(history))
    (verdict,) = await replay_histories([file], [programs.Sequence], Settings())
    assert verdict.failure is None


async def test_storage_lacks_the_input_of_a_pruned_child(world: World, tmp_path: Path) -> None:
    """What is not in the store any more stays a reference, and is named."""
    handle = await world.start("FanOut", [step("a", LARGE)])
    await handle.result()
    history = await handle.fetch_history()
    gone = next(key for key in kept(tmp_path) if str(handle.result_run_id) not in key)
    (tmp_path / "blobs" / gone).unlink()
    (missing,) = await inlined(history, world.client.data_converter)
    assert missing.message.startswith(f"The payload {gone!r} is not in the blob store")
