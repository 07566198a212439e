"""One call of the command, before it does what it was called for."""

from __future__ import annotations

import uuid

from temporalio.client import Client

from runtime.commands.options import Common, Hosting
from runtime.commands.session import Session
from runtime.settings import Settings
from runtime.watching import has_worker
from worker import build_worker


async def test_worker_of_a_local_call_is_seen_before_runs_are_read(client: Client) -> None:
    """Whoever reads one then is not told that no worker is there; on a busy machine it takes a while to come."""
    settings = Settings(task_queue=f"fresh-{uuid.uuid4()}")
    session = Session(client, settings, Common(is_local=True, hosting=Hosting(build_worker)))
    async with session.worker():
        assert await has_worker(client, settings.task_queue)
