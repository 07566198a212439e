"""What a run returns when its result is too large for a history: the same shape, with what was left out named.

A result over 2 MB would keep the run's last workflow task retrying for ever.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, TypeVar

from pydantic import BaseModel

from workflows import wire
from workflows.steps import StepOutcome

T = TypeVar("T")

KEPT_OUTPUT_BYTES = 10_000
# A text up to this stays whole; a larger one is replaced by its size and hash.


def lightened(value: T) -> T:
    """A value with each output of a step over 10 KB replaced by its size and hash, wherever the step's outcome is."""
    lighter: Any = value
    if isinstance(value, StepOutcome):
        lighter = _without_large_output(value)
    elif isinstance(value, BaseModel):
        held = {name: lightened(item) for name, item in value.__dict__.items()}
        changed = {name: item for name, item in held.items() if item is not value.__dict__[name]}
        lighter = value.model_copy(update=changed) if changed else value
    elif isinstance(value, (list, tuple)):
        lighter = type(value)(lightened(item) for item in value)
    elif isinstance(value, dict):
        lighter = {key: lightened(item) for key, item in value.items()}
    result: T = lighter
    return result


def _without_large_output(outcome: StepOutcome) -> StepOutcome:
    changes: dict[str, object] = {}
    for name in ("output", "error"):
        text = getattr(outcome, name)
        if text is not None and len(text.encode()) > KEPT_OUTPUT_BYTES:
            changes[name] = _stand_in(text.encode())
    if wire.size(outcome.structured) > KEPT_OUTPUT_BYTES:
        changes["structured"] = {"left_out": _stand_in(wire.encode(outcome.structured))}
    return outcome.model_copy(update=changes) if changes else outcome


def _stand_in(content: bytes) -> str:
    return f"[left out: {len(content):,} bytes, sha256 {sha256(content).hexdigest()}]"
