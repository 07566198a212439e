"""The items of another run's `for_each`, as a child carries them.

Law: a body finds what it would find in that run, and whatever becomes of it, it ends with what it brought.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workflows import wire
from workflows.errors import PayloadTooLarge
from workflows.graph import bodies
from workflows.graph.definition import GraphDefinition, Stage
from workflows.graph.depth import is_deeper
from workflows.graph.engine import nested
from workflows.graph.frame import Frame
from workflows.graph.items import place_of
from workflows.graph.outputs import answer_of
from workflows.graph.pace import Pace
from workflows.graph.scope import Scope
from workflows.graph.templates import SWITCH
from workflows.handover import BodyItem, ItemEnd, ItemsWork
from workflows.oversize import DEPTH_OF_OUTPUTS, flat_enough, without_large_texts
from workflows.place import current_item
from workflows.saga import Saga

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow


class CarriedItems:
    """A slice of a `for_each`, in a run that carries it for its parent."""

    def __init__(self, owner: AgentWorkflow, work: ItemsWork) -> None:
        around = work.around
        metadata = {} if around.has_templates else {SWITCH: False}
        graph = GraphDefinition(
            id=around.graph, name=around.graph, start="", stages=(), goal=around.goal, metadata=metadata
        )
        frame = Frame(owner, graph, dict(around.state), Saga(owner), policies=around.policies, cache={}, pace=Pace())
        stage = Stage(id=around.stage, step=work.body)
        referred = None if around.referred is None else dict(around.referred)
        self._scope = Scope(frame, stage, frame.state, nest=nested, layer=around.layer, referred=referred)
        self._work = work

    async def ended(self, item: BodyItem) -> tuple[dict[str, Any], bool]:
        """How an item ended, as it travels, and whether the caller was cancelled meanwhile."""
        current_item.set(place_of(self._work, item.index))
        end, is_interrupted = await bodies.item_end(self._scope, self._work.body, item.index, item.item)
        return self._fitting(end, item.index), is_interrupted

    def _fitting(self, end: ItemEnd, index: int) -> dict[str, Any]:
        """An end as one payload takes it: what is too deep or too large in its output as in the result of a run."""
        told: dict[str, Any] = wire.plain(end)
        if is_deeper(told.get("output"), DEPTH_OF_OUTPUTS):  # the parent could not read it, nor would its result
            told = {**told, "output": flat_enough(told["output"], DEPTH_OF_OUTPUTS), "answer": answer_of(end.output)}
        if wire.fits(told):
            return told
        told = {**told, "output": without_large_texts(told["output"]), "answer": answer_of(end.output)}
        if wire.fits(told):
            return told
        error = PayloadTooLarge(
            owner=f"item {index} of stage {self._scope.stage.id!r}",
            field="what its body wrote",
            size=wire.size(told),
            limit=wire.largest_payload(),
        )
        refused: dict[str, Any] = wire.plain(ItemEnd(failure=error.message, is_cut_off=True))
        return refused
