"""Workflow code that holds its worker too long, as any may on a machine that has no time for it."""

from __future__ import annotations

from temporalio.client import Client
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from tests import busy
from tests.support import served


async def test_run_that_was_interrupted_goes_on_in_the_same_worker(client: Client) -> None:
    """The SDK interrupts it after two seconds; then it is tried again from its history, and ends."""
    busy.begun.clear()
    runner = SandboxedWorkflowRunner(SandboxRestrictions.default.with_passthrough_modules(busy.__name__))
    async with served(client, busy.Busy, workflow_runner=runner) as world:
        handle = await world.start("Busy")
        assert await handle.result() == "through"
    run_id = (await handle.describe()).run_id
    assert busy.begun == [run_id, run_id]
