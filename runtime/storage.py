"""Large payloads out of the history: what a client, a worker and a Replayer need so that the blob store holds them.

Order: a value is converted, then encrypted, then stored. So with a codec the store holds ciphertext, and the reference
in the history, which names the workflow, the run and a hash, is readable.
Law: a Replayer reads from the store and writes nothing to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.converter import (
    ActivitySerializationContext,
    DataConverter,
    ExternalStorage,
    SerializationContext,
    StorageDriver,
    StorageDriverSelectContext,
)
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    HandleQueryInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from activities.blobs import BlobStore, open_store, place_of
from activities.blobs.payloads import PayloadDriver, PayloadMissing
from runtime.sealed import INLINE_MARK
from runtime.settings import Settings
from workflows import wire
from workflows.errors import SettingsRejected

PAYLOADS_AT_ONCE = 16
# Of one workflow task, with the store. The SDK's 3 make a fan-out of large prompts wait: 100 of them 1 s on S3.


def with_storage(converter: DataConverter, settings: Settings, *, only_reads: bool = False) -> DataConverter:
    """The converter with the settings' blob store behind it; as it is where none is set, or it has a storage already.

    Raises `SettingsRejected` for an address that no store has. The store is opened when it is first used.
    """
    if settings.blobs is None or not (converter.external_storage is None or is_ours(converter.external_storage)):
        return converter
    driver = PayloadDriver(lambda: _opened(settings.blobs), place_of(settings.blobs), only_reads=only_reads)
    storage = ExternalStorage(
        drivers=[driver],
        driver_selector=_selecting(driver),
        payload_size_threshold=settings.payload_threshold_bytes,
    )
    if type(converter) is not DataConverter:  # the user's own, or ours already
        return replace(converter, external_storage=storage)
    return StoringConverter(
        payload_converter_class=converter.payload_converter_class,
        payload_codec=converter.payload_codec,
        failure_converter_class=converter.failure_converter_class,
        external_storage=storage,
    )


def is_ours(storage: ExternalStorage) -> bool:
    """Whether a storage is one that `with_storage` made."""
    return any(isinstance(driver, PayloadDriver) for driver in storage.drivers)


def _opened(setting: str | None) -> BlobStore:
    store = open_store(setting)
    if store is None:
        raise SettingsRejected("PERDURE_BLOBS is not set.")
    return store


def _selecting(driver: PayloadDriver) -> Any:
    def select(_context: StorageDriverSelectContext, payload: Payload) -> StorageDriver | None:
        return None if INLINE_MARK in payload.metadata else driver

    return select


@dataclass(frozen=True)
class StoringConverter(DataConverter):
    """Hands an activity the error of an argument that is missing from the store, so that it can be final.

    The SDK itself would tell only that the arguments could not be decoded, and try for as long as the step may.
    """

    is_for_activity: bool = False

    def with_context(self, context: SerializationContext) -> StoringConverter:
        """See base class."""
        bound = copy(super().with_context(context))
        object.__setattr__(bound, "is_for_activity", isinstance(context, ActivitySerializationContext))
        return bound

    async def decode(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """See base class."""
        try:
            return await super().decode(payloads, type_hints)
        except PayloadMissing as missing:
            if not self.is_for_activity:
                raise
            return [missing for _ in payloads]


class StorageInterceptor(Interceptor):
    """Tells the workflows and activities of a worker that there is a store, and keeps answers to queries out of it."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See base class."""
        return _Activity(next)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """See base class."""
        input.unsafe_extern_functions[wire.LARGE_PAYLOADS_EXTERN] = bool
        return _Workflow


class _Activity(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        for argument in input.args:
            if isinstance(argument, PayloadMissing):
                raise argument
        wire.takes_large_payloads.set(True)
        return await super().execute_activity(input)


class _Workflow(WorkflowInboundInterceptor):
    async def handle_query(self, input: HandleQueryInput) -> Any:
        """No history keeps the answer, so nothing would ever lead to what a store kept of it."""
        answer = await super().handle_query(input)
        [payload] = workflow.payload_converter().to_payloads([answer])
        payload.metadata[INLINE_MARK] = b"true"
        return RawValue(payload)
