"""Runs that were begun before a change of this code, and that today's worker goes on with."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest
from temporalio import workflow
from temporalio.client import Client

from activities.registry import Registry
from runtime.replaying import replay_histories
from runtime.settings import Settings
from tests import slice_programs
from tests.slices import carried, children
from tests.support import AGENTS, World, events_of
from worker import build_worker
from workflows import supply

QUEUE = "test-older-runs"


def serving(client: Client) -> AbstractAsyncContextManager[object]:
    """A worker of a queue that several serve, one after the other."""
    settings = Settings(task_queue=QUEUE, drain_seconds=1)
    return build_worker(client, settings, registry=Registry.load(AGENTS), workflows=slice_programs.WORKFLOWS)


async def test_wide_call_that_began_before_slices_grew_goes_on_with_its_own(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker, of today, takes over in the middle: the slices keep their length, and each step ends once."""
    for name, size in {"INLINE_STEPS": 10, "SLICE_STEPS": 6, "FORMER_SLICE_STEPS": 4, "LEAST_SLICE": 1}.items():
        monkeypatch.setattr(supply, name, size)
    world = World(client, QUEUE)
    with monkeypatch.context() as before:
        before.setattr(workflow, "patched", lambda id: False)
        async with serving(client):
            older = await world.start("Counted", {"count": 44, "agent": "brief"}, max_concurrency=2)
            await carried(older, 3)
    async with serving(client):
        assert await older.result() == {"ok": 44}
        newer = await world.start("Counted", {"count": 44, "agent": "echo"}, max_concurrency=2)
        assert await newer.result() == {"ok": 44}
        lengths = [[event["step_count"] for event in await events_of(each, "slice_started")] for each in (older, newer)]
        runs = [older, newer, *await children(world, older), *await children(world, newer)]
        names = [event["step"] for run in runs for event in await events_of(run, "step_finished")]
    assert [max(each) for each in lengths] == [4, 6]
    assert sorted(names) == sorted(2 * [f"0.0:s{number}" for number in range(44)])
    histories = [await run.fetch_history() for run in runs]
    verdicts = await replay_histories(histories, slice_programs.WORKFLOWS, Settings())
    assert [verdict.failure for verdict in verdicts if verdict.failure] == []
