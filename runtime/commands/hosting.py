"""Who answers for an open run where `--local` finds no worker: one of this call's own, that starts no step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from temporalio.client import WorkflowQueryFailedError

from runtime.commands.session import Session
from runtime.watching import NoAnswer, RunReader, has_worker


@asynccontextmanager
async def answering(session: Session, readers: Sequence[RunReader]) -> AsyncIterator[bool]:
    """With `--local` and no worker, bring one that answers and starts no step: its agents may be others than the run's.

    Gives whether it did.
    """
    if not session.common.is_local or not readers or await is_answered(session, readers[0]):
        yield False
        return
    async with session.worker(no_remote_activities=True):
        yield True


async def is_answered(session: Session, reader: RunReader) -> bool:
    """Whether a worker answers for a run. One that is gone stays listed for minutes, so it is asked."""
    if not await has_worker(session.client, session.settings.task_queue):
        return False
    try:
        await reader.budget()  # of the run alone: its children may be many
    except NoAnswer as silent:
        return isinstance(silent.__cause__, WorkflowQueryFailedError)
    return True
