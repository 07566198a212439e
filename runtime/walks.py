"""What happened to the graphs of a run: from its results where it has any, else from its events.

Pure. Law: only the stages of the graph itself are followed. What graphs nested in it tell comes while one of its
stages, or one of its compensations, is under way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from runtime.standing import Json
from workflows.graph.definition import GraphDefinition, StageRefCompensation
from workflows.graph.engine import CYCLE_LIMIT
from workflows.graph.results import EmptyOutput, StageResult, WorkflowResult
from workflows.graph.walk import UNDOING, StageState, Walk
from workflows.history import HOLDS

NOT_BEGUN = "not begun"
RUNNING = "running"
CUT_OFF = "cut off"


def walks_of_results(graphs: Sequence[GraphDefinition], results: Sequence[WorkflowResult]) -> list[Walk]:
    """A walk for each graph; those of a chain that have no result were not begun."""
    begun = [_walk_of_result(graph, result) for graph, result in zip(graphs, results, strict=False)]
    return [*begun, *(Walk(NOT_BEGUN) for _ in graphs[len(begun) :])]


def _walk_of_result(graph: GraphDefinition, result: WorkflowResult) -> Walk:
    path = _Path()
    for stage in result.stages:
        path.visit(stage.stage_id, has_run=not _was_refused(stage))
        path.states[stage.stage_id] = stage.status
    for undone in result.compensations:
        path.undone(undone.for_stage_id, has_failed=undone.status != "compensated")
    return path.walk(graph, result.status.replace("_", " "))


def _was_refused(stage: StageResult) -> bool:
    """Whether a stage is told as failed and never ran: the loop guard stood before it, or a full history."""
    is_refusal = (stage.error or "").startswith((CYCLE_LIMIT, HOLDS))
    return is_refusal and isinstance(stage.output, EmptyOutput) and stage.duration_ms == 0


def walks_of_events(
    graphs: Sequence[GraphDefinition], envelopes: Sequence[Json], *, is_open: bool, is_waiting: bool
) -> list[Walk]:
    """A walk for each graph of a run that has no result.

    Events do not say which graph of a chain they are of: the next one has begun where no edge leads from the stage
    before to the one that begins. `is_waiting`: a person has to answer something. What the log no longer holds is
    not in the walks.
    """
    follower = _Follower(graphs)
    events = [envelope["event"] for envelope in envelopes]
    if envelopes and envelopes[0]["offset"]:
        follower.go_on_from(_begun_before(events))
    for event in events:
        follower.follow(event)
    return follower.walks(is_open=is_open, is_waiting=is_waiting)


def _begun_before(events: Iterable[Json]) -> tuple[str, int] | None:
    """The outermost stage that was under way when the first of these events came, as far as they tell."""
    started: set[int] = set()
    found: tuple[str, int] | None = None
    for event in events:
        if event["type"] == "stage_started":
            started.add(event["index"])
        elif event["type"] == "stage_finished" and event["index"] not in started:
            found = min(found or (event["stage"], event["index"]), (event["stage"], event["index"]), key=_index)
    return found


def _index(stage: tuple[str, int]) -> int:
    return stage[1]


@dataclass
class _Path:
    """One graph while its stages are read in their order."""

    states: dict[str, StageState] = field(default_factory=dict)
    visits: Counter[str] = field(default_factory=Counter)
    order: list[str] = field(default_factory=list)

    def visit(self, stage: str, *, has_run: bool = True) -> None:
        """A stage comes next."""
        self.order.append(stage)
        self.visits[stage] += has_run

    def undone(self, stage: str, *, has_failed: bool) -> None:
        """One of its executions was compensated; one that could not be is what must be seen."""
        if self.states.get(stage) != "compensation_failed":
            self.states[stage] = "compensation_failed" if has_failed else "compensated"

    def walk(self, graph: GraphDefinition, status: str) -> Walk:
        """What happened, with the stages that only ran as compensations."""
        undoing: dict[str, StageState] = {
            stage.compensation.stage_id: UNDOING[self.states[stage.id]]
            for stage in graph.stages
            if isinstance(stage.compensation, StageRefCompensation) and self.states.get(stage.id) in UNDOING
        }
        return Walk(status, {**undoing, **self.states}, +self.visits, frozenset(pairwise(self.order)))


class _Follower:
    """Reads the events of a run, graph after graph."""

    def __init__(self, graphs: Sequence[GraphDefinition]) -> None:
        self._graphs = graphs
        self._ids = [{stage.id for stage in graph.stages} for graph in graphs]
        self._ways = [{(edge.source, edge.target) for edge in graph.edges} for graph in graphs]
        self._paths = [_Path() for _ in graphs]
        self._at = 0
        self._stage: tuple[str, int] | None = None
        """The stage under way, and its phase index."""
        self._undoing: list[str] = []
        """Compensations under way, the graph's own first."""

    @property
    def _path(self) -> _Path:
        return self._paths[self._at]

    def go_on_from(self, begun: tuple[str, int] | None) -> None:
        """Begin in the middle: what came before is not known."""
        if begun is not None:
            self._begin(*begun)

    def follow(self, event: Json) -> None:
        """Take in the next event."""
        match event["type"]:
            case "stage_started" if self._stage is None and not self._undoing:
                self._begin(event["stage"], event["index"])
            case "stage_finished" if self._stage == (event["stage"], event["index"]):
                self._path.states[event["stage"]] = event["status"]
                self._stage = None
            case "compensation_started" if self._stage is None:
                self._undoing.append(event["name"])
                if len(self._undoing) == 1 and self._path.states.get(event["name"]) != "compensation_failed":
                    self._path.states[event["name"]] = "compensating"
            case "compensation_finished" if self._undoing:
                if len(self._undoing) == 1:
                    self._path.undone(event["name"], has_failed=event["status"] == "failed")
                self._undoing.pop()

    def _begin(self, stage: str, index: int) -> None:
        if not self._is_of_this_graph(stage):
            following = range(self._at + 1, len(self._graphs))
            self._at = next((number for number in following if stage in self._ids[number]), self._at)
        if stage not in self._ids[self._at]:
            return  # of a graph nested in a stage whose beginning the log no longer holds
        self._stage = (stage, index)
        self._path.visit(stage)
        self._path.states[stage] = "running"

    def _is_of_this_graph(self, stage: str) -> bool:
        """Whether the graph under way leads to a stage."""
        before = self._path.order[-1:]
        return (before[0], stage) in self._ways[self._at] if before else stage in self._ids[self._at]

    def walks(self, *, is_open: bool, is_waiting: bool) -> list[Walk]:
        """What has happened so far."""
        under_way = self._stage[0] if self._stage else next(iter(self._undoing), None)
        if under_way is not None and not is_open:
            self._path.states[under_way] = "cut_off"
        elif under_way is not None and is_waiting:
            self._path.states[under_way] = "waiting"
        return [self._walk(number, is_open=is_open) for number in range(len(self._graphs))]

    def _walk(self, number: int, *, is_open: bool) -> Walk:
        path = self._paths[number]
        if number < self._at:
            status = "completed"
        elif not path.order and not (is_open and number == self._at):
            status = NOT_BEGUN
        else:
            status = RUNNING if is_open else CUT_OFF
        return path.walk(self._graphs[number], status)
