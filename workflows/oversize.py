"""What a run returns when its result is too large for a history: the same shape, with what was left out named.

A result over 2 MB would keep the run's last workflow task retrying for ever.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, TypeVar

from pydantic import BaseModel

from workflows import wire
from workflows.graph.results import EmptyOutput, WorkflowResult
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


def lightened_graph(result: WorkflowResult) -> WorkflowResult:
    """A graph's result in a size that a history takes: every text over 10 KB is replaced by its size and hash.

    Where that is not enough, the outputs of its stages go, the earliest first, and then its state.
    """
    if wire.fits(result):
        return result
    lighter = WorkflowResult.model_validate(_without_large_texts(result.model_dump(mode="json", by_alias=True)))
    left_out = 0
    while not wire.fits(lighter) and left_out < len(lighter.stages):
        left_out = max(1, 2 * left_out)
        emptied = (stage.model_copy(update={"output": EmptyOutput()}) for stage in lighter.stages[:left_out])
        lighter = lighter.model_copy(update={"stages": (*emptied, *lighter.stages[left_out:])})
    if not wire.fits(lighter):
        size = f"[left out: {len(lighter.final_state):,} keys, {wire.size(lighter.final_state):,} bytes]"
        lighter = lighter.model_copy(update={"final_state": {"left_out": size}})
    return lighter


def _without_large_texts(value: Any) -> Any:
    if isinstance(value, str):
        return _stand_in(value.encode()) if len(value.encode()) > KEPT_OUTPUT_BYTES else value
    if isinstance(value, dict):
        return {key: _without_large_texts(item) for key, item in value.items()}
    return [_without_large_texts(item) for item in value] if isinstance(value, list) else value


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
