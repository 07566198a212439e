"""What a run returns when its result is too large for a history: the same shape, with what was left out named.

A result over 2 MB would keep the run's last workflow task retrying for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from workflows import wire
from workflows.steps import StepOutcome

KEPT_OUTPUT_BYTES = 10_000
# An output up to this stays whole; a larger one is replaced by its size and hash.


def without_large_outputs(outcomes: Sequence[StepOutcome]) -> tuple[StepOutcome, ...]:
    """The outcomes with each output over 10 KB replaced by its size and hash."""
    return tuple(_lightened(outcome) for outcome in outcomes)


def _lightened(outcome: StepOutcome) -> StepOutcome:
    changes: dict[str, object] = {}
    if len(outcome.output.encode()) > KEPT_OUTPUT_BYTES:
        changes["output"] = _stand_in(outcome.output.encode())
    if outcome.error is not None and len(outcome.error.encode()) > KEPT_OUTPUT_BYTES:
        changes["error"] = _stand_in(outcome.error.encode())
    if wire.size(outcome.structured) > KEPT_OUTPUT_BYTES:
        changes["structured"] = {"left_out": _stand_in(wire.encode(outcome.structured))}
    return outcome.model_copy(update=changes) if changes else outcome


def _stand_in(content: bytes) -> str:
    return f"[left out: {len(content):,} bytes, sha256 {sha256(content).hexdigest()}]"
