"""What a run returns when its result is too large for a history: the same shape, with what was left out named.

A result over 2 MB would keep the run's last workflow task retrying for ever.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from hashlib import sha256
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json

from workflows import wire
from workflows.errors import cut
from workflows.graph.depth import is_deeper
from workflows.graph.results import (
    AgentOutput,
    EmptyOutput,
    ForEachOutput,
    PatternOutput,
    StageOutput,
    StageResult,
    WorkflowResult,
)
from workflows.steps import StepOutcome
from workflows.wire import Stored

T = TypeVar("T")

KEPT_OUTPUT_BYTES = 10_000
# A text up to this stays whole; a larger one is replaced by its size and hash.
KEPT_DEPTH = 190
# Lists and objects in each other: readers of JSON give up at 200, and a failure's details and a chain put a few around.
DEPTH_OF_OUTPUTS = KEPT_DEPTH - 3
# Of each of many: they are in a list, in the output of a stage.
PART_BYTES = 200_000
STAGE_BYTES = 1_000
OUTPUTS_AT_ONCE = 1_000
KEYS_AT_ONCE = 20_000
# Measuring so much, in many small values, takes about a tenth of a second; a stage takes as long as so many bytes,
# however small it is. Writing so many outputs takes no longer, and looking through so many keys of a state.


def trimmed(value: T) -> T:
    """A value with each output of a step over 10 KB replaced by its size and hash, wherever the step's outcome is."""
    lighter: Any = value
    if isinstance(value, StepOutcome):
        lighter = _without_large_output(value)
    elif isinstance(value, BaseModel):
        held = {name: trimmed(item) for name, item in value.__dict__.items()}
        changed = {name: item for name, item in held.items() if item is not value.__dict__[name]}
        lighter = value.model_copy(update=changed) if changed else value
    elif isinstance(value, (list, tuple)):
        lighter = type(value)(trimmed(item) for item in value)
    elif isinstance(value, dict):
        lighter = {key: trimmed(item) for key, item in value.items()}
    result: T = lighter
    return result


def trimming(result: WorkflowResult, limit: int | None = None) -> Generator[None, None, dict[str, Any]]:
    """A graph's result as plain JSON of `limit` bytes at most; without a limit, of what one payload takes here.

    What is nested so deep that nobody could read the result is left out of it, whatever its size.
    Of a result that is larger every text over 10 KB becomes its size and hash. Where that is not enough, the outputs
    of its stages go, the earliest first, then its state, then what is long in the errors of its stages and
    compensations, then the earliest of its stages. Yields between parts of the work, where workflow code lets its
    worker serve others.
    """
    plain = _PlainResult(result)
    yield from plain.write()
    if plain.bytes <= (limit or wire.MAX_PAYLOAD_BYTES):
        return plain.whole
    limit = limit or wire.largest_payload()  # to ask may leave a marker in the history
    if plain.bytes <= limit:
        return plain.whole
    yield from plain.replace_large_texts()
    yield from plain.leave_out_outputs(limit)
    if plain.bytes > limit:
        plain.leave_out_state()
    if plain.bytes > limit:
        plain.shorten_errors()
        yield
        plain.leave_out_stages(limit)
    return plain.whole


class _PlainResult:
    """A graph's result as plain JSON on its way to a size that one payload takes.

    Law: where each of these generators yields is in recorded histories, for a run pauses there.
    """

    def __init__(self, result: WorkflowResult) -> None:
        self._result = result
        self._around: dict[str, Any] = {}
        """All but stages and state."""
        self._state = self._found_state = flat_enough(result.final_state)
        self._state_bytes = self._found_bytes = wire.size(self._state)  # it may have any number of keys: found once
        self._stages: list[dict[str, Any]] = []
        self._sizes: list[int] = []
        """Bytes of each stage."""
        self._parts = _Parts()
        self.bytes = 0
        """Of the whole."""

    @property
    def whole(self) -> dict[str, Any]:
        """The result as it stands."""
        return {**self._around, "stages": self._stages, "final_state": self._state}

    def write(self) -> Generator[None, None, None]:
        """All of it, but for what is nested too deep."""
        for stage in self._result.stages:
            told, size = yield from _plain(stage)
            self._stages.append(told)
            self._sizes.append(size)
            if self._parts.ends_with(size):
                yield
        self._around = wire.plain(self._result.model_copy(update={"stages": (), "final_state": {}}))
        self.bytes = wire.size(self._around) - len("{}") + self._state_bytes + sum(self._sizes)

    def replace_large_texts(self) -> Generator[None, None, None]:
        """Put size and hash in the place of each text over 10 KB, in the state and in the stages."""
        is_large = any(_many(stage) is not None for stage in self._result.stages)
        lighter = yield from _state_with_short_texts(self._state, is_large=is_large)
        size = wire.size(lighter)
        self.bytes += size - self._state_bytes
        self._state, self._state_bytes = lighter, size
        for place, size in enumerate(self._sizes):
            if size > KEPT_OUTPUT_BYTES:
                told, self._sizes[place] = yield from _with_short_texts(self._result.stages[place], self._stages[place])
                self._stages[place] = told
                self.bytes += self._sizes[place] - size
            if self._parts.ends_with(size if size > KEPT_OUTPUT_BYTES else 0):
                yield

    def leave_out_outputs(self, limit: int) -> Generator[None, None, None]:
        """Leave out the outputs of stages, the earliest first, until it fits."""
        for place, stage in enumerate(self._stages):
            if self.bytes <= limit:
                break
            self._stages[place] = {**stage, "output": wire.plain(EmptyOutput())}
            self.bytes -= self._sizes[place] - wire.size(self._stages[place]) - 1
            if self._parts.ends_with(self._sizes[place]):
                yield

    def leave_out_state(self) -> None:
        """Leave out the state; how much that was stands in its place."""
        keys, size = len(self._found_state), self._found_bytes
        self.bytes -= self._state_bytes
        self._state = {"left_out": f"[left out: {keys:,} keys, {size:,} bytes]"}

    def shorten_errors(self) -> None:
        """Cut what is long in the errors of stages and compensations."""
        self._stages = [_with_short_error(stage) for stage in self._stages]
        undone = [_with_short_error(compensation) for compensation in self._around["compensations"]]
        self._around = {**self._around, "compensations": undone}

    def leave_out_stages(self, limit: int) -> None:
        """Leave out stages, the earliest first, until it fits."""
        self._stages = _latest(self._stages, limit - wire.size({**self.whole, "stages": []}))


