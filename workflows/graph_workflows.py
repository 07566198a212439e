"""`StageGraph` runs one stage graph, `Chain` several in order; both take plain JSON from any client.

A run whose status is not `completed` fails its execution: an ApplicationError whose type is the status and whose
details hold the whole result, so that the Temporal UI, its filters and its alerts tell the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, NoReturn, cast

from pydantic import Field, JsonValue
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from workflows import calls, wire
from workflows.errors import GraphRejected, InputRejected, cut
from workflows.graph.carrying import MAX_CARRIED_BYTES, CarriedGraph, Continuation
from workflows.graph.chaining import Chained
from workflows.graph.definition import GraphDefinition
from workflows.graph.engine import walk
from workflows.graph.keys import GOAL
from workflows.graph.pace import in_parts
from workflows.graph.piecemeal import read_in_pieces
from workflows.graph.results import WorkflowResult
from workflows.graph.verdict import Verdict
from workflows.graph.verify import examine, rejected
from workflows.oversize import trimming
from workflows.parsing import parse
from workflows.verbs import AgentWorkflow
from workflows.wire import Stored

VERIFIED_HERE = 1_000
VERIFIED_HERE_BYTES = 100_000
# Stages of a graph, and bytes of all graphs of a run, that are judged in the workflow itself: it takes 0.04 to 0.15 s,
# depending on what they are made of, and judging more in one go would hold up its worker.

MAX_MESSAGE_LENGTH = 2_000
# Of the failure with which a run ends. The result in its details has all of it, and both leave in one message.


class GraphWorkflow(AgentWorkflow):
    """What both kinds of run share: judge a definition, walk it, report."""

    def __init__(self) -> None:
        super().__init__()
        self._judged_here_bytes = 0

    async def judged(self, value: Any, given: Collection[str] = ()) -> GraphDefinition:
        """The definition, which was judged before anything begins. Raises `GraphRejected`; doubts become events.

        `given` are the state keys that a start, or earlier graphs of a chain, bring.
        """
        size = wire.size(value)
        self._judged_here_bytes += size
        is_large = self._judged_here_bytes > VERIFIED_HERE_BYTES
        if isinstance(value, str) and is_large:
            told = f"{size:,} bytes, and the limit for texts is {VERIFIED_HERE_BYTES:,}"
            raise GraphRejected(f"the graph is given as a text of {told}. Give it as an object.")
        if isinstance(value, dict) and (is_large or _has_many_stages(value)):
            if (asked := size + wire.size(list(given))) > wire.MAX_PAYLOAD_BYTES:
                # A caller may have written it shorter: 1e15 takes 18 characters here.
                told = f"{asked:,} bytes, and the limit is {wire.MAX_PAYLOAD_BYTES:,}"
                raise GraphRejected(f"the graph is too large to be judged: as it is stored it takes {told}.")
            verdict = await self._judged_elsewhere(value, given)
            definition = await in_parts(read_in_pieces(value)) if verdict.valid else None
        else:
            definition, verdict = examine(value, given=given)
        if definition is None or not verdict.valid:
            raise rejected(verdict.with_severity("error"), verdict.left_out)
        for issue in verdict.with_severity("doubt"):
            self.log("warning", str(issue), {"stage": issue.stage_id})
        if verdict.left_out:
            self.log("warning", f"and {verdict.left_out:,} more; `perdure verify` lists them all.", {})
        return definition

    async def read(self, value: Any) -> GraphDefinition:
        """A definition that the run before this one has judged."""
        if isinstance(value, dict):
            return await in_parts(read_in_pieces(value))
        return GraphDefinition.model_validate(value)

    async def _judged_elsewhere(self, value: dict[str, Any], given: Collection[str]) -> Verdict:
        answer = await calls.verify_graph(value, sorted(given))
        if isinstance(answer, str):
            raise GraphRejected(f"the graph could not be judged: {answer}")
        return Verdict.model_validate(answer)

    async def walked(
        self,
        graph: GraphDefinition,
        state: dict[str, JsonValue],
        before: Sequence[WorkflowResult] = (),
        *,
        carried: CarriedGraph | None,
        continuation: Continuation,
    ) -> WorkflowResult:
        """The result of a graph that completed; one that did not is raised as a failure of its status.

        The failure's details are its result and, where there are any, the results `before` it. `carried` is where an
        earlier run left the graph, `continuation` how a next one takes it up.
        """
        result, is_cancelled = await walk(self, graph, state, carried=carried, continuation=continuation)
        if result.status == "completed":
            return result
        kind, message = (wire.CANCELLED, "the run was cancelled") if is_cancelled else (result.status, _why(result))
        told, *earlier = await _fitting([result, *before])
        raise ApplicationError(message, told, *([earlier] if earlier else []), type=kind, non_retryable=True)


def _has_many_stages(value: dict[str, Any]) -> bool:
    stages = value.get("stages")
    return isinstance(stages, list) and len(stages) > VERIFIED_HERE


async def _fitting(results: Sequence[WorkflowResult], room_bytes: int | None = None) -> list[Any]:
    """Results as they can leave together, as plain JSON: several share the room of one payload in a history."""
    limit = None
    if room_bytes is not None or len(results) > 1:
        limit = (room_bytes or wire.MAX_PAYLOAD_BYTES) // max(1, len(results))
    return [await in_parts(trimming(result, limit)) for result in results]


def _why(result: WorkflowResult) -> str:
    failed = next((stage for stage in reversed(result.stages) if stage.status == "failed"), None)
    if failed is None:
        return f"graph {cut(result.workflow_id)!r} did not complete"
    return cut(f"{failed.stage_id}: {failed.error}", MAX_MESSAGE_LENGTH)


@workflow.defn(name=wire.STAGE_GRAPH_WORKFLOW)
class StageGraph(GraphWorkflow):
    """Runs one stage graph."""

    @workflow.run
    async def run(self, definition: Any = None, carried: Any = None, *more: Any) -> WorkflowResult:
        """The result of the graph; its `initial_state` is in the definition.

        A run that has grown long goes on as a new one by itself, between two stages: then `carried` is where it stood.
        """
        if more or (carried is not None and not self.perdure.is_continued):
            raise InputRejected(f"StageGraph takes one argument, a definition; it was given {len(more) + 2}.")
        taken_up = None if carried is None else parse(CarriedGraph, carried, "what StageGraph carried", InputRejected)
        graph = await self.judged(definition) if taken_up is None else await self.read(definition)

        async def begin(left: dict[str, Any]) -> NoReturn:
            self.perdure.raise_if_cancelled()  # what is carried was packed in parts, and a cancel may have passed
            self.perdure.continue_as_new([definition, left])

        result = await self.walked(graph, graph.initial_state, carried=taken_up, continuation=Continuation(begin))
        [fitting] = await _fitting([result])
        return cast(WorkflowResult, fitting)  # what a client reads it as


class ChainInput(Stored):
    """The input of `Chain`."""

    graphs: tuple[Any, ...]
    initial_state: dict[str, JsonValue] = Field(default_factory=dict)


class CarriedChain(Stored):
    """A chain under way, as it travels."""

    results: tuple[WorkflowResult, ...]
    """Of the graphs before the one that is under way; with their large texts left out, as in the chain's result."""
    graph: CarriedGraph


