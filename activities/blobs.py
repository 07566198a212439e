"""The store for what is too large for a history or a heartbeat, and the checkpoints that steps keep in it.

Law: a piece is there whole or not at all, and what is read is what was written: a torn or changed piece is an error,
never data. Checkpoints form a chain: each names the one before it, so two attempts that overlap (a worker that was
lost and came back) leave two chains and never a mixed one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import structlog
from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from workflows.errors import RetryableStepError, SettingsRejected, cut
from workflows.steps import Usage

KEY_LENGTH = 512
# Well below what file systems and object stores take, folder included.
SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
# One part of a key. No leading dot: no way out of the folder, and room for the names of unfinished files.
UNFINISHED = ".unfinished-"

HEADER = re.compile(rb"perdure-blob 1 ([0-9a-f]{64}) (\d+)\n")
# First line of a stored file: the SHA-256 and the length of what follows.
HEADER_LENGTH = 128
# No header is longer than this.

FILE_MODE = 0o600
FOLDER_MODE = 0o700
# A transcript may hold whatever an agent read, so it is for the worker's user alone.

WRITE_ATTEMPTS = 5
# How often a piece is written again when a concurrent delete took its folder away.

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.blobs")
_json: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)

T = TypeVar("T")


class BlobError(Exception):
    """A piece of the store cannot be used."""


class BlobNotFound(BlobError):
    """The store holds no piece with this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"The blob store holds no piece {cut(key)!r}. It was deleted, or this is another store.")


class BlobCorrupt(BlobError):
    """A piece is not what was written."""

    def __init__(self, key: str, found: str) -> None:
        super().__init__(f"The piece {cut(key)!r} of the blob store is corrupt: {found}. Restore it, or delete it.")


