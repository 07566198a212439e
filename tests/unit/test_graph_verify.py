"""What verify says of a graph: errors, doubts and warnings, each with its message, its place and its stage."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.definitions import APPROVAL, NOTHING, call, edge, graph, nested, pattern, proposal, stage, write
from workflows.errors import GraphRejected
from workflows.graph.step_checks import Served
from workflows.graph.verdict import Verdict
from workflows.graph.verify import rejected, verify_graph


def told(verdict: Verdict) -> list[tuple[str, str | None, str]]:
    return [(issue.severity, issue.stage_id, issue.message) for issue in verdict.issues]


ROWS: dict[str, tuple[dict[str, Any], list[tuple[str, str | None, str]]]] = {
    "start": (
        graph(stage("a"), start="b"),
        [
            ("error", None, "start stage 'b' does not exist"),
            ("warning", "a", "stage 'a' cannot be reached from the start."),
        ],
    ),
    "no stages": (graph(), [("error", None, "start stage 'a' does not exist")]),
    "edge to nowhere": (
        graph(stage("inspect"), stage("report"), edges=[edge("inspect", "report"), edge("report", "reprot")]),
        [("error", "report", "edge 'report' -> 'reprot' leads to no stage. The stages are 'inspect' and 'report'.")],
    ),
    "edge from nowhere": (
        graph(stage("a"), edges=[edge("x", "a")]),
        [("error", None, "edge 'x' -> 'a' begins at no stage. The stages are 'a'.")],
    ),
    "many stages": (
        graph(
            *(stage(f"stage{n}") for n in range(10)),
            edges=[edge(f"stage{n}", f"stage{n + 1}") for n in range(9)] + [edge("stage9", "stag3")],
        ),
        [("error", "stage9", "edge 'stage9' -> 'stag3' leads to no stage. Did you mean 'stage3'?")],
    ),
    "duplicate ids": (
        graph(stage("a"), stage("a")),
        [("error", "a", "stage id 'a' is used more than once. Give each stage its own.")],
    ),
    "compensation by nobody": (
        graph(stage("a", compensation={"type": "stage_ref", "stage_id": "undo"})),
        [("error", "a", "stage 'a': compensation by stage 'undo', which does not exist. The stages are 'a'.")],
    ),
    "compensation by approval": (
        graph(stage("a", compensation={"type": "stage_ref", "stage_id": "b"}), stage("b", APPROVAL)),
        [
            (
                "error",
                "a",
                "stage 'a': compensation by stage 'b', which is an approval. "
                "An approval undoes nothing; name a stage that acts.",
            )
        ],
    ),
    "compensation is no orphan": (
        graph(stage("a", compensation={"type": "stage_ref", "stage_id": "b"}), stage("b")),
        [],
    ),
    "unreachable": (
        graph(stage("a"), stage("b"), stage("c"), edges=[edge("b", "c")]),
        [
            ("warning", "b", "stage 'b' cannot be reached from the start."),
            ("warning", "c", "stage 'c' cannot be reached from the start."),
        ],
    ),
    "endless cycle": (
        graph(stage("a"), stage("b"), edges=[edge("a", "b"), edge("b", "a")], max_iterations=7),
        [("warning", "a", "the cycle 'a' -> 'b' -> 'a' has no way out: it ends at the limit of 7 executions.")],
    ),
    "cycle with a way out": (
        graph(stage("a"), stage("b"), edges=[edge("a", "b"), edge("b", "a", {"key": "stage.a.answer", "value": "no"})]),
        [],
    ),
    "edge never taken": (
        graph(stage("a"), stage("b"), edges=[edge("a", "b"), edge("a", "a")]),
        [("warning", "a", "edge 'a' -> 'a' is never taken: an edge before it always holds.")],
    ),
    "in a sub-workflow": (
        graph(stage("a", nested(stage("b"), start="c"))),
        [
            ("error", "a", "start stage 'c' does not exist"),
            ("warning", "a/b", "stage 'a/b' cannot be reached from the start."),
        ],
    ),
    "proposal's own": (
        graph(stage("a", proposal(call(), call("t", x=1), call("t", x=1), call("t", x=1)))),
        [
            ("error", "a", "stage 'a': action 'action-0': tool_call action has no tool specified"),
            ("error", "a", "stage 'a': action 'action-3': likely loop: 't' is called 3 times with the same parameters"),
        ],
    ),
    "approval without key": (
        graph(stage("a", {**APPROVAL, "output_key": ""})),
        [("error", "a", "stage 'a': 'output_key' is empty. Name a state key.")],
    ),
    "approval in a loop": (
        graph(stage("a", {"type": "loop_until", "max_iterations": 2, "body": nested(stage("b", APPROVAL))})),
        [
            (
                "error",
                "a/b",
                "stage 'a/b': an approval cannot stand inside 'loop_until' or 'for_each'. Give it a stage of its own.",
            )
        ],
    ),
    "approval in a sub-workflow": (graph(stage("a", nested(stage("b", APPROVAL)))), []),
    "loop without rounds": (
        graph(stage("a", {"type": "loop_until", "max_iterations": 0, "body": NOTHING})),
        [("error", "a", "stage 'a': 'max_iterations' is 0; it takes at least 1.")],
    ),
    "for_each of nothing": (
        graph(stage("a", {"type": "for_each", "items_from": "", "body": NOTHING})),
        [("error", "a", "stage 'a': 'items_from' is empty. Name a state key.")],
    ),
    "for_each of what never is": (
        graph(stage("a", {"type": "for_each", "items_from": "files", "body": NOTHING})),
        [("warning", "a", "stage 'a': items_from reads 'files', which nothing in this graph produces.")],
    ),
    "unknown fields": (
        graph(stage("a", tiemout_ms=5, metadata={"any": 1}), maxiterations=3),
        [
            ("doubt", "a", "stage 'a': 'tiemout_ms' is not known and is ignored. Did you mean 'timeout_ms'?"),
            ("doubt", None, "'maxiterations' is not known and is ignored. Did you mean 'max_iterations'?"),
        ],
    ),
    "fields without effect": (
        graph(stage("a", proposal({**call("t"), "read_set": ["x"], "write_set": [], "dependencies": None}))),
        [("warning", "a", "stage 'a': 'read_set' has no effect here.")],
    ),
    "unknown operator": (
        graph(stage("a"), stage("b"), edges=[edge("a", "b", {"key": "goal", "operator": "eqq"})], goal="x"),
        [
            (
                "doubt",
                "a",
                "edge 'a' -> 'b': operator 'eqq' is not known, so its condition never holds. Did you mean 'eq'?",
            )
        ],
    ),
    "unknown operator of an action": (
        graph(stage("a", proposal({**call("t"), "preconditions": [{"key": "stage.a.error", "operator": "is"}]}))),
        [("doubt", "a", "stage 'a': action 'action-0': operator 'is' is not known, so its precondition always fails.")],
    ),
    "reference to nothing": (
        graph(stage("a", pattern("vote", "x", task="{{stage.b.answer}}")), initial_state={"k": 1}),
        [
            (
                "doubt",
                "a",
                "stage 'a': '{{stage.b.answer}}' has no value: nothing in this graph produces 'stage.b.answer'. "
                "Did you mean 'stage.a.answer'?",
            )
        ],
    ),
    "templates off": (
        graph(stage("a", pattern("vote", "x", task="{{b}}")), metadata={"templates": False}),
        [],
    ),
    "reference in a nested state": (
        graph(stage("a", nested(stage("b"), initial_state={"k": ["{{nope}}"]}))),
        [("doubt", "a", "stage 'a': '{{nope}}' has no value: nothing in this graph produces 'nope'.")],
    ),
    "outer state does not reach in": (
        graph(stage("a", nested(stage("b", pattern("vote", "x", task="{{k}}")))), initial_state={"k": 1}),
        [("doubt", "a/b", "stage 'a/b': '{{k}}' has no value: nothing in this graph produces 'k'.")],
    ),
    "item outside for_each": (
        graph(stage("a", pattern("vote", "x", task="{{item}}"))),
        [("doubt", "a", "stage 'a': '{{item}}' has no value: nothing in this graph produces 'item'.")],
    ),
    "condition on nothing": (
        graph(stage("a"), stage("b"), edges=[edge("a", "b", {"key": "done", "value": True})]),
        [("warning", "a", "edge 'a' -> 'b': a condition reads 'done', which nothing in this graph produces.")],
    ),
    "too few agents": (
        graph(stage("a", pattern("map_reduce", "x", items=[1])), stage("b", pattern("vote")), edges=[edge("a", "b")]),
        [
            ("doubt", "a", "stage 'a': pattern 'map_reduce' needs a mapper and a reducer; it has 1 agent."),
            ("doubt", "b", "stage 'b': pattern 'vote' needs an agent; it has 0 agents."),
        ],
    ),
    "config": (
        graph(stage("a", pattern("vote", "x", "y", quorom=1, quorum=5, synthesizer_index=2))),
        [
            ("warning", "a", "stage 'a': config key 'quorom' is not known and is ignored. Did you mean 'quorum'?"),
            ("doubt", "a", "stage 'a': config key 'quorum' is 5, and it takes a number above 0 and at most 1."),
            ("doubt", "a", "stage 'a': config key 'synthesizer_index' is 2, and the agents have 0 to 1."),
        ],
    ),
    "config from the state": (
        graph(stage("a", pattern("map_reduce", "x", "y", items="{{files}}")), initial_state={"files": []}),
        [],
    ),
    "same name twice": (
        graph(stage("a", pattern("vote", "x", "x"))),
        [("warning", "a", "stage 'a': 2 agents are named 'x', so their answers cannot be told apart.")],
    ),
    "bad schema": (
        graph(
            stage(
                "a", {**pattern("vote"), "agents": [{"name": "x", "metadata": {"output_schema": {"type": "objekt"}}}]}
            )
        ),
        [
            (
                "doubt",
                "a",
                "stage 'a': output_schema of agent 'x' is no JSON Schema: "
                "'objekt' is not valid under any of the given schemas.",
            )
        ],
    ),
    "timeout without limit": (
        graph(stage("a", {**APPROVAL, "on_timeout": {"x": 1}})),
        [("warning", "a", "stage 'a': 'on_timeout' has no effect without 'timeout_ms'.")],
    ),
    "no sinks": (
        graph(stage("a", {"type": "deliver", "sinks": []})),
        [("warning", "a", "stage 'a': 'sinks' is empty, so nothing is delivered.")],
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_verify_finds_what_is_wrong(name: str) -> None:
    """Each rule, with its severity, its stage and its whole message, and nothing else beside it."""
    value, expected = ROWS[name]
    verdict = verify_graph(json.dumps(value, indent=1), file="g.json")
    assert told(verdict) == expected
    assert all(issue.file == "g.json" and issue.line and issue.column for issue in verdict.issues)
    assert verdict.valid is not any(severity == "error" for severity, _, _ in expected)
    assert sorted(told(verify_graph(value)), key=str) == sorted(expected, key=str)


PRODUCED = [
    (stage("a", pattern("swarm_debate", "x", "y")), ["agent.x.answer", "agent.y_critique.answer", "stage.a.error"]),
    (stage("a", pattern("adversarial_review", "r", review_key="goal")), ["stage.a.review_passed", "goal"]),
    (stage("a", proposal(write("k"), {**call("t"), "expected_effects": {"done": True}})), ["k", "done"]),
    (stage("a", proposal(write("{{goal}}"))), ["anything.at.all"]),
    (stage("a", APPROVAL), ["go", "go.verdict", "stage.a.answer"]),
    (stage("a", {"type": "loop_until", "max_iterations": 1, "body": NOTHING}), ["stage.a.iteration"]),
    (
        stage("a", {"type": "for_each", "items_from": "goal", "body": NOTHING}),
        ["foreach.a.count", "foreach.a.0.state.k"],
    ),
    (
        stage("a", {"type": "dedup", "items_from": "goal", "into": "new", "store": "s"}),
        ["new", "stage.a.unseen_count", "stage.a.total_count"],
    ),
    (
        stage("a", {"type": "deliver", "sinks": [{"actions": [call("t", text="{{payload}}")]}], "payload_key": "goal"}),
        ["stage.a.delivered_count", "stage.a.failed_count"],
    ),
    (stage("a", compensation=proposal(write("undone"))), ["undone"]),
]


@pytest.mark.parametrize(("producer", "keys"), PRODUCED, ids=range(len(PRODUCED)))
def test_keys_that_a_stage_writes_are_known(producer: dict[str, Any], keys: list[str]) -> None:
    """Whatever a stage may write can be referred to and be the key of a condition."""
    reader = stage("r", pattern("vote", "v", task=" ".join(f"{{{{{key}}}}}" for key in keys)))
    conditions = [{"key": key, "operator": "exists"} for key in keys]
    assert told(verify_graph(graph(producer, reader, edges=[edge("a", "r", *conditions)], goal="x"))) == []


def test_keys_that_the_start_brings_are_known() -> None:
    """`given` names state keys that are not in the definition."""
    value = graph(stage("a", pattern("vote", "x", task="{{topic}}")))
    assert [told(verify_graph(value, given=["topic"])), len(verify_graph(value).issues)] == [[], 1]


def test_body_of_for_each_knows_its_item() -> None:
    """`{{item}}` and `{{index}}` have a value inside the body only."""
    body = pattern("vote", "x", task="{{index}}: {{item}}")
    value = graph(stage("a", {"type": "for_each", "items_from": "files", "body": body}), initial_state={"files": []})
    assert told(verify_graph(value)) == []


def test_served_agents_and_tools_are_known() -> None:
    """What the workers lack is a doubt; an agent with a model of its own needs no entry."""
    agents = [{"name": "a", "tools": ["grep"]}, {"name": "b"}, {"name": "c", "metadata": {"model": "m"}}]
    value = graph(
        stage("s", {**pattern("vote"), "agents": agents}), stage("t", proposal(call("rm"))), edges=[edge("s", "t")]
    )
    served = Served(agents=["a"], tools=["ls"])
    assert told(verify_graph(value, served=served)) == [
        ("doubt", "s", "stage 's': tool 'grep' of agent 'a' is not in the registry. The tools are 'ls'."),
        (
            "doubt",
            "s",
            "stage 's': agent 'b' is not in the registry, and no model is set for it. The agents are 'a'. Write it "
            "into agents.toml as [agents.b], or set 'model' in its metadata or 'default_model' in agents.toml.",
        ),
        ("doubt", "t", "stage 't': action 'action-0': tool 'rm' is not registered. The tools are 'ls'."),
    ]
    assert verify_graph(value, served=Served(agents=[], has_model=True)).issues == ()


@pytest.mark.parametrize("depth", [32, 33, 5_000])
def test_nesting_has_a_limit(depth: int) -> None:
    """32 graphs inside each other are verified; more are refused, however many, without a recursion error."""
    value = graph(stage("a"))
    for _ in range(depth):
        value = graph(stage("a", {"type": "sub_workflow", "workflow": value}))
    messages = [issue.message for issue in verify_graph(value).issues]
    expected = {
        32: [],
        33: ["graphs and bodies are nested more than 32 levels deep. Flatten them."],
        5_000: ["the graph is nested more than 200 levels deep. Flatten it."],
    }
    assert messages == expected[depth]


def test_rejection_tells_the_issues() -> None:
    """The error that a start ends with says each issue with its place."""
    verdict = verify_graph('{"id": "g", "name": "G", "start": "a", "stages": []}', file="g.json")
    with pytest.raises(GraphRejected) as caught:
        raise rejected(verdict.issues)
    assert caught.value.message == "g.json:1:35: start stage 'a' does not exist"
