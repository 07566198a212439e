"""A workflow whose tasks keep its worker busy for longer than the SDK allows, the first time that it runs.

It has to be passed through the sandbox, so that this module is the process's own and knows of the first time.
"""

from __future__ import annotations

import asyncio
import time

from temporalio import workflow

BUSY_SECONDS = 2.5
TASKS = 500

begun: list[str] = []
"""Run ids, in the order in which the code began: a run that is tried again is here again."""


@workflow.defn
class Busy:
    """Many tasks that wake each other: an error that is raised somewhere in them strikes a waking one, most often."""

    @workflow.run
    async def run(self) -> str:
        is_first = not begun
        begun.append(workflow.info().run_id)
        with workflow.unsafe.sandbox_unrestricted():
            until = time.monotonic() + BUSY_SECONDS * is_first

        async def turn() -> None:
            while True:
                with workflow.unsafe.sandbox_unrestricted():
                    if time.monotonic() > until:
                        return
                await asyncio.sleep(0)

        await asyncio.gather(*(turn() for _ in range(TASKS)))
        return "through"
