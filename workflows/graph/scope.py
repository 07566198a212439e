"""What a body works in: the state that it reads and writes, and what its references are replaced by.

Law: what is put in is measured before it is made, and refused where a run could not carry it.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pydantic import JsonValue

from workflows import wire
from workflows.graph.definition import Stage, SubWorkflowStep
from workflows.graph.expansion import expansion, has_references
from workflows.graph.frame import Frame, State
from workflows.graph.outputs import StageFailed
from workflows.graph.results import StageOutput
from workflows.graph.templates import MissingKey, render

MAX_RENDERED_PARTS = 30_000
# Lists and objects in one such value: checking and storing so many takes a quarter of a second, and none gives way.
CHARACTERS_PER_PART = 10
# Checking and storing a list takes as long as storing an answer of so many characters.
MAX_RENDERED_DEPTH = 100
# Lists and objects in each other: a loop that writes `[{{list}}]` adds one each time, and a result nested more than
# about 250 deep cannot be written as JSON.


@dataclass(frozen=True)
class Scope:
    """What a body works in: its stage, the frame it belongs to, and the state it reads and writes."""

    frame: Frame
    stage: Stage
    state: State
    nest: Callable[[Scope, SubWorkflowStep], Awaitable[StageOutput]]
    """How a graph inside this one is run; the engine's, which knows the bodies too."""
    layer: tuple[str, ...] = ()
    """Names that the body itself brings (`item`, `index`, `payload`): replaced also where templates are off."""
    referred: State | None = None
    """What references read, where that is not `state`: in a compensation, the state at the failure."""

    def rendered(self, value: JsonValue) -> Any:
        """The value with its references replaced. Raises `StageFailed` where the state lacks one."""
        only = self._only
        if only == () or not has_references(value):
            return value
        refuse_large(self.expansion(value))  # before it is made: it may be larger than the worker's memory
        try:
            rendered = render(value, self._readable, only=only)
        except MissingKey as missing:
            raise StageFailed(str(missing)) from None
        if rendered != value:
            self.frame.pace.charge(_refuse_overgrown(rendered) * CHARACTERS_PER_PART)
        return rendered

    def expansion(self, value: JsonValue) -> int:
        """How many characters the references of a value are replaced by."""
        return 0 if self._only == () else expansion(value, self._readable, only=self._only)

    @property
    def _only(self) -> tuple[str, ...] | None:
        return None if self.frame.uses_templates(self.stage) else self.layer

    @property
    def _readable(self) -> State:
        return self.state if self.referred is None else self.referred

    def over(self, layer: dict[str, JsonValue]) -> Scope:
        """The same with a layer over the state: what the body writes goes there."""
        # A copy: what the body writes meanwhile is no part of the state at the failure.
        referred = None if self.referred is None else ChainMap(dict(layer), self.referred)
        return replace(self, state=ChainMap(layer, self.state), layer=(*self.layer, *layer), referred=referred)

    def snapshot(self) -> dict[str, JsonValue]:
        """A copy of the state, as one dict: reading a `ChainMap` key by key takes twenty times as long."""
        merged: dict[str, JsonValue] = {}
        for layer in reversed(_layers(self.state)):
            merged.update(layer)
        return merged


def _layers(state: State) -> list[State]:
    return [inner for each in state.maps for inner in _layers(each)] if isinstance(state, ChainMap) else [state]


def refuse_large(size: int, limit: int = wire.MAX_PAYLOAD_BYTES, subject: str = "a value is") -> None:
    """Raise `StageFailed` where what has its references replaced is too large."""
    # A loop that writes `{{text}}{{text}}` doubles it each time, and the worker's memory ends before the loop does.
    if size > limit:
        told = f"{size / 1e6:.1f} MB and the limit is {limit / 1e6:.1f} MB"
        raise StageFailed(f"with its references replaced, {subject} {told}")


def _refuse_overgrown(value: JsonValue) -> int:
    """How many lists and objects a value holds. Raises `StageFailed` where it is more than a run can carry."""
    with suppress(ValueError):  # it is nested too deep to be measured, and refused for that
        if not wire.fits(value):
            refuse_large(wire.size(value), wire.largest_payload())
    depth, parts, level = 0, 0, _containers([value])
    while level:
        depth, parts, level = depth + 1, parts + len(level), _containers(item for each in level for item in each)
        if depth >= MAX_RENDERED_DEPTH:
            raise StageFailed(f"with its references replaced, a value nests more than {MAX_RENDERED_DEPTH} deep")
        if parts > MAX_RENDERED_PARTS:
            told = f"more than {MAX_RENDERED_PARTS:,} lists and objects"
            raise StageFailed(f"with its references replaced, a value holds {told}")
    return parts


def _containers(values: Iterable[Any]) -> list[Iterable[Any]]:
    """What holds other values. Compares types exactly: `isinstance` is slow in the sandbox."""
    return [value if type(value) is list else value.values() for value in values if type(value) in (list, dict)]