class KeyRejected(BlobError, ValueError):
    """A key is no slash-separated list of safe names."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"{cut(key)!r} is no key of the blob store. A key is made of names of letters, digits, '-', '_' and '.', "
            f"none starting with a dot, separated by '/', and is at most {KEY_LENGTH} characters long."
        )


class StoreUnavailable(RetryableStepError):
    """The store did not take or give a piece (a full disk, a lost mount); another attempt may succeed."""


class BlobStore(Protocol):
    """Bytes by key. A key is slash-separated; `prefix` is a key that others continue after a slash."""

    async def put(self, key: str, data: bytes) -> None:
        """Keep a piece; returns when it is durable. An earlier piece of this key is replaced whole."""

    async def get(self, key: str) -> bytes:
        """The piece as it was put. Raises `BlobNotFound` or `BlobCorrupt`."""

    async def list(self, prefix: str) -> Sequence[str]:
        """The keys under a prefix, sorted; none where there is nothing."""

    async def delete(self, prefix: str) -> int:
        """Remove the keys under a prefix; how many there were."""


class FolderStore:
    """A blob store in a folder, which may be a mount that several workers share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, key: str, data: bytes) -> None:
        """Keep a piece: written aside, flushed, renamed into place. Twice leaves the latest."""
        await self._in_thread(f"put {key!r} into", lambda: self._put(self._path(key), data))

    async def get(self, key: str) -> bytes:
        """The piece as it was put. Raises `BlobNotFound` or `BlobCorrupt`."""
        path = self._path(key)
        stored = await self._in_thread(f"get {key!r} from", lambda: _read(path))
        if stored is None:
            raise BlobNotFound(key)
        return _verified(key, stored)

    async def list(self, prefix: str) -> Sequence[str]:
        """The keys under a prefix, sorted; none where there is nothing."""
        folder = self._path(prefix)
        names = await self._in_thread(f"list {prefix!r} in", lambda: sorted(_files(folder)))
        return [f"{prefix}/{name}" for name in names]

    async def delete(self, prefix: str) -> int:
        """Remove the keys under a prefix; how many there were. What is written meanwhile may stay."""
        return await self._in_thread(f"delete {prefix!r} from", lambda: _remove(self._path(prefix)))

    def _path(self, key: str) -> Path:
        names = key.split("/")
        if len(key) > KEY_LENGTH or not all(SAFE_NAME.fullmatch(name) for name in names):
            raise KeyRejected(key)
        return self._folder.joinpath(*names)

    async def _in_thread(self, doing: str, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise StoreUnavailable(f"Could not {doing} the blob store: {error.strerror or error}.") from error

    def _put(self, path: Path, data: bytes) -> None:
        for _ in range(WRITE_ATTEMPTS):
            with suppress(FileNotFoundError):  # a concurrent delete took the folder or the unfinished file
                self._make_folder(path.parent)
                return _write(path, data)
        raise OSError(f"the folder {path.parent} was deleted {WRITE_ATTEMPTS} times meanwhile")

    def _make_folder(self, folder: Path) -> None:
        """Make a folder of the store, and its name durable."""
        if not folder.is_dir():
            if folder != self._folder:
                self._make_folder(folder.parent)
            elif not folder.parent.is_dir():
                raise OSError(f"the folder {folder.parent} is missing")  # a mount that went away
            folder.mkdir(FOLDER_MODE, exist_ok=True)
            _flush_folder(folder.parent)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _write(path: Path, data: bytes) -> None:
    """Put a file into an existing folder, durably and whole."""
    unfinished = path.with_name(f"{UNFINISHED}{uuid4().hex}")
    header = f"perdure-blob 1 {hashlib.sha256(data).hexdigest()} {len(data)}\n".encode()
    try:
        unfinished.touch(FILE_MODE, exist_ok=False)
        with unfinished.open("wb") as file:
            file.write(header)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what is told
            unfinished.unlink()
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return  # deleted meanwhile, names and all
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verified(key: str, stored: bytes) -> bytes:
    header = HEADER.match(stored[:HEADER_LENGTH])
    if header is None:
        raise BlobCorrupt(key, "it does not start with a blob's first line")
    data = stored[header.end() :]
    if len(data) != int(header[2]):
        raise BlobCorrupt(key, f"it has {len(data):,} bytes and {int(header[2]):,} were written")
    if hashlib.sha256(data).hexdigest().encode() != header[1]:
        raise BlobCorrupt(key, "its content does not match its checksum")
    return data


def _files(folder: Path) -> Iterator[str]:
    """Names of the finished files below a folder, relative to it."""
    for parent, _, names in os.walk(folder):  # a folder that is missing, or vanishes, holds none
        for name in names:
            if not name.startswith(UNFINISHED):
                yield (Path(parent) / name).relative_to(folder).as_posix()


def _remove(folder: Path) -> int:
    removed = 0
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            with suppress(FileNotFoundError):  # a concurrent delete was faster
                (Path(parent) / name).unlink()
                removed += not name.startswith(UNFINISHED)
        with suppress(OSError):  # somebody writes here again
            Path(parent).rmdir()
    return removed


def open_store(setting: str | None) -> BlobStore | None:
    """The store that the setting `blobs` names; None where nothing is set.

    The folder itself is made where it is missing, never the one that it is in: that may be a mount which is not there.
    Raises `SettingsRejected` where it cannot be used.
    """
    if not setting:
        return None
    if "://" in setting:
        scheme = setting.partition("://")[0]
        kind = "S3 is" if scheme.lower() == "s3" else f"{cut(scheme)!r} addresses are"
        raise SettingsRejected(
            f"PERDURE_BLOBS: {kind} not supported by this version. Give the path of a folder that all workers share."
        )
    folder = Path(setting).expanduser().absolute()
    if not folder.parent.is_dir():
        raise SettingsRejected(
            f"PERDURE_BLOBS is {setting!r}, and there is no folder {str(folder.parent)!r}. Mount it, or make it."
        )
    try:
        folder.mkdir(FOLDER_MODE, exist_ok=True)
    except OSError as error:
        raise SettingsRejected(f"PERDURE_BLOBS is {setting!r}, which cannot be made ({error.strerror}).") from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise SettingsRejected(f"PERDURE_BLOBS is {setting!r}, which this user may not read and write.")
    return FolderStore(folder)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a step left, what it had spent until then over all its attempts, and where it is kept."""

    value: JsonValue
    usage: Usage
    reference: str


class _Piece(BaseModel):
    value: JsonValue
    usage: Usage
    after: str | None = None


class Checkpoints:
    """The checkpoints of one step: `steps/<idempotency key>/<sequence, 6 digits>-<SHA-256, first 16 digits>`."""

    def __init__(self, store: BlobStore, idempotency_key: str) -> None:
        self._store = store
        self._folder = f"steps/{idempotency_key}"
        self._last: str | None = None
        self._is_read = False
        self._appending = asyncio.Lock()

    async def append(self, value: JsonValue, usage: Usage) -> str:
        """Keep a value after the latest one; its reference, when it is durable. Twice leaves two, in order.

        Raises ValueError where the value is no JSON, `StoreUnavailable` where the store does not take it.
        """
        async with self._appending:
            if not self._is_read:
                await self._read_latest()
            written = plain_json({"value": value, "usage": usage.model_dump(), "after": self._last}).encode()
            sequence = _sequence(self._last) + 1 if self._last else 1
            name = f"{sequence:06d}-{_short_hash(written)}"
            await self._store.put(f"{self._folder}/{name}", written)
            self._last = name
            return f"{self._folder}/{name}"

    async def latest(self) -> Checkpoint | None:
        """The newest piece that can be read. One that cannot is passed over, with a warning in the log."""
        async with self._appending:
            return await self._read_latest()

    async def all(self) -> Sequence[Checkpoint]:
        """The newest chain of pieces that can be read from its first piece on, in order."""
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
        names = [key.removeprefix(f"{self._folder}/") for key in keys]
        return sorted((name for name in names if _sequence(name)), key=lambda name: (_sequence(name), name))[::-1]

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
            return None

    def _checkpoint(self, name: str, piece: _Piece) -> Checkpoint:
        return Checkpoint(value=piece.value, usage=piece.usage, reference=f"{self._folder}/{name}")


def _sequence(name: str) -> int:
    """Place of a piece in its chain, from 1; 0 for a name of another form."""
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
