"""For whom a payload is encoded: asked of a run once for each command.

The SDK asks eight to ten times for each command, once or twice each time that it goes through its payloads, and each
time it enters the sandbox anew: a quarter of what a worker with short steps did.

Law: what a run answers stays true until it is activated again, since nothing else changes what it waits for.
"""

from __future__ import annotations

from typing import Any

from temporalio.converter import SerializationContext
from temporalio.worker import WorkflowInstance


class Contexts:
    """What a run has answered since its last activation."""

    def __init__(self, run: WorkflowInstance) -> None:
        self._run = run
        self._serialization: dict[Any, SerializationContext | None] = {}
        self._external_store: dict[Any, Any] = {}

    def forget(self) -> None:
        """The run is activated: what it waits for may change."""
        self._serialization.clear()
        self._external_store.clear()

    def serialization(self, command_info: Any) -> SerializationContext | None:
        """What converters are told about the payloads of a command; `None` stands for those of no command."""
        if command_info not in self._serialization:
            self._serialization[command_info] = self._run.get_serialization_context(command_info)
        return self._serialization[command_info]

    def external_store(self, command_info: Any) -> Any:
        """What drivers of an external storage are told about them."""
        if command_info not in self._external_store:
            self._external_store[command_info] = self._run.get_external_store_context(command_info)
        return self._external_store[command_info]
