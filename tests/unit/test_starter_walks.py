"""What happened to the graphs of a run, read from its results and from its events."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.walks import walks_of_events, walks_of_results
from tests.definitions import edge, graph, nested, stage
from workflows.graph.definition import GraphDefinition
from workflows.graph.results import WorkflowResult
from workflows.graph.verify import load_graph
from workflows.graph.walk import Walk

UNDONE_BY_TIDY = {"compensation": {"type": "stage_ref", "stage_id": "tidy"}}
LOOP = load_graph(
    graph(
        stage("a", **UNDONE_BY_TIDY),
        stage("b"),
        stage("tidy"),
        edges=[edge("a", "b"), edge("b", "a")],
        max_iterations=3,
    )
)
DEEP = load_graph(graph(stage("a", nested(stage("a"), stage("b"))), stage("b"), edges=[edge("a", "b")]))


def _result(status: str, *stages: tuple[str, str, str | None], undone: Any = ()) -> WorkflowResult:
    return WorkflowResult.model_validate(
        {
            "workflow_id": "g",
            "workflow_name": "G",
            "status": status,
            "stages": [
                {
                    "stage_id": name,
                    "stage_name": name,
                    "status": state,
                    "output": {"type": "empty"},
                    "duration_ms": 0,
                    "error": error,
                }
                for name, state, error in stages
            ],
            "compensations": [{"for_stage_id": name, "status": state, "duration_ms": 0} for name, state in undone],
            "duration_ms": 0,
            "timestamp": "2026-01-31T12:00:00.000Z",
            "final_state": {},
        }
    )


def _events(*told: str, first: int = 0) -> list[dict[str, Any]]:
    """Events in short: `+a0` and `-a0` a stage with its index, `!a0` one that failed, `<a` and `>a` a compensation."""
    return [{"offset": number, "time": "", "event": _event(text)} for number, text in enumerate(told, first)]


def _event(text: str) -> dict[str, Any]:
    sign, name, index = text[0], text[1:2], text[2:]
    if sign in "<>x":
        kind = "started" if sign == "<" else "finished"
        return {"type": f"compensation_{kind}", "name": name, "status": "failed" if sign == "x" else "succeeded"}
    kind, status = (
        ("started", {}) if sign == "+" else ("finished", {"status": "failed" if sign == "!" else "succeeded"})
    )
    return {"type": f"stage_{kind}", "stage": name, "index": int(index), **status}


def _followed(
    *graphs: GraphDefinition, events: list[dict[str, Any]], is_open: bool = True, is_waiting: bool = False
) -> list[Walk]:
    return walks_of_events(graphs, events, is_open=is_open, is_waiting=is_waiting)


def test_result_tells_visits_and_what_was_undone() -> None:
    """Stages that ran twice are counted, and one that only ran as a compensation has its state."""
    guard = "cycle limit reached after 3 iterations"
    ran = [("a", "succeeded", None), ("b", "succeeded", None), ("a", "succeeded", None), ("b", "failed", guard)]
    result = _result("partially_compensated", *ran, undone=[("a", "failed"), ("a", "compensated")])
    assert walks_of_results([LOOP], [result]) == [
        Walk(
            "partially compensated",
            {"a": "compensation_failed", "b": "failed", "tidy": "failed"},
            {"a": 2, "b": 1},
            frozenset({("a", "b"), ("b", "a")}),
        )
    ]


def test_graphs_without_a_result_were_not_begun() -> None:
    """A chain that ended early tells which of its graphs it never came to."""
    walks = walks_of_results([DEEP, DEEP], [_result("failed", ("a", "failed", "no"))])
    assert walks == [Walk("failed", {"a": "failed"}, {"a": 1}), Walk("not begun")]


def test_events_of_nested_graphs_are_theirs() -> None:
    """What a graph inside a stage tells changes nothing of the stages around it, though it uses their names."""
    (walk,) = _followed(DEEP, events=_events("+a0", "+a1", "-a1", "+b2", "!b2", "<a", ">a"))
    assert walk == Walk("running", {"a": "running"}, {"a": 1})
    (walk,) = _followed(DEEP, events=_events("+a0", "+a1", "-a1", "-a0", "+b2"), is_waiting=True)
    assert walk == Walk("running", {"a": "succeeded", "b": "waiting"}, {"a": 1, "b": 1}, frozenset({("a", "b")}))


@pytest.mark.parametrize(
    ("told", "is_open", "states"),
    [
        (["<a"], True, {"a": "compensating", "b": "failed", "tidy": "running"}),
        (["<a"], False, {"a": "cut_off", "b": "failed"}),
        (["<a", "+t2", "+x3", "<x", "xx", ">a"], True, {"a": "compensated", "b": "failed", "tidy": "succeeded"}),
        (["<a", "xa", "<a", ">a"], True, {"a": "compensation_failed", "b": "failed", "tidy": "failed"}),
    ],
    ids=["under way", "terminated", "with a graph inside", "one failed"],
)
def test_events_tell_compensations(told: list[str], is_open: bool, states: dict[str, str]) -> None:
    """A compensation under way, one that has ended, and one that failed."""
    (walk,) = _followed(LOOP, events=_events("+a0", "-a0", "+b1", "!b1", *told), is_open=is_open)
    assert (walk.states, walk.visits) == (states, {"a": 1, "b": 1})


def test_events_of_a_chain_move_on() -> None:
    """The next graph has begun where no edge leads from the stage before."""
    walks = _followed(DEEP, LOOP, DEEP, events=_events("+a0", "-a0", "+b1", "-b1", "+a2"))
    assert [walk.status for walk in walks] == ["completed", "running", "not begun"]
    assert walks[1].states == {"a": "running"}


def test_run_that_was_terminated_is_cut_off() -> None:
    """Whatever was under way when the run ended is cut off; nothing is shown as running."""
    (walk,) = _followed(DEEP, events=_events("+a0"), is_open=False)
    assert (walk.status, walk.states) == ("cut off", {"a": "cut_off"})
    assert [walk.status for walk in _followed(DEEP, events=[])] == ["running"]
    assert [walk.status for walk in _followed(DEEP, events=[], is_open=False)] == ["not begun"]


def test_log_that_begins_in_the_middle_is_read_from_there() -> None:
    """The outermost stage that was under way is found by its end; those before it are not known."""
    (walk,) = _followed(DEEP, events=_events("-a7", "+b8", "-b8", "-a6", "+b9", first=50))
    assert walk == Walk("running", {"a": "succeeded", "b": "running"}, {"a": 1, "b": 1}, frozenset({("a", "b")}))
