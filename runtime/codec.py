"""Encryption of what a history stores: AES-256-GCM, one nonce for each payload.

Format: metadata `encoding` = `binary/encrypted`, `key` = the key's id; data = nonce (12 bytes), then the sealed payload
with its tag. The metadata is authenticated with the data. Payloads that are not encrypted pass through on reading, so
encryption can be switched on while runs are open.

A payload that goes to the blob store has a nonce made of its content and its workflow's id (as in RFC 5297, under a key
of its own): a replay seals it to the same bytes, which the store has already. So who reads the store sees which large
payloads of one workflow are the same, and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import AsyncIterator, Callable, Sequence
from copy import copy

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    ActivitySerializationContext,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)

from activities.blobs.store import BlobCorrupt, BlobStore, Piece
from runtime.sealed import INLINE_MARK
from runtime.sealed import SEALED_ENCODING as ENCODING
from workflows.errors import PayloadLocked

NONCE_BYTES = 12
# GCM's own size. Random nonces are safe for 2**32 payloads of one key (NIST SP 800-38D); rotate before that.

SEAL_BYTES = 200
# More than a sealed payload is larger than a plain one: whatever reaches the store has a nonce of the second kind.

IN_THREAD_BYTES = 1_000_000
# Sealing or opening more holds the event loop for milliseconds, and the heartbeats of steps with it.

SEALED_PIECE = b"perdure-sealed 1\n"
# What a sealed piece of the blob store begins with.
KEY_NAME = "perdure-key"
# Sealed with a piece: it can stand under no other name.

KEY_ID_BYTES = 4
# Tells a handful of keys apart; every stored payload carries it.


def key_id(key: bytes) -> str:
    """The name of a key, which tells nothing about it: eight hex digits of a hash."""
    return hashlib.sha256(b"perdure codec key id\0" + key).hexdigest()[: 2 * KEY_ID_BYTES]


class EncryptionCodec(PayloadCodec, WithSerializationContext):
    """Seals with the first key; opens with any of them, so keys can be rotated.

    Payloads of `stored_from` bytes and more go to the blob store.
    """

    def __init__(self, key: bytes, *older: bytes, stored_from: int | None = None) -> None:
        self._sealing_id = key_id(key)
        self._ciphers = {key_id(known): AESGCM(known) for known in (key, *older)}
        self._nonce_key = hmac.digest(key, b"perdure codec nonce", "sha256")
        self._stored_from = stored_from
        self._workflow_id = ""

    def with_context(self, context: SerializationContext) -> EncryptionCodec:
        """The codec for the payloads of a workflow; this one where it would do the same."""
        if self._stored_from is None:
            return self
        bound = copy(self)
        if isinstance(context, (WorkflowSerializationContext, ActivitySerializationContext)):
            bound._workflow_id = context.workflow_id or ""
        return bound

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Each payload sealed, its metadata included."""
        return [await _off_the_loop(self._seal, payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Each payload opened. Raises `PayloadLocked` where the key is unknown or the payload was altered."""
        return [await _off_the_loop(self._open, payload) for payload in payloads]

    def _seal(self, payload: Payload) -> Payload:
        name = self._sealing_id.encode()
        plain = payload.SerializeToString(deterministic=True)
        nonce = self._nonce(plain)
        sealed = self._ciphers[self._sealing_id].encrypt(nonce, plain, ENCODING + name)
        # A mark that tells Temporal's external storage, which comes after the codec, to leave the payload inline.
        marked = {INLINE_MARK: b"true"} if INLINE_MARK in payload.metadata else {}
        return Payload(metadata={"encoding": ENCODING, "key": name, **marked}, data=nonce + sealed)

    def _nonce(self, plain: bytes) -> bytes:
        if self._stored_from is None or len(plain) < self._stored_from - SEAL_BYTES:
            return os.urandom(NONCE_BYTES)
        scope = hashlib.sha256(self._workflow_id.encode()).digest()
        return hmac.digest(self._nonce_key, scope + plain, "sha256")[:NONCE_BYTES]

    def _open(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING or "key" not in payload.metadata:
            return payload
        name = payload.metadata["key"]
        shown = name.decode(errors="replace")
        cipher = self._ciphers.get(shown)
        if cipher is None:
            known = ", ".join(repr(known) for known in self._ciphers)
            raise PayloadLocked(
                f"A payload is encrypted with the key {shown!r}, and the keys here are {known}. "
                "Set PERDURE_CODEC_KEY to the missing one, or add it to PERDURE_CODEC_KEYS_OLD."
            )
        try:
            opened = cipher.decrypt(payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:], ENCODING + name)
            return Payload.FromString(opened)
        except (InvalidTag, ValueError, DecodeError):
            raise PayloadLocked(
                f"A payload that names the key {shown!r} cannot be opened with it: it was altered, or is cut off."
            ) from None


async def _off_the_loop(work: Callable[[Payload], Payload], payload: Payload) -> Payload:
    """The result of some computing, in a thread where it would hold the event loop."""
    return await asyncio.to_thread(work, payload) if payload.ByteSize() > IN_THREAD_BYTES else work(payload)


class SealedStore:
    """A blob store whose pieces nobody reads without the key: what steps leave in it, as payloads are sealed already.

    A piece from before encryption was switched on is read as it is. Names stay readable.
    """

    def __init__(self, store: BlobStore, codec: EncryptionCodec) -> None:
        self._store = store
        self._codec = codec

    async def put(self, key: str, data: bytes) -> None:
        """See `BlobStore`."""
        [sealed] = await self._codec.encode([Payload(data=data, metadata={KEY_NAME: key.encode()})])
        await self._store.put(key, SEALED_PIECE + sealed.SerializeToString())

    async def get(self, key: str) -> bytes:
        """See `BlobStore`. Raises `PayloadLocked` too, where the key of the piece is not here."""
        kept = await self._store.get(key)
        if not kept.startswith(SEALED_PIECE):
            return kept
        try:
            [opened] = await self._codec.decode([Payload.FromString(kept.removeprefix(SEALED_PIECE))])
        except DecodeError:
            raise BlobCorrupt(key, "it begins as a sealed piece and is none") from None
        if opened.metadata.get(KEY_NAME) != key.encode():
            raise BlobCorrupt(key, "it was sealed under another name")
        return opened.data

    async def holds(self, key: str) -> bool:
        """See `BlobStore`."""
        return await self._store.holds(key)

    async def list(self, prefix: str) -> Sequence[str]:
        """See `BlobStore`."""
        return await self._store.list(prefix)

    def pieces(self, prefix: str) -> AsyncIterator[Piece]:
        """See `BlobStore`."""
        return self._store.pieces(prefix)

    async def delete(self, prefix: str) -> int:
        """See `BlobStore`."""
        return await self._store.delete(prefix)

    async def remove(self, keys: Sequence[str]) -> None:
        """See `BlobStore`."""
        await self._store.remove(keys)
