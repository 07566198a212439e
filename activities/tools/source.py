"""Where the tools of a model agent come from: the worker's own, or a server of them.

Law: a tool is offered under a name that every model provider takes (1 to 64 of A-Z, a-z, 0-9, '_' and '-'), and its
call ends: with a result, with `ToolFailed` or `ParametersRejected`, or cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from activities.tools.context import ToolContext


class CallTool(Protocol):
    """How an offered tool is called."""

    async def __call__(
        self, arguments: dict[str, JsonValue], context: ToolContext, timeout_seconds: float | None
    ) -> JsonValue:
        """The tool's result; running twice is told by `context.idempotency_key`.

        The caller's `timeout_seconds` hold where the tool has no limit of its own. Raises `ParametersRejected` where
        the arguments are not what the tool takes, `ToolFailed` where it failed or took too long, and CancelledError
        after it has stopped, or was left behind.
        """


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool as a model sees it, and how it is called."""

    name: str
    description: str
    parameters: dict[str, JsonValue]
    """JSON Schema of an object."""
    call: CallTool
    requires_approval: bool = False


class ToolSource(Protocol):
    """A server of tools. An agent names it in `tools`: `<source>` for all of its tools, `<source>.<tool>` for one."""

    async def tools(self) -> Sequence[OfferedTool]:
        """What is offered now.

        Raises `RetryableStepError` where the source cannot be reached, `StepFailed` where it never will be.
        """

    async def close(self) -> None:
        """Let go of what was opened; the worker has drained. A later use opens it again."""
