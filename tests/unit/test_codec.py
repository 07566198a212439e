"""Encryption of what a history stores."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import Payload

from runtime.codec import EncryptionCodec, key_id
from workflows.errors import PayloadLocked

OLD, NEW, OTHER = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
PLAIN = Payload(metadata={"encoding": b"json/plain", "messageType": b"x"}, data=b'{"prompt":"the secret plan"}')


async def test_codec_seals_and_opens() -> None:
    """What is opened is what was sealed, metadata included, and the sealed form shows none of it."""
    codec = EncryptionCodec(NEW)
    sealed = await codec.encode([PLAIN, PLAIN])
    assert b"secret" not in b"".join(payload.SerializeToString() for payload in sealed)
    assert sealed[0].data != sealed[1].data, "each payload has a nonce of its own"
    assert {name: bytes(value) for name, value in sealed[0].metadata.items()} == {
        "encoding": b"binary/encrypted",
        "key": key_id(NEW).encode(),
    }
    assert await codec.decode(sealed) == [PLAIN, PLAIN]


async def test_codec_adds_little() -> None:
    """A payload grows by its nonce, its tag and its short metadata."""
    (sealed,) = await EncryptionCodec(NEW).encode([PLAIN])
    assert sealed.ByteSize() - PLAIN.ByteSize() <= 100


async def test_codec_opens_with_an_older_key_and_seals_with_the_new_one() -> None:
    """After a rotation the histories of before stay readable."""
    sealed = await EncryptionCodec(OLD).encode([PLAIN])
    rotated = EncryptionCodec(NEW, OLD)
    assert await rotated.decode(sealed) == [PLAIN]
    assert (await rotated.encode([PLAIN]))[0].metadata["key"] == key_id(NEW).encode()


async def test_codec_passes_plain_payloads_through() -> None:
    """Encryption can be switched on while runs are open."""
    assert await EncryptionCodec(NEW).decode([PLAIN]) == [PLAIN]


async def test_codec_names_the_key_that_is_missing() -> None:
    """The refusal names key ids, and no key."""
    sealed = await EncryptionCodec(OTHER).encode([PLAIN])
    with pytest.raises(PayloadLocked) as locked:
        await EncryptionCodec(NEW, OLD).decode(sealed)
    assert locked.value.message == (
        f"A payload is encrypted with the key '{key_id(OTHER)}', and the keys here are '{key_id(NEW)}', "
        f"'{key_id(OLD)}'. Set PERDURE_CODEC_KEY to the missing one, or add it to PERDURE_CODEC_KEYS_OLD."
    )
    assert not locked.value.non_retryable, "a worker that has the key can still do it"


@pytest.mark.parametrize("damage", [lambda data: data[:-1] + b"?", lambda data: data[:5], lambda data: b""])
async def test_codec_refuses_an_altered_payload(damage: object) -> None:
    """A payload that was changed or cut off is refused, never half read."""
    assert callable(damage)
    (sealed,) = await EncryptionCodec(NEW).encode([PLAIN])
    sealed.data = damage(sealed.data)
    with pytest.raises(PayloadLocked) as locked:
        await EncryptionCodec(NEW).decode([sealed])
    assert locked.value.message == (
        f"A payload that names the key '{key_id(NEW)}' cannot be opened with it: it was altered, or is cut off."
    )
