"""For whom payloads are encoded: a codec is told of the activity, the child or the run that each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import (
    ActivitySerializationContext,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)

from tests import slice_programs
from tests.programs import steps
from tests.slices import lower
from tests.support import served

ADDRESSEE = "addressee"


class Addressed(PayloadCodec, WithSerializationContext):
    """Writes for whom each payload is, and gives up on one that reaches somebody else."""

    def __init__(self) -> None:
        self._addressee = b""

    def with_context(self, context: SerializationContext) -> Addressed:
        told = copy(self)
        told._addressee = _addressee(context).encode()
        return told

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload(metadata={**each.metadata, ADDRESSEE: self._addressee}, data=each.data) for each in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        for each in payloads:
            if (written := each.metadata.get(ADDRESSEE, self._addressee)) != self._addressee:
                raise ValueError(f"for {written.decode()}, and it reached {self._addressee.decode()}")
        return list(payloads)


def _addressee(context: SerializationContext) -> str:
    match context:
        case ActivitySerializationContext():
            return f"{context.workflow_id} {context.activity_type}"
        case WorkflowSerializationContext():
            return context.workflow_id
    raise AssertionError(f"a context of another kind: {context!r}")


async def test_every_payload_of_a_run_reaches_the_activity_or_child_that_it_was_encoded_for(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of the run and of its children: several commands in one workflow task, and their results in the next."""
    lower(monkeypatch)
    config = client.config()
    config["data_converter"] = replace(config["data_converter"], payload_codec=Addressed())
    async with served(Client(**config), *slice_programs.WORKFLOWS) as world:
        handle = await world.start("Steps", [{"name": "few", "steps": steps(8)}, {"name": "many", "steps": steps(17)}])
        report = await handle.result()
    assert (report["succeeded"], report.get("failed", 0)) == (25, 0)
