"""The worker that `--local` brings for an open run: one that carries it, or one that answers and starts no step.

Law: none is brought for runs whose workflows are all unknown to it: it would take them, and fail them again and again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from temporalio.client import WorkflowQueryFailedError

from runtime.commands.options import Fault
from runtime.commands.session import NAME_ITS_MODULE, Session
from runtime.watching import NoAnswer, RunReader, has_worker


@asynccontextmanager
async def carried(session: Session, reader: RunReader) -> AsyncIterator[None]:
    """With `--local` the run goes on in this process, unless its workflow is not known here: then in another one.

    Raises `Fault` where no other has it.
    """
    is_carried = not session.common.is_local or not reader.info.is_open or session.serves(reader.info.type)
    if is_carried:
        await session.tell_open_runs()
        async with session.worker():
            yield
        return
    if not await is_answered(session, reader):
        raise _not_known(reader, "go on")
    yield


@asynccontextmanager
async def answering(session: Session, readers: Sequence[RunReader]) -> AsyncIterator[bool]:
    """With `--local` and no worker, bring one that answers and starts no step: its agents may be others than the run's.

    Gives whether it did. Raises `Fault` where it could answer for none of the runs.
    """
    if not session.common.is_local or not readers or await is_answered(session, readers[0]):
        yield False
        return
    if not any(session.serves(reader.info.type) for reader in readers):
        raise _not_known(readers[0], "be asked")
    async with session.worker(no_remote_activities=True):
        yield True


def _not_known(reader: RunReader, what: str) -> Fault:
    run, workflow_type = reader.info.id, reader.info.type
    return Fault(f"Run {run!r} cannot {what} here: its workflow type {workflow_type!r} is not known. {NAME_ITS_MODULE}")


async def is_answered(session: Session, reader: RunReader) -> bool:
    """Whether a worker answers for a run. One that is gone stays listed for minutes, so it is asked."""
    if not await has_worker(session.client, session.settings.task_queue):
        return False
    try:
        await reader.budget()  # of the run alone: its children may be many
    except NoAnswer as silent:
        return isinstance(silent.__cause__, WorkflowQueryFailedError)
    return True
