"""Fan-outs that children carry, in tests: bounds low enough for a few steps, and a look at the children.

A call is carried by children from 1,001 steps on. The worker of a test runs in its process, and workflow code passes
through the sandbox, so it sees bounds that are lowered here.
"""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from tests.support import World, events_of, wait_until
from workflows import supply

INLINE, SLICE = 10, 6
"""Most steps of a call that a run carries itself, and of a child, under the fixture `small`."""

Handle = WorkflowHandle[Any, Any]


def lower(monkeypatch: pytest.MonkeyPatch, inline: int = INLINE, slice_steps: int = SLICE) -> None:
    """Lower the bounds, for one test."""
    monkeypatch.setattr(supply, "INLINE_STEPS", inline)
    monkeypatch.setattr(supply, "SLICE_STEPS", slice_steps)


async def children(world: World, handle: Handle) -> list[Handle]:
    """The children that a run has started, in their order."""
    started = await events_of(handle, "slice_started")
    return [world.client.get_workflow_handle(event["workflow_id"]) for event in started]


async def carried(handle: Handle, count: int = 1) -> None:
    """Wait until children of a run carry steps."""

    async def started() -> bool:
        return len(await events_of(handle, "slice_started")) >= count

    await wait_until(f"{count} slices have started", started)


async def steps_begun(world: World, handle: Handle, count: int) -> None:
    """Wait until so many steps have begun in the children of a run."""

    async def begun() -> bool:
        found = [await events_of(child, "step_started") for child in await children(world, handle)]
        return sum(map(len, found)) >= count

    await wait_until(f"{count} steps have begun", begun)
