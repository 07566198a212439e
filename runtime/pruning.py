"""What of a blob store nobody needs any more: the checkpoints and payloads of runs that are closed and old, or gone.

Law: a piece goes only if it is older than the limit and none of these can lead to it: an open run of its workflow id
(so also one that continued as new), an open run above it, a run that closed within the limit, a schedule that starts
its workflow. A piece whose owner cannot be told stays, and is counted.
Beside live workers that is safe, for what is old is never written again (`activities/blobs/payloads.py`): a run that
begins meanwhile, with whatever id, has keys of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import Client, ScheduleActionStartWorkflow, WorkflowExecutionDescription
from temporalio.service import RPCError, RPCStatusCode

from activities.blobs.checkpoints import STEPS, owner_of
from activities.blobs.payloads import PAYLOADS, UNOWNED, escaped, unescaped
from activities.blobs.store import BlobStore, Piece
from runtime.listing import quoted


@dataclass
class Count:
    """Pieces, and the bytes that they take."""

    pieces: int = 0
    bytes: int = 0

    def add(self, pieces: list[Piece]) -> None:
        """Count these too."""
        self.pieces += len(pieces)
        self.bytes += sum(piece.size for piece in pieces)


@dataclass
class Pruned:
    """What a prune removed, or would remove, and what it left."""

    payloads: Count = field(default_factory=Count)
    checkpoints: Count = field(default_factory=Count)
    kept: Count = field(default_factory=Count)
    """Young, or needed."""
    unknown: Count = field(default_factory=Count)
    """Old, and of an owner that cannot be told."""

    def to_json(self) -> dict[str, Any]:
        """The counts for programs."""
        return asdict(self)


async def prune(client: Client, store: BlobStore, older_than: timedelta, *, dry_run: bool) -> Pruned:
    """Remove what no run of the client's namespace needs; with `dry_run`, only count it."""
    before = datetime.now(UTC) - older_than
    needs = _Needs(client, before, await _scheduled(client))
    pruned = Pruned()

    async def judge(pieces: list[Piece], workflow_id: str | None, count: Count) -> None:
        old = [piece for piece in pieces if piece.written < before]
        pruned.kept.add([piece for piece in pieces if piece.written >= before])
        if workflow_id is None:
            pruned.unknown.add(old)
        elif not old or await needs.holds(workflow_id):
            pruned.kept.add(old)
        else:
            count.add(old)
            if not dry_run:
                await store.remove([piece.key for piece in old])

    async for pieces in _folders(store, f"{PAYLOADS}/{escaped(client.namespace)}", depth=3):
        await judge(pieces, unescaped(pieces[0].key.split("/")[2]), pruned.payloads)
    async for pieces in _folders(store, STEPS, depth=2):
        is_young = max(piece.written for piece in pieces) >= before
        owner = None if is_young else await owner_of(store, max(piece.key for piece in pieces))
        if is_young or (owner is not None and owner.namespace != client.namespace):
            pruned.kept.add(pieces)  # a chain of checkpoints stays whole
        else:
            await judge(pieces, owner.workflow_id if owner else None, pruned.checkpoints)
    async for pieces in _folders(store, UNOWNED, depth=2):
        await judge(pieces, None, pruned.payloads)
    return pruned


async def _folders(store: BlobStore, prefix: str, *, depth: int) -> AsyncIterator[list[Piece]]:
    """The pieces under a prefix, those whose keys begin with the same names together."""
    together: list[Piece] = []
    async for piece in store.pieces(prefix):
        if together and piece.key.split("/")[:depth] != together[0].key.split("/")[:depth]:
            yield together
            together = []
        together.append(piece)
    if together:
        yield together


async def _scheduled(client: Client) -> set[str]:
    """The workflow ids of all schedules. Each keeps the input of its runs, which have a time behind that id."""
    ids = set()
    async for listed in await client.list_schedules():
        action = (await client.get_schedule_handle(listed.id).describe()).schedule.action
        if isinstance(action, ScheduleActionStartWorkflow):
            ids.add(action.id)
    return ids


class _Needs:
    """Whose pieces are needed; asked once for each workflow."""

    def __init__(self, client: Client, before: datetime, scheduled: set[str]) -> None:
        self._client = client
        self._before = before
        self._known = dict.fromkeys(scheduled, True)

    async def holds(self, workflow_id: str) -> bool:
        """Whether some run may still read the pieces of this workflow."""
        if workflow_id not in self._known:
            self._known[workflow_id] = True  # while it is found out: a run is not above itself
            self._known[workflow_id] = await self._is_needed(workflow_id)
        return self._known[workflow_id]

    async def _is_needed(self, workflow_id: str) -> bool:
        latest = await self._latest(workflow_id)
        if latest is not None and (latest.close_time is None or latest.close_time >= self._before):
            return True
        root = latest.raw_description.workflow_execution_info.root_execution.workflow_id if latest else ""
        if root and root != workflow_id and await self.holds(root):
            return True
        return await self._has_followers(workflow_id)

    async def _latest(self, workflow_id: str) -> WorkflowExecutionDescription | None:
        """The latest run of an id; only that one can be open. Asked of the run itself: a list may lag behind."""
        try:
            return await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:  # past its retention, or never begun
                return None
            raise

    async def _has_followers(self, workflow_id: str) -> bool:
        """Whether a run lives whose id begins with this one: of a schedule that is gone, or a child."""
        begins = f"WorkflowId STARTS_WITH {quoted(workflow_id)}"
        since = f"CloseTime >= '{self._before.isoformat()}'"
        for query in (f"{begins} AND ExecutionStatus = 'Running'", f"{begins} AND {since}"):
            async for _ in self._client.list_workflows(query, limit=1):
                return True
        return False