def size_of(stage: StageResult) -> int:
    """Bytes that a stage's result takes as JSON; what children carried is not read for it."""
    output = stage.output
    if not isinstance(output, ForEachOutput) or output.written is None:
        return wire.size(wire.plain(stage))
    around = wire.size(wire.plain(stage.model_copy(update={"output": _bare(output)})))
    return around + len(',"outputs":[') + sum([len(each) + 1 for each in output.written])


def _many(stage: StageResult) -> Sequence[bytes] | Sequence[AgentOutput] | None:
    """The outputs of a stage that may have any number of them, what children carried as it is written; else None."""
    output = stage.output
    if isinstance(output, ForEachOutput):
        return output.written
    return output.outputs if isinstance(output, PatternOutput) and output.is_of_many else None


def _bare(output: StageOutput) -> StageOutput:
    """One of those without its outputs."""
    if isinstance(output, ForEachOutput):
        return ForEachOutput(items=output.items)
    return output.model_copy(update={"outputs": ()})


def _plain(stage: StageResult) -> Generator[None, None, tuple[dict[str, Any], int]]:
    """A stage as plain JSON that is not too deep, and the bytes that it takes."""
    outputs = _many(stage)
    if outputs is None:
        told: dict[str, Any] = flat_enough(wire.plain(stage))
        return told, wire.size(told) + 1
    around = wire.plain(stage.model_copy(update={"output": _bare(stage.output)}))
    return (yield from _with_outputs(around, outputs, are_large_kept=True))


def _with_short_texts(stage: StageResult, told: dict[str, Any]) -> Generator[None, None, tuple[dict[str, Any], int]]:
    """What `_plain` told, without large texts."""
    outputs = _many(stage)
    if outputs is None:
        lighter: dict[str, Any] = without_large_texts(told)
        return lighter, wire.size(lighter) + 1
    around = without_large_texts({**told, "output": {**told["output"], "outputs": []}})
    return (yield from _with_outputs(around, outputs, are_large_kept=False))


def _with_outputs(
    around: dict[str, Any], outputs: Sequence[bytes] | Sequence[AgentOutput], *, are_large_kept: bool
) -> Generator[None, None, tuple[dict[str, Any], int]]:
    """A stage with its outputs read, some at a time, and the bytes that it takes.

    Outputs that no payload takes are not read: `leave_out_outputs` leaves them out.
    """
    sizes = (len(each) for each in outputs if type(each) is bytes)
    least = sum(size for size in sizes if are_large_kept or size <= KEPT_OUTPUT_BYTES)
    told, size = list[Any](), wire.size(around) + 1
    for first in range(0, len(outputs), OUTPUTS_AT_ONCE):
        part = [_written(output) for output in outputs[first : first + OUTPUTS_AT_ONCE]]
        if not are_large_kept:
            part = [_with_short_text(output) for output in part]
        size += sum(len(output) for output in part) + len(part) + 1  # commas and brackets
        if least <= wire.MAX_STORED_BYTES:
            told += [from_json(output) for output in part]
        yield
    return {**around, "output": {**around["output"], "outputs": told}}, size


def _written(output: bytes | AgentOutput) -> bytes:
    return written(output) if isinstance(output, Stored) else output


def written(output: Stored) -> bytes:
    """One of many outputs as a history holds it, without what is nested so deep that nobody could read the result."""
    return wire.encode(flat_enough(wire.plain(output), DEPTH_OF_OUTPUTS))


def _with_short_text(output: bytes) -> bytes:
    return wire.encode(without_large_texts(from_json(output))) if len(output) > KEPT_OUTPUT_BYTES else output


def _state_with_short_texts(state: dict[str, Any], *, is_large: bool) -> Generator[None, None, dict[str, Any]]:
    """A state without large texts. One with the results of many items is gone through in parts."""
    if not is_large:
        plain: dict[str, Any] = without_large_texts(state)
        return plain
    lighter, keys = dict[str, Any](), list(state)
    for first in range(0, len(keys), KEYS_AT_ONCE):
        lighter.update((key, without_large_texts(state[key])) for key in keys[first : first + KEYS_AT_ONCE])
        yield
    return lighter


def flat_enough(value: Any, depth: int = KEPT_DEPTH) -> Any:
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
    """Plain JSON with each text over 10 KB replaced by its size and hash.

    Compares types exactly: a state may hold a list of 100,000, and in the sandbox `isinstance` is slow.
    """
    kind = type(value)
    if kind is str:
        return _stand_in(value.encode()) if len(value.encode()) > KEPT_OUTPUT_BYTES else value
    if kind is dict:
        return {key: without_large_texts(item) for key, item in value.items()}
    return [without_large_texts(item) for item in value] if kind is list else value


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
