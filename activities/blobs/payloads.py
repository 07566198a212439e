"""Payloads that are too large for a history: what Temporal's external storage keeps in the blob store, and where.

Key: `payloads/<namespace>/<workflow id>/<run id>/<SHA-256>`. What is stored for a run that has no id yet (its input, a
signal) has the day in its place. So everything of a workflow stands under one prefix, and a key of the past is never
written again: what a prune finds there old and unused stays so.

Law: what is kept twice for one run is stored once. A reference is handed out only when its payload is durable, and what
it brings back is what was stored, or an error: `PayloadMissing` is final, `PayloadOutOfReach` is worth another attempt.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
    StorageDriverWorkflowInfo,
)

from activities.blobs.store import BlobCorrupt, BlobNotFound, BlobStore, StoreUnavailable
from workflows.errors import PayloadLocked, PayloadTooLarge, PerdureError, SettingsRejected
from workflows.wire import MAX_STORED_BYTES, PAYLOAD_DRIVER, PAYLOAD_KEY

PAYLOADS = "payloads"
"""What the keys of payloads begin with."""
UNOWNED = "unowned"
"""What the keys of payloads begin with that belong to no workflow. perdure itself stores none."""

DRIVER_TYPE = "perdure.blobs."
"""How its type begins, which workers tell the server."""

PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)
# Between attempts. With their sum of 3 s a hiccup of the store passes unseen, also a mount that shows a new file to
# other machines late; and the six seconds of a step's heartbeat are kept. A longer outage fails the workflow task or
# the attempt, which Temporal tries again.

FRAME_BYTES = 100_000
# What the frames of a converter and of a codec may add to the JSON that `wire.fits` has measured.

IN_THREAD_BYTES = 1_000_000
# The checksum of so much takes a millisecond or two; of more, longer than the event loop should be held.

KEYS_REMEMBERED = 10_000
# A replay stores again what the run has stored before. Of that many keys it is known without asking the store.

OWNER_LENGTH = 200
# One part of a key.
PLAIN = re.compile(rb"[A-Za-z0-9.-]")

T = TypeVar("T")


class PayloadMissing(PerdureError):
    """A payload that a run needs is not in the blob store, or damaged: no attempt here will find it."""

    def __init__(self, key: str, place: str, found: str) -> None:
        super().__init__(
            f"The payload {key!r} {found} in the blob store {place!r}. "
            "Set PERDURE_BLOBS to the store that the run's other workers and its starter have, or restore the piece."
        )


class PayloadOutOfReach(PayloadLocked):
    """The blob store of a payload does not answer, or none is set here.

    Not final: a worker that reaches the store can still do what this one could not read.
    """


class PayloadDriver(StorageDriver):
    """Keeps payloads in a blob store. One that only reads makes the same references and stores nothing."""

    def __init__(self, open_store: Callable[[], BlobStore], place: str, *, only_reads: bool = False) -> None:
        self._open = open_store
        self._opened: BlobStore | None = None
        self._place = place
        self._only_reads = only_reads
        self._known: OrderedDict[str, None] = OrderedDict()

    def name(self) -> str:
        """See base class."""
        return PAYLOAD_DRIVER

    def type(self) -> str:
        """See base class. Workers tell it to the server, so `perdure doctor` can compare two stores."""
        return driver_type(self._place)

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        """See base class. Raises `PayloadTooLarge` or `PayloadOutOfReach`."""
        for payload in payloads:
            if (size := payload.ByteSize()) > MAX_STORED_BYTES + FRAME_BYTES:
                raise PayloadTooLarge(owner=_owner(context), field="a payload", size=size, limit=MAX_STORED_BYTES)
        folder = _folder(context)
        return list(await asyncio.gather(*(self._store(folder, payload) for payload in payloads)))

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        """See base class. Raises `PayloadMissing` or `PayloadOutOfReach`."""
        return list(await asyncio.gather(*(self._retrieve(claim.claim_data[PAYLOAD_KEY]) for claim in claims)))

    async def _store(self, folder: str, payload: Payload) -> StorageDriverClaim:
        data = payload.SerializeToString(deterministic=True)
        digest = await _off_the_loop(len(data), lambda: hashlib.sha256(data).hexdigest())
        key = f"{folder}/{digest}"
        if not self._only_reads and key not in self._known:
            await self._tried("stored in", lambda: self._put(key, data))
            self._remember(key)
        return StorageDriverClaim({PAYLOAD_KEY: key})

    async def _put(self, key: str, data: bytes) -> None:
        store = self._store_itself()
        if not await store.holds(key):
            await store.put(key, data)

    def _remember(self, key: str) -> None:
        self._known[key] = None
        if len(self._known) > KEYS_REMEMBERED:
            self._known.popitem(last=False)

    async def _retrieve(self, key: str) -> Payload:
        try:
            data = await self._tried("read from", lambda: self._store_itself().get(key))
            if await _off_the_loop(len(data), lambda: hashlib.sha256(data).hexdigest()) != key.rpartition("/")[2]:
                raise BlobCorrupt(key, "its content does not match its name")
            return Payload.FromString(data)
        except BlobNotFound:
            raise PayloadMissing(key, self._place, "is not") from None
        except (BlobCorrupt, DecodeError):
            raise PayloadMissing(key, self._place, "is damaged") from None

    def _store_itself(self) -> BlobStore:
        if self._opened is None:
            try:
                self._opened = self._open()
            except SettingsRejected as error:  # final for who starts a process, and not for a run that it serves
                raise PayloadOutOfReach(error.message) from None
        return self._opened

    async def _tried(self, doing: str, work: Callable[[], Awaitable[T]]) -> T:
        """The work's result, tried again where the store does not answer or does not show a piece yet."""
        for pause in PAUSES_SECONDS:
            try:
                return await work()
            except (StoreUnavailable, BlobNotFound):
                await asyncio.sleep(pause)
        try:
            return await work()
        except StoreUnavailable as error:
            raise PayloadOutOfReach(
                f"A payload cannot be {doing} the blob store {self._place!r} of PERDURE_BLOBS. {error}"
            ) from None


