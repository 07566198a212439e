"""What a tool is given besides its parameters, and how it says that it failed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import structlog

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("perdure.tool")


class ToolFailed(Exception):
    """Raise it from a tool to fail the call with this text alone; of other errors the type is told too."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may ask while it runs. It gets one through a parameter of this type."""

    idempotency_key: str
    """The same for every attempt of the call; hand it to services that must act once."""
    workspace: Path
    """The folder that the worker's tools work in."""
    attempt: int = 1
    """Which attempt of the call this is. From 2 on, an earlier one may have had its effect already."""
    log: structlog.typing.FilteringBoundLogger = field(default=_log, repr=False)
    """The worker's log, bound to this call."""
    _stopped: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the call any more. Check it in every loop of a `def` tool: it cannot be killed."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Tell the tool to stop."""
        self._stopped.set()

    def raise_if_cancelled(self) -> None:
        """Leave a tool that nobody waits for. Raises `ToolFailed`."""
        if self.cancelled:
            raise ToolFailed("the call was cancelled")
