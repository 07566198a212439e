"""The chains of a pipeline: their stages, and how they are carried by children.

A stage that is a function of a module goes to a child by its name, `module:function`, and an item as JSON. Neither is
possible for a closure, a method or an object, so a pipeline of those stays in the run's own history.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from itertools import islice
from math import isfinite
from types import FunctionType
from typing import Any, TypeVar

from temporalio import workflow

from workflows import wire
from workflows.errors import FanOutTooLarge, InputRejected, cut
from workflows.handover import ChainEnd, ChainItem, ChainStage, ChainsWork, SliceReport, StepItem, Work
from workflows.steps import AgentStepSpec, StepOutcome, StepStatus
from workflows.supply import INLINE_STEPS, Ending, Piece, Supply, size_of, unfinished

Item = TypeVar("Item")
PipelineStage = Callable[[StepOutcome | None, Item], AgentStepSpec | None]

MOST_INLINE_STEPS = 12_000
# Of a pipeline whose stages have no names. A history holds 51,200 events, and a step takes three and its share of the
# workflow tasks.

_PLAIN = (str, int, float, bool, type(None))


class ChainPiece(Piece):
    """One chain of a pipeline."""

    __slots__ = ("_item", "_prefixes")

    def __init__(self, at: int, item: ChainItem, prefixes: Sequence[str], size: int) -> None:
        super().__init__(at, size)
        self._item, self._prefixes = item, prefixes

    @property
    def item(self) -> ChainItem:
        """See base class."""
        return self._item

    @property
    def step(self) -> StepItem | None:
        """See base class."""
        return self._item.step

    @property
    def name(self) -> str:
        """See base class."""
        prefix = self._prefixes[self._item.stage]
        return f"{prefix}:{self._item.step.spec.task_id}" if self._item.step else f"{prefix}: item {self.at}"


class ChainSupply(Supply[Any]):
    """The chains of a pipeline that children carry."""

    def __init__(self, items: Iterable[Any], stages: Sequence[PipelineStage[Any]]) -> None:
        self._steps = max(1, len(stages))
        super().__init__(items, self._steps)
        self.prefixes: Sequence[str] = ()
        """What the identities of each stage's steps begin with; set before anything is taken."""
        self._stages = stages
        self._names = [_name_of(stage) for stage in stages]
        self._ended_steps = 0

    def all_inline(self) -> list[Any] | None:
        """All items, where the run itself carries them; None where children do.

        Raises `FanOutTooLarge` where children cannot, and they are too many for the run.
        """
        if self.inline is not None:
            return self.inline
        if not self._stages:  # no chain has a step, whoever carries it
            return list(self._source)
        if (why := self._why_not_carried()) is None:
            return None
        most = MOST_INLINE_STEPS // self._steps
        items = list(islice(self._source, most + 1))
        if len(items) > most:
            raise FanOutTooLarge(len(items) if self.has_more else self.known, self._steps, MOST_INLINE_STEPS, why)
        return items

    def _why_not_carried(self) -> str | None:
        for number, name in enumerate(self._names):
            if name is None:
                return f"stage {number} is {_described(self._stages[number])}"
        for number, item in enumerate(self.head):
            if not _is_plain(item):
                what = repr(item) if type(item) is float else f"a {type(item).__name__}"
                return f"item {number} is {what}, which is no plain JSON"
        return None

    @property
    def expected(self) -> int:
        """See base class."""
        return self._ended_steps

    def _piece(self, at: int, thing: Any) -> Piece:
        if not _is_plain(thing):
            raise InputRejected(
                f"pipeline: item {at} is {cut(repr(thing))}. In a pipeline of more than {INLINE_STEPS:,} steps items "
                "are plain JSON: texts, numbers, true, false, null, lists and dicts of these."
            )
        item = ChainItem(item=thing)
        return ChainPiece(at, item, self.prefixes, size_of(item))

    def work(self, pieces: Sequence[Piece]) -> Work:
        """See base class."""
        stages = (
            ChainStage(function=name or "", prefix=prefix)
            for name, prefix in zip(self._names, self.prefixes, strict=True)
        )
        return ChainsWork(
            stages=tuple(stages), items=tuple(piece.item for piece in pieces if isinstance(piece, ChainPiece))
        )

    def ended(self, piece: Piece, told: dict[str, Any]) -> Ending:
        """See base class."""
        end = ChainEnd.model_validate(told)
        if end.outcome is None:
            return Ending(None, piece.name, end.crash)
        return Ending(end.outcome, f"{self.prefixes[end.stage]}:{end.outcome.task_id}")

    def resumed(self, piece: Piece, told: dict[str, Any]) -> Piece:
        """See base class."""
        item = ChainItem.model_validate({**told, "item": _item(piece).item})
        return ChainPiece(piece.at, item, self.prefixes, size_of(item))

    def stopped(self, piece: Piece, status: StepStatus, output: str) -> Ending:
        """See base class."""
        item = _item(piece)
        step = item.step
        if step is None:
            try:
                spec = staged(self._stages[0], 0, None, item.item)
            except StageCrashed as crashed:
                return Ending(None, piece.name, str(crashed))
            if spec is None:
                return Ending(None, piece.name)
            step = StepItem(spec=spec)
        self._ended_steps += 1
        return Ending(unfinished(step, status, output), f"{self.prefixes[item.stage]}:{step.spec.task_id}")

    def settled(self, report: SliceReport) -> None:
        """See base class."""
        self._ended_steps += report.succeeded + report.failed


