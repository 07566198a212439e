"""A history that is nearly full: nothing more begins but what undoes, and the run ends with what it has done."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from runtime.replaying import replay_histories
from runtime.settings import Settings
from tests import slice_programs
from tests.definitions import stage
from tests.graphs import asks, error_of, result_in_failure, row, undo, undone, writes
from tests.slices import lower
from tests.support import World, served
from workflows import ALL_WORKFLOWS, history

ENDLESS = {"type": "loop_until", "max_iterations": 1_000, "body": asks("echo")}
EACH = {"type": "for_each", "items_from": "items", "body": asks("echo")}


@pytest.fixture(scope="module")
async def world(client: Client) -> AsyncIterator[World]:
    async with served(client, *slice_programs.WORKFLOWS) as world:
        yield world


@pytest.mark.parametrize("step", [ENDLESS, EACH], ids=["loop_until", "for_each"])
@pytest.mark.parametrize(("bound", "most"), [("MOST_EVENTS", 60), ("MOST_BYTES", 30_000)])
async def test_stage_that_fills_its_history_fails_and_is_compensated(
    world: World, monkeypatch: pytest.MonkeyPatch, step: dict[str, object], bound: str, most: int
) -> None:
    """By events and by bytes alike; Temporal would terminate it, and its result would be lost."""
    monkeypatch.setattr(history, bound, most)
    before = stage("before", writes(done=True), compensation=undo(done=False))
    definition = row(before, stage("long", step), initial_state={"items": list(range(500))})
    handle = await world.start("StageGraph", definition)
    result = await result_in_failure(handle)
    assert "the run's history holds " in error_of(result, "long")
    assert "Temporal ends a run at 51,200 or 50 MB. Divide the work over several runs" in error_of(result, "long")
    assert undone(result) == [("before", "compensated")]
    assert result["final_state"]["done"] is False
    [verdict] = await replay_histories([await handle.fetch_history()], ALL_WORKFLOWS, Settings())
    assert verdict.failure is None


async def test_fan_out_that_undoes_begins_in_a_full_history(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is refused; its compensation, as large, is not."""
    lower(monkeypatch)
    monkeypatch.setattr(history, "MOST_EVENTS", 1)
    handle = await world.start("UndoingRefused", 11)
    told = await handle.result()
    assert told["work"].endswith("Shorten prompts and outputs, or divide the steps over several runs.")
    assert told["undone"] == ["succeeded"]
    [verdict] = await replay_histories([await handle.fetch_history()], slice_programs.WORKFLOWS, Settings())
    assert verdict.failure is None
