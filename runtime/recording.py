"""A history as a replay test keeps it: all that a replay needs, and nothing that names a process or a machine.

What the run has in the blob store is put in its place, as it was before it was stored (encrypted, where it was), so the
file replays where no store is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter

from activities.blobs.payloads import PayloadMissing

LEFT_OUT = frozenset({"identity", "stackTrace"})
# The first holds process id and host name, in every event that a client or a worker caused; the second the paths of
# the machine on which something failed. A replay reads neither.

STICKY = "TASK_QUEUE_KIND_STICKY"
# The name of a worker's own queue holds its process id and host name too.

FETCHED_AT_ONCE = 16
# Payloads from the blob store; each may be 20 MB.


async def inlined(history: WorkflowHistory, converter: DataConverter) -> list[PayloadMissing]:
    """Put what the history has in the blob store in its place; what was not found there.

    The input of a child that was pruned before its parent may be missing: no replay of the parent reads it.
    Raises `PayloadOutOfReach` where the store cannot be asked.
    """
    missing: list[PayloadMissing] = []
    at_once = asyncio.Semaphore(FETCHED_AT_ONCE)

    async def fetch(payload: Payload) -> None:
        async with at_once:
            try:
                # The SDK has no public word for this: `decode` would open what is encrypted, too.
                [reference] = await converter._decode_reference_payload_sequence([payload])
                [fetched] = await converter._external_retrieve_payload_sequence([reference])
            except PayloadMissing as error:
                missing.append(error)
            else:
                payload.CopyFrom(fetched)

    stored = [payload for event in history.events for payload in payloads_of(event) if payload.external_payloads]
    await asyncio.gather(*(fetch(payload) for payload in stored))
    return missing


def payloads_of(message: Message) -> Iterator[Payload]:
    """Every payload in a message of Temporal's, at any depth."""
    if isinstance(message, Payload):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        held = value.values() if field.message_type.GetOptions().map_entry else value
        for one in [held] if isinstance(held, Message) else held:
            if isinstance(one, Message):
                yield from payloads_of(one)


def recorded(history: WorkflowHistory) -> str:
    """The history as JSON, one event a line, so that a change to it can be read."""
    events = [json.dumps(_anonymous(event), separators=(",", ":")) for event in history.to_json_dict()["events"]]
    return '{"events":[\n' + ",\n".join(events) + "\n]}\n"


def _anonymous(value: Any) -> Any:
    if isinstance(value, dict) and value.get("kind") == STICKY:
        return {**value, "name": value.get("normalName", "")}
    if isinstance(value, dict):
        return {key: _anonymous(item) for key, item in value.items() if key not in LEFT_OUT}
    if isinstance(value, list):
        return [_anonymous(item) for item in value]
    return value
