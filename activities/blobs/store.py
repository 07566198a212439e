"""What a blob store is: bytes by key, how it fails, and the frame in which a piece is kept.

Law: a piece is there whole or not at all, and what is read is what was written: a torn or changed piece is an error,
never data.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from workflows.errors import RetryableStepError, cut

KEY_LENGTH = 640
# Room for a namespace, a workflow id, a run id and a hash. Object stores take 1,024 bytes, and the rest is for the
# prefix of a bucket.
SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
# One part of a key. No leading dot: no way out of the folder, and room for the names of unfinished files.

HEADER = re.compile(rb"perdure-blob 1 ([0-9a-f]{64}) (\d+)\n")
# What a kept piece begins with: the SHA-256 and the length of what follows.
HEADER_LENGTH = 128
# No header is longer than this.


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


@dataclass(frozen=True, slots=True)
class Piece:
    """What a store tells of a piece without reading it."""

    key: str
    size: int
    """Bytes that it takes in the store, its frame included."""
    written: datetime


class BlobStore(Protocol):
    """Bytes by key. A key is slash-separated; `prefix` is a key that others continue after a slash."""

    async def put(self, key: str, data: bytes) -> None:
        """Keep a piece; returns when it is durable. An earlier piece of this key is replaced whole."""

    async def get(self, key: str) -> bytes:
        """The piece as it was put. Raises `BlobNotFound` or `BlobCorrupt`."""

    async def holds(self, key: str) -> bool:
        """Whether there is a piece with this key."""

    async def list(self, prefix: str) -> Sequence[str]:
        """The keys under a prefix, sorted; none where there is nothing."""

    def pieces(self, prefix: str) -> AsyncIterator[Piece]:
        """Every piece under a prefix, those of one folder one after the other."""

    async def delete(self, prefix: str) -> int:
        """Remove the keys under a prefix; how many there were."""

    async def remove(self, keys: Sequence[str]) -> None:
        """Remove these pieces. One that is gone already is no error."""


def checked_key(key: str) -> str:
    """The key. Raises `KeyRejected` where it is none."""
    if len(key) > KEY_LENGTH or not all(SAFE_NAME.fullmatch(name) for name in key.split("/")):
        raise KeyRejected(key)
    return key


def framed(data: bytes) -> bytes:
    """A piece as it is kept: behind a line with its checksum and its length."""
    return header(data) + data


def header(data: bytes) -> bytes:
    """The first line of a kept piece."""
    return f"perdure-blob 1 {hashlib.sha256(data).hexdigest()} {len(data)}\n".encode()


def unframed(key: str, stored: bytes) -> bytes:
    """The piece as it was put. Raises `BlobCorrupt` where it is not what was written."""
    found = HEADER.match(stored[:HEADER_LENGTH])
    if found is None:
        raise BlobCorrupt(key, "it does not start with a blob's first line")
    data = stored[found.end() :]
    if len(data) != int(found[2]):
        raise BlobCorrupt(key, f"it has {len(data):,} bytes and {int(found[2]):,} were written")
    if hashlib.sha256(data).hexdigest().encode() != found[1]:
        raise BlobCorrupt(key, "its content does not match its checksum")
    return data
