"""What one tool call of a proposal is given and what it brings back, as both are stored.

Law: these shapes are in recorded histories. A new field arrives with a default; none is renamed or removed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, PositiveInt

from workflows.wire import Stored

ActionStatus = Literal["rejected", "succeeded", "failed", "skipped"]
"""Rejected: it was not begun, for it may not run. Skipped: it was not begun, for the proposal had ended."""

CANCELLED_TEXT = "Action cancelled by caller"


class ActionCall(Stored):
    """The argument of `run_action`."""

    action: str
    """The action's id in its proposal."""
    tool: str
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    key: str
    """Idempotency key: the same over attempts of the action."""
    timeout_ms: PositiveInt | None = None
    """Limit on each attempt; unset, the tool's own."""
    attempts: PositiveInt = 1
    """How often a tool that fails is called before its failure is the result."""


class ActionOutcome(Stored):
    """How one action ended. A failed action is data."""

    status: ActionStatus
    output: JsonValue = None
    error: str | None = None
    attempts: PositiveInt = 1
