"""The shape of a graph and what a run of it takes: reach, waves, cycles, agent steps, and how fast that is told."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.definitions import APPROVAL, NOTHING, edge, graph, nested, pattern, stage
from workflows.graph.verdict import Estimate, RunEstimate, Verdict
from workflows.graph.verify import examine, verify_graph


def test_verdict_tells_shape_and_cost() -> None:
    """What is reachable, in which waves, whether it goes in circles, and the agent steps of stages and run."""
    again = {"key": "stage.b.answer", "value": "again"}
    value = graph(
        stage("a", pattern("supervisor", "w", "s")),
        stage("b", {"type": "loop_until", "max_iterations": 3, "body": pattern("vote", "x", "y")}),
        stage("c", pattern("swarm_parallel", "x", "y", synthesizer_index=0)),
        stage("d"),
        edges=[edge("a", "c", again), edge("a", "b"), edge("b", "c")],
    )
    assert verify_graph(value).model_copy(update={"issues": ()}) == Verdict(
        valid=True,
        issues=(),
        reachable_stages=("a", "c", "b"),
        unreachable_stages=("d",),
        has_cycles=False,
        estimate=RunEstimate(
            least=5,
            most=15,
            stages={
                "a": Estimate(least=2, most=6),
                "b": Estimate(least=6, most=6),
                "c": Estimate(least=3, most=3),
                "d": Estimate(least=0, most=0),
            },
        ),
        waves=(("a",), ("c", "b")),
    )


@pytest.mark.parametrize(
    ("step", "least", "most"),
    [
        (pattern("swarm_sequential", "x", "y"), 2, 2),
        (pattern("swarm_debate", "x", "y", rounds=3, synthesizer_index=1), 7, 7),
        (pattern("pipeline", "x", "y", "z"), 3, 3),
        (pattern("supervisor", "x", "y", "s", max_rounds=2), 3, 6),
        (pattern("delegator", "x", "y"), 1, None),
        (pattern("map_reduce", "x", "y", items=[1, 2, 3]), 4, 4),
        (pattern("map_reduce", "x", "y", items="{{goal}}"), 1, None),
        (pattern("vote", "x", "y", synthesizer_index=0), 3, 3),
        (pattern("fleet", "x", "y"), 2, 2),
        (pattern("adversarial_review", "x", review_key="goal"), 0, 1),
        (pattern("tournament", "x", "y", "z", "judge"), 5, 5),
        (APPROVAL, 0, 0),
        ({"type": "for_each", "items_from": "goal", "body": pattern("vote", "x")}, 0, None),
        ({"type": "for_each", "items_from": "goal", "body": NOTHING}, 0, 0),
        (
            {
                "type": "loop_until",
                "max_iterations": 4,
                "until": [{"key": "stage.a.answer", "value": "ok"}],
                "body": pattern("vote", "x", "y"),
            },
            2,
            8,
        ),
        (nested(stage("b", pattern("vote", "x", "y"))), 2, 2),
    ],
)
def test_estimate_counts_agent_steps(step: dict[str, Any], least: int, most: int | None) -> None:
    """Least and most of one execution, for each kind of step and pattern."""
    found = verify_graph(graph(stage("a", step), goal="x")).estimate
    assert found == RunEstimate(least=least, most=most, stages={"a": Estimate(least=least, most=most)})


def test_estimate_of_a_cycle_is_held_by_the_loop_guard() -> None:
    """At most the dearest stage, as often as stages may be executed."""
    value = graph(
        stage("a", pattern("vote", "x", "y")),
        edges=[edge("a", "a", {"key": "stage.a.answer", "value": "no"})],
        max_iterations=10,
    )
    verdict = verify_graph(value)
    assert (verdict.has_cycles, verdict.estimate) == (
        True,
        RunEstimate(least=2, most=20, stages={"a": Estimate(least=2, most=2)}),
    )


def chain(count: int) -> dict[str, Any]:
    stages = [stage(f"s{n}", pattern("vote", "x", task="{{stage.s0.answer}}")) for n in range(count)]
    edges = [edge(f"s{n}", f"s{n + 1}", {"key": f"stage.s{n}.succeeded", "value": True}) for n in range(count - 1)]
    return graph(*stages, edges=edges, max_iterations=count)


def test_verify_is_quick_and_linear() -> None:
    """10,000 stages take about a second on a slow machine, a tenth of them about a tenth of that, good or bad."""

    def seconds(text: str) -> float:
        begun = time.process_time()
        examine(text)
        return time.process_time() - begun

    seconds(json.dumps(chain(10)))
    small, large = json.dumps(chain(1_000)), json.dumps(chain(10_000))
    assert seconds(large) < max(30 * min(seconds(small) for _ in range(3)), 1.0)
    assert seconds(large.replace('"to": "s', '"to": "q')) < 15


@settings(max_examples=60)
@given(
    st.integers(1, 8).flatmap(
        lambda count: st.tuples(
            st.just(count),
            st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1), st.booleans()), max_size=20),
        )
    )
)
def test_shape_agrees_with_a_walk(drawn: tuple[int, list[tuple[int, int, bool]]]) -> None:
    """What is reachable and what is a cycle, against the plainest way to find out."""
    count, links = drawn
    condition = {"key": "stage.0.answer", "value": "x"}
    edges = [edge(str(one), str(other), *([condition] if open_ else [])) for one, other, open_ in links]
    verdict = verify_graph(graph(*(stage(str(n)) for n in range(count)), edges=edges))
    following: dict[int, set[int]] = {n: set() for n in range(count)}
    always: set[int] = set()
    for one, other, is_conditional in links:
        if one not in always:
            following[one].add(other)
            if not is_conditional:
                always.add(one)

    def after(begin: int) -> set[int]:
        seen: set[int] = set()
        while True:
            more = {other for one in (seen | {begin}) for other in following[one]} - seen
            if not more:
                return seen
            seen |= more

    reachable = after(0) | {0}
    assert set(verdict.reachable_stages) == {str(n) for n in reachable}
    assert verdict.has_cycles == any(n in after(n) for n in reachable)
