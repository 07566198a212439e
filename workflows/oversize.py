"""What a run returns when its result is too large for a history: the same shape, with what was left out named.

A result over 2 MB would keep the run's last workflow task retrying for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from hashlib import sha256
from typing import Any, TypeVar

from pydantic import BaseModel

from workflows import wire
from workflows.errors import cut
from workflows.graph.depth import is_deeper
from workflows.graph.results import EmptyOutput, ForEachOutput, StageResult, WorkflowResult
from workflows.steps import StepOutcome

T = TypeVar("T")

KEPT_OUTPUT_BYTES = 10_000
# A text up to this stays whole; a larger one is replaced by its size and hash.
KEPT_DEPTH = 190
# Lists and objects in each other: readers of JSON give up at 200, and a failure's details and a chain put a few around.
DEPTH_OF_OUTPUTS = KEPT_DEPTH - 2
# They are in a list, in the output of a stage.
PART_BYTES = 200_000
STAGE_BYTES = 1_000
OUTPUTS_AT_ONCE = 1_000
KEYS_AT_ONCE = 20_000
# Measuring so much, in many small values, takes about a tenth of a second; a stage takes as long as so many bytes,
# however small it is. Writing so many outputs takes no longer, and looking through so many keys of a state.


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


def lightening(result: WorkflowResult, limit: int | None = None) -> Generator[None, None, dict[str, Any]]:
    """A graph's result as plain JSON that one payload takes: every text over 10 KB becomes its size and hash.

    What is nested so deep that nobody could read the result is left out of it, whatever its size.
    Where that is not enough, the outputs of its stages go, the earliest first, then its state, then what is long in
    the errors of its stages and compensations, then the earliest of its stages. Yields between parts of the work,
    where workflow code lets its worker serve others.
    """
    stages, state, sizes, parts = list[Any](), _flat_enough(result.final_state), list[int](), _Parts()
    for stage in result.stages:
        told, size = yield from _plain(stage)
        stages.append(told)
        sizes.append(size)
        if parts.ends_with(size):
            yield
    around = wire.plain(result.model_copy(update={"stages": (), "final_state": state}))
    taken = wire.size(around) + sum(sizes)
    if taken <= (limit or wire.MAX_PAYLOAD_BYTES):
        return {**around, "stages": stages}
    limit = limit or wire.largest_payload()
    over = taken - limit
    if over <= 0:
        return {**around, "stages": stages}
    lighter_state = yield from _lighter_state(state, any(_is_carried(stage) for stage in result.stages))
    over += wire.size(lighter_state) - wire.size(state)
    for place, size in enumerate(sizes):
        if size > KEPT_OUTPUT_BYTES:
            stages[place], sizes[place] = yield from _lighter(result.stages[place], stages[place])
            over += sizes[place] - size
        if parts.ends_with(size if size > KEPT_OUTPUT_BYTES else 0):
            yield
    for place, stage in enumerate(stages):
        if over <= 0:
            break
        stages[place] = {**stage, "output": wire.plain(EmptyOutput())}
        over -= sizes[place] - wire.size(stages[place]) - 1
        if parts.ends_with(sizes[place]):
            yield
    if over > 0:
        size_told = f"[left out: {len(state):,} keys, {wire.size(state):,} bytes]"
        over -= wire.size(lighter_state)
        lighter_state = {"left_out": size_told}
    lighter = {**around, "stages": stages, "final_state": lighter_state}
    if over > 0:
        lighter["stages"] = [_with_short_error(stage) for stage in stages]
        lighter["compensations"] = [_with_short_error(undone) for undone in around["compensations"]]
        yield
        lighter["stages"] = _latest(lighter["stages"], limit - wire.size({**lighter, "stages": []}))
    return lighter


def _is_carried(stage: StageResult) -> bool:
    """Whether children carried the items of a stage: then it may have any number of outputs."""
    return isinstance(stage.output, ForEachOutput) and stage.output.answers is not None


def _plain(stage: StageResult) -> Generator[None, None, tuple[dict[str, Any], int]]:
    """A stage as plain JSON that is not too deep, and the bytes that it takes."""
    if not isinstance(stage.output, ForEachOutput) or not _is_carried(stage):
        told: dict[str, Any] = _flat_enough(wire.plain(stage))
        return told, wire.size(told) + 1
    around = wire.plain(stage.model_copy(update={"output": stage.output.model_copy(update={"outputs": ()})}))
    outputs = stage.output.outputs
    return (yield from _with_outputs(around, outputs, lambda part: _flat_enough(wire.plain(part), DEPTH_OF_OUTPUTS)))


def _lighter(stage: StageResult, told: dict[str, Any]) -> Generator[None, None, tuple[dict[str, Any], int]]:
    """What `_plain` told, without large texts."""
    if not _is_carried(stage):
        lighter: dict[str, Any] = without_large_texts(told)
        return lighter, wire.size(lighter) + 1
    around = without_large_texts({**told, "output": {**told["output"], "outputs": []}})
    return (yield from _with_outputs(around, told["output"]["outputs"], without_large_texts))


def _with_outputs(
    around: dict[str, Any], outputs: Sequence[Any], written: Callable[[Sequence[Any]], Any]
) -> Generator[None, None, tuple[dict[str, Any], int]]:
    """A stage with its outputs as they are written, some at a time, and the bytes that it takes."""
    told, size = list[Any](), wire.size(around) + 1
    for first in range(0, len(outputs), OUTPUTS_AT_ONCE):
        part = written(outputs[first : first + OUTPUTS_AT_ONCE])
        told += part
        size += wire.size(part)
        yield
    return {**around, "output": {**around["output"], "outputs": told}}, size


def _lighter_state(state: dict[str, Any], is_large: bool) -> Generator[None, None, dict[str, Any]]:
    """A state without large texts. One with the results of items that children carried is gone through in parts."""
    if not is_large:
        plain: dict[str, Any] = without_large_texts(state)
        return plain
    lighter, items = dict[str, Any](), list(state.items())
    for first in range(0, len(items), KEYS_AT_ONCE):
        lighter |= without_large_texts(dict(items[first : first + KEYS_AT_ONCE]))
        yield
    return lighter


def _flat_enough(value: Any, depth: int = KEPT_DEPTH) -> Any:
    """A part of a result as it is, or without what is nested too deep in it."""
    return _flattened(value, depth) if is_deeper(value, depth) else value


def _flattened(value: Any, levels: int) -> Any:
    if not isinstance(value, (dict, list)):
        return value
    if levels == 0:
        return f"[left out: it is nested more than {KEPT_DEPTH} levels deep]"
    if isinstance(value, dict):
        return {key: _flattened(item, levels - 1) for key, item in value.items()}
    return [_flattened(item, levels - 1) for item in value]


def _with_short_error(told: dict[str, Any]) -> dict[str, Any]:
    return {**told, "error": cut(told["error"])} if "error" in told else told


def _latest(stages: list[Any], room: int) -> list[Any]:
    """The latest of the stages, as many as there is room for, behind a result that says what was left out."""
    kept, size = 0, 0
    for stage in reversed(stages):
        size += wire.size(stage) + 1
        if size > room - STAGE_BYTES:
            break
        kept += 1
    left_out = stages[: len(stages) - kept]
    if not left_out:
        return stages
    told = f"[left out: {len(left_out):,} executions of stages, {wire.size(left_out):,} bytes]"
    stand_in = {"stage_id": "", "stage_name": told, "status": "skipped", "output": wire.plain(EmptyOutput())}
    return [{**stand_in, "duration_ms": 0}, *stages[len(left_out) :]]


class _Parts:
    """Counts work, and tells where a part of it ends."""

    def __init__(self) -> None:
        self._bytes = 0

    def ends_with(self, size: int) -> bool:
        """Whether a part ends with the stage whose result has this size."""
        self._bytes += size + STAGE_BYTES
        if self._bytes < PART_BYTES:
            return False
        self._bytes = 0
        return True


def without_large_texts(value: Any) -> Any:
    """Plain JSON with each text over 10 KB replaced by its size and hash."""
    if isinstance(value, str):
        return _stand_in(value.encode()) if len(value.encode()) > KEPT_OUTPUT_BYTES else value
    if isinstance(value, dict):
        return {key: without_large_texts(item) for key, item in value.items()}
    return [without_large_texts(item) for item in value] if isinstance(value, list) else value


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