class StageCrashed(Exception):
    """A stage of a pipeline raised; the text says which and what."""


def staged(stage: PipelineStage[Any], number: int, previous: StepOutcome | None, item: Any) -> AgentStepSpec | None:
    """What a stage makes of an item. Raises `StageCrashed`."""
    try:
        return _checked(stage(previous, item))
    except Exception as error:
        raise StageCrashed(f"pipeline stage {number} raised {type(error).__name__}: {error}") from error


def _checked(spec: object) -> AgentStepSpec | None:
    if spec is None or isinstance(spec, AgentStepSpec):
        return spec
    raise TypeError(f"it returned a {type(spec).__name__}, and a stage returns an AgentStepSpec or None")


def found(names: Iterable[str]) -> list[PipelineStage[Any]]:
    """The functions with these names. Raises `InputRejected` where one is not there."""
    return [_found(name) for name in names]


def _found(name: str) -> PipelineStage[Any]:
    module, _, function = name.partition(":")
    silent = workflow.SandboxImportNotificationPolicy.SILENT
    try:
        with workflow.unsafe.sandbox_import_notification_policy(silent):  # the parent's own module, most often
            stage: PipelineStage[Any] = getattr(import_module(module), function)
        if not isinstance(stage, FunctionType):
            raise TypeError(f"it is a {type(stage).__name__}, and a stage is a function of a module")
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # ValueError: no module is named
        raise InputRejected(
            f"pipeline: the stage {name!r} is not on this worker ({error}). "
            "Every worker of the task queue must have its module."
        ) from None
    return stage


def _name_of(stage: object) -> str | None:
    if not isinstance(stage, FunctionType) or stage.__module__.startswith("__"):  # the program itself is no module
        return None
    home = sys.modules.get(stage.__module__)
    is_there = getattr(home, stage.__qualname__, None) is stage
    return f"{stage.__module__}:{stage.__qualname__}" if is_there else None


def _described(stage: object) -> str:
    name = getattr(stage, "__qualname__", None) or type(stage).__name__
    return f"{name!r}, which is no function of a module"


def _is_plain(value: object) -> bool:
    """Whether a value comes back from JSON as it was."""
    if isinstance(value, list):
        return all(_is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if type(value) is float and not isfinite(value):
        return not workflow.patched(wire.FINITE_ITEMS_PATCH)
    return type(value) in _PLAIN


def _item(piece: Piece) -> ChainItem:
    if not isinstance(piece, ChainPiece):
        raise TypeError(f"the piece {piece.name!r} is no chain")
    return piece.item
