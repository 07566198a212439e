"""What a process without a key or a blob store says of a payload that is encrypted, or in a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import (
    ExternalStorage,
    PayloadCodec,
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)

from workflows.errors import PayloadLocked
from workflows.wire import PAYLOAD_DRIVER, PAYLOAD_KEY

SEALED_ENCODING = b"binary/encrypted"
"""The `encoding` of a payload that `runtime.codec` sealed."""

INLINE_MARK = "perdure-inline"
"""Metadata of a payload that stays out of the blob store, whatever its size; a seal keeps it readable."""


class KeylessCodec(PayloadCodec):
    """Leaves every payload as it is, and names the remedy where one needs a key.

    Without it the SDK says only that it does not know the encoding, and of a failure it shows `Encoded failure`.
    """

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """See base class."""
        return list(payloads)

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """The payloads as they are. Raises `PayloadLocked` where one is encrypted."""
        for payload in payloads:
            if payload.metadata.get("encoding") == SEALED_ENCODING:
                name = payload.metadata["key"].decode(errors="replace")
                raise PayloadLocked(
                    f"A payload is encrypted with the key {name!r}, and there is none here. "
                    "Set PERDURE_CODEC_KEY to that key."
                )
        return list(payloads)


class NoStoreDriver(StorageDriver):
    """Stands where no blob store is set, and names the remedy where a payload is in one."""

    def name(self) -> str:
        """See base class."""
        return PAYLOAD_DRIVER

    async def store(self, context: StorageDriverStoreContext, payloads: Sequence[Payload]) -> list[StorageDriverClaim]:
        """Never called: its selector leaves every payload where it is."""
        raise NotImplementedError

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        """See base class. Raises `PayloadOutOfReach`."""
        from activities.blobs.payloads import PayloadOutOfReach  # loads what reading a run must not wait for

        raise PayloadOutOfReach(
            f"The payload {claims[0].claim_data[PAYLOAD_KEY]!r} is in a blob store, and there is none here. "
            "Set PERDURE_BLOBS to the store of the run's workers."
        )


def no_storage() -> ExternalStorage:
    """Leaves every payload in the history, and names the remedy where one is in a blob store."""
    return ExternalStorage(drivers=[NoStoreDriver()], driver_selector=lambda _context, _payload: None)


def reading(client: Client) -> Client:
    """The client, for reading runs: it says so where it lacks the key or the blob store of what it reads.

    Only for reading: both cost a worker some work for each payload of each step.
    """
    config = client.config(active_config=True)
    converter = config["data_converter"]
    config["data_converter"] = replace(
        converter,
        payload_codec=converter.payload_codec or KeylessCodec(),
        external_storage=converter.external_storage or no_storage(),
    )
    config["plugins"] = []  # they have done their part
    return Client(**config)