@workflow.defn(name=wire.CHAIN_WORKFLOW)
class Chain(GraphWorkflow):
    """Runs several graphs in order, each on what the one before it left."""

    @workflow.run
    async def run(self, chain: Any = None, carried: Any = None, *more: Any) -> list[WorkflowResult]:
        """The results, all completed: the first graph that does not complete ends the chain, and the run fails.

        A run that has grown long goes on as a new one by itself, between two stages: then `carried` is where it stood.
        """
        if more or (carried is not None and not self.perdure.is_continued):
            raise InputRejected(f"Chain takes one argument; it was given {len(more) + 2}.")
        asked = parse(ChainInput, {} if chain is None else chain, "Chain", InputRejected)
        if not asked.graphs:
            raise InputRejected("Chain: 'graphs' is empty; a chain has at least one graph.")
        taken_up = None if carried is None else parse(CarriedChain, carried, "what Chain carried", InputRejected)
        graphs = await self._graphs(asked, is_judged=taken_up is not None)
        results = list(taken_up.results) if taken_up else []
        state = asked.initial_state
        for graph in graphs[len(results) :]:
            result = await self.walked(
                graph,
                {**graph.initial_state, **state},
                results,
                carried=taken_up.graph if taken_up else None,
                continuation=Continuation(self._beginning(chain, results), room_bytes=MAX_CARRIED_BYTES // 2),
            )
            taken_up = None
            results.append(result)
            left = {key: value for key, value in result.final_state.items() if key != GOAL}
            state = {**asked.initial_state, **left}
        return cast(list[WorkflowResult], await _fitting(results))

    async def _graphs(self, asked: ChainInput, *, is_judged: bool) -> list[GraphDefinition]:
        """The graphs, all of them judged before the first begins."""
        if is_judged:
            return [await self.read(graph) for graph in asked.graphs]
        chained, graphs = Chained(tuple(asked.initial_state)), list[GraphDefinition]()
        for value in asked.graphs:
            graphs.append(await self.judged(value, chained.given_to(value)))
            chained.add(graphs[-1])
        return graphs

    def _beginning(
        self, chain: Any, results: Sequence[WorkflowResult]
    ) -> Callable[[dict[str, Any]], Coroutine[Any, Any, NoReturn]]:
        async def begin(left: dict[str, Any]) -> NoReturn:
            earlier = await _fitting(results, MAX_CARRIED_BYTES // 2)
            self.perdure.raise_if_cancelled()  # what is carried was packed in parts, and a cancel may have passed
            self.perdure.continue_as_new([chain, {"results": earlier, "graph": left}])  # a `CarriedChain`

        return begin