def driver_type(place: str) -> str:
    """What the driver over a store is called among workers: the same for the same place, and tells nothing about it."""
    return f"{DRIVER_TYPE}{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def escaped(name: str) -> str:
    """A workflow id or namespace as one part of a key. One that is too long is known by its hash."""
    written = "".join(
        chr(byte) if PLAIN.match(bytes([byte])) and (place or byte != ord(".")) else f"_{byte:02X}"
        for place, byte in enumerate(name.encode())
    )
    return written if len(written) <= OWNER_LENGTH else f"__{hashlib.sha256(name.encode()).hexdigest()}"


def unescaped(part: str) -> str | None:
    """The name that a part of a key stands for; None where only its hash is known."""
    if part.startswith("__"):
        return None
    pieces = part.split("_")
    return (pieces[0].encode() + b"".join(bytes.fromhex(p[:2]) + p[2:].encode() for p in pieces[1:])).decode()


def _folder(context: StorageDriverStoreContext) -> str:
    """Where the payloads of a run are kept."""
    target = context.target
    today = datetime.now(UTC).date().isoformat()
    if not isinstance(target, StorageDriverWorkflowInfo) or not target.id:
        return f"{UNOWNED}/{today}"
    return f"{PAYLOADS}/{escaped(target.namespace)}/{escaped(target.id)}/{target.run_id or today}"


def _owner(context: StorageDriverStoreContext) -> str:
    return f"run {context.target.id!r}" if isinstance(context.target, StorageDriverWorkflowInfo) else "an activity"


async def _off_the_loop(size: int, work: Callable[[], T]) -> T:
    """The result of some computing, in a thread where it would hold the event loop."""
    return await asyncio.to_thread(work) if size > IN_THREAD_BYTES else work()
