"""What a process without a key says of a payload that is encrypted."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import Payload

from runtime.codec import EncryptionCodec, key_id
from runtime.sealed import KeylessCodec
from workflows.errors import PayloadLocked

KEY = bytes(range(32))
PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=b"1")


async def test_keyless_codec_leaves_plain_payloads_alone() -> None:
    """What is not encrypted passes, both ways."""
    assert await KeylessCodec().decode(await KeylessCodec().encode([PLAIN])) == [PLAIN]


async def test_keyless_codec_names_the_key_and_the_remedy() -> None:
    """A sealed payload is refused by the name of its key, with the variable to set."""
    with pytest.raises(PayloadLocked) as locked:
        await KeylessCodec().decode([PLAIN, *await EncryptionCodec(KEY).encode([PLAIN])])
    assert locked.value.message == (
        f"A payload is encrypted with the key {key_id(KEY)!r}, and there is none here. "
        "Set PERDURE_CODEC_KEY to that key."
    )
