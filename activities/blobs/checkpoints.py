"""The checkpoints that steps leave in a blob store.

Law: checkpoints form a chain: each names the one before it, so two attempts that overlap (a worker that was lost and
came back) leave two chains and never a mixed one. What is appended goes after what was read: a chain that broke is not
made longer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError
from temporalio import activity

from activities.blobs.store import BlobCorrupt, BlobError, BlobStore
from workflows.errors import cut
from workflows.steps import Usage

STEPS = "steps"
"""What the keys of checkpoints begin with."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.blobs")
_json: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a step left, what it had spent until then over all its attempts, and where it is kept."""

    value: JsonValue
    usage: Usage
    reference: str


class Owner(BaseModel):
    """The workflow that a step belongs to: when its runs are gone, so is the use of the step's checkpoints."""

    model_config = ConfigDict(frozen=True)

    namespace: str
    workflow_id: str


class _Piece(BaseModel):
    value: JsonValue
    usage: Usage
    after: str | None = None
    owner: Owner | None = None


class Checkpoints:
    """The checkpoints of one step: `steps/<idempotency key>/<sequence, 6 digits>-<SHA-256, first 16 digits>`."""

    def __init__(self, store: BlobStore, idempotency_key: str) -> None:
        self._store = store
        self._folder = f"{STEPS}/{idempotency_key}"
        self._last: str | None = None
        """The end of the chain that was read; what is appended comes after it."""
        self._newest = 0
        """The highest sequence that is there; what is appended has a higher one, so that it is the newest."""
        self.has_gap = False
        """Whether a piece could not be read, so that what came after it was passed over."""
        self._is_read = False
        self._appending = asyncio.Lock()

    async def append(self, value: JsonValue, usage: Usage) -> str:
        """Keep a value after the latest one; its reference, when it is durable. Twice leaves two, in order.

        Raises ValueError where the value is no JSON, `StoreUnavailable` where the store does not take it.
        """
        async with self._appending:
            if not self._is_read:
                await self._read_latest()
            owner = _owner()
            kept = {"value": value, "usage": usage.model_dump(), "after": self._last}
            written = plain_json({**kept, "owner": owner.model_dump()} if owner else kept).encode()
            sequence = self._newest + 1
            name = f"{sequence:06d}-{_short_hash(written)}"
            await self._store.put(f"{self._folder}/{name}", written)
            self._last, self._newest = name, sequence
            return f"{self._folder}/{name}"

    async def latest(self) -> Checkpoint | None:
        """The newest piece that can be read. One that cannot is passed over, with a warning in the log."""
        async with self._appending:
            return await self._read_latest()

    async def all(self) -> Sequence[Checkpoint]:
        """The newest chain of pieces that can be read from its first piece on, in order; `append` goes on with it."""
        async with self._appending:
            self._is_read = True
            chain = await self._whole_chain()
            self._last = _name(chain[-1]) if chain else None
            return chain

    async def _whole_chain(self) -> list[Checkpoint]:
        pieces: dict[str, _Piece | None] = {}
        for newest in await self._names():
            chain: list[Checkpoint] = []
            name: str | None = newest
            while name is not None:
                if name not in pieces:
                    pieces[name] = await self._read(name)
                piece = pieces[name]
                if piece is None:
                    break
                chain.append(self._checkpoint(name, piece))
                name = piece.after
            else:
                return chain[::-1]
        return []

    async def _read_latest(self) -> Checkpoint | None:
        self._is_read = True
        for name in await self._names():
            piece = await self._read(name)
            if piece is not None:
                self._last = name
                return self._checkpoint(name, piece)
        return None

    async def _names(self) -> Sequence[str]:
        """Names of the pieces, newest first."""
        keys = await self._store.list(self._folder)
        names = [name for key in keys if _sequence(name := key.removeprefix(f"{self._folder}/"))]
        names.sort(key=lambda name: (_sequence(name), name), reverse=True)
        self._newest = max(self._newest, _sequence(names[0])) if names else self._newest
        return names

    async def _read(self, name: str) -> _Piece | None:
        key = f"{self._folder}/{name}"
        try:
            written = await self._store.get(key)
            if _short_hash(written) != name.partition("-")[2]:
                raise BlobCorrupt(key, "its content does not match its name")
            return _Piece.model_validate_json(written)
        except (BlobError, ValidationError) as error:
            found = cut(str(error)) if isinstance(error, BlobError) else "it is no checkpoint"
            _log.warning("A checkpoint cannot be read and is passed over.", reference=key, error=found)
            self.has_gap = True
            return None

    def _checkpoint(self, name: str, piece: _Piece) -> Checkpoint:
        return Checkpoint(value=piece.value, usage=piece.usage, reference=f"{self._folder}/{name}")


def _owner() -> Owner | None:
    """Whom the step that runs here belongs to; None outside a step."""
    if not activity.in_activity():
        return None
    info = activity.info()
    return Owner(namespace=info.namespace, workflow_id=info.workflow_id) if info.workflow_id else None


async def owner_of(store: BlobStore, key: str) -> Owner | None:
    """The owner that a checkpoint names; None where it names none, or is none. Raises `StoreUnavailable`."""
    try:
        return _Piece.model_validate_json(await store.get(key)).owner
    except (BlobError, ValidationError):
        return None


def _name(checkpoint: Checkpoint) -> str:
    return checkpoint.reference.rpartition("/")[2]


def _sequence(name: str) -> int:
    """Which piece of its step it is, from 1; 0 for a name of another form."""
    digits = name.partition("-")[0]
    return int(digits) if digits.isascii() and digits.isdecimal() else 0


def _short_hash(written: bytes) -> str:
    return hashlib.sha256(written).hexdigest()[:16]


def plain_json(value: Any) -> str:
    """A value as compact JSON text. Raises ValueError, naming the place, where it is not exactly JSON."""
    try:
        _json.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"][1::2])  # pydantic writes ('dict', key, 'list', index, ...)
        raise ValueError(f"{f'at {cut(place)!r}: ' if place else ''}{first['msg']}") from None
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text.encode()  # a lone surrogate is no character: nothing can store it
    return text
