"""Encryption of what a history stores: AES-256-GCM, one nonce for each payload.

Format: metadata `encoding` = `binary/encrypted`, `key` = the key's id; data = nonce (12 bytes), then the sealed payload
with its tag. The metadata is authenticated with the data. Payloads that are not encrypted pass through on reading, so
encryption can be switched on while runs are open.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from runtime.sealed import SEALED_ENCODING as ENCODING
from workflows.errors import PayloadLocked

NONCE_BYTES = 12
# GCM's own size. Random nonces are safe for 2**32 payloads of one key (NIST SP 800-38D); rotate before that.

KEY_ID_BYTES = 4
# Tells a handful of keys apart; every stored payload carries it.


def key_id(key: bytes) -> str:
    """The name of a key, which tells nothing about it: eight hex digits of a hash."""
    return hashlib.sha256(b"perdure codec key id\0" + key).hexdigest()[: 2 * KEY_ID_BYTES]


class EncryptionCodec(PayloadCodec):
    """Seals with the first key; opens with any of them, so keys can be rotated."""

    def __init__(self, key: bytes, *older: bytes) -> None:
        self._sealing_id = key_id(key)
        self._ciphers = {key_id(known): AESGCM(known) for known in (key, *older)}

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Each payload sealed, its metadata included."""
        return [self._seal(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Each payload opened. Raises `PayloadLocked` where the key is unknown or the payload was altered."""
        return [self._open(payload) for payload in payloads]

    def _seal(self, payload: Payload) -> Payload:
        nonce = os.urandom(NONCE_BYTES)
        name = self._sealing_id.encode()
        sealed = self._ciphers[self._sealing_id].encrypt(nonce, payload.SerializeToString(), ENCODING + name)
        return Payload(metadata={"encoding": ENCODING, "key": name}, data=nonce + sealed)

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
