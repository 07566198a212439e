"""The graphs that lose their workers, and the names at whose gates each is held in its middle."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.definitions import call, edge, graph, pattern, proposal, stage, write

ITEMS = [f"item-{number}" for number in range(200)]
WIDTH = 20
HELD_ITEMS = ITEMS[80 : 80 + WIDTH]
"""A whole window of them, so that everything before is finished and nothing after has begun."""


def toil(name: str, *, fails: int = 0, **fields: Any) -> dict[str, Any]:
    """A call of the tool that keeps the diary; `fields` are the action's own."""
    return {**call("toil", name=name, fails=fails), **fields}


def in_order(*stages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    edges = [edge(source["id"], target["id"]) for source, target in pairwise(stages)]
    return graph(*stages, edges=edges, **fields)


def saying(step: dict[str, Any], says: dict[str, Any]) -> dict[str, Any]:
    """A pattern whose agents answer some of their steps as scripted."""
    return {**step, "agents": [{**agent, "metadata": {"says": says}} for agent in step["agents"]]}


def _after(step: dict[str, Any]) -> dict[str, Any]:
    """The step in a first stage, and a second one that uses its answer."""
    use = pattern("pipeline", "scribe", task="Use {{stage.coordinate.answer}}")
    return in_order(stage("coordinate", step), stage("use", use))


DELEGATION = {"delegate": [{"specialist": "helper", "subtask": "dig"}, {"specialist": "helper", "subtask": "fill"}]}

PATTERNS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "swarm_debate": (
        _after(pattern("swarm_debate", "ann", "bob", "cid", synthesizer_index=2)),
        {"ann_critique", "cid_critique"},
    ),
    "map_reduce": (
        _after(pattern("map_reduce", "mapper", "reducer", items=list("abcdefgh"), max_concurrent=3)),
        {"mapper_3", "mapper_4", "mapper_5"},
    ),
    "supervisor": (
        _after(saying(pattern("supervisor", "dan", "eve"), {"eve_round_1": "again", "eve_round_2": "APPROVED: good"})),
        {"dan_round_2"},
    ),
    "delegator": (
        _after(saying(pattern("delegator", "lead", "helper"), {"lead_turn_1": DELEGATION})),
        {"helper_turn_1_1"},
    ),
}
"""Each pattern in a graph that uses its answer, and the steps that are in flight in the middle of it."""

HELD_CALLS = {"held", "flaky"}
PROPOSAL = in_order(
    stage(
        "gather",
        proposal(
            toil("fetched", idempotent=True, failure_behavior="skip", expected_effects={"fetched": True}),
            toil("held", failure_behavior="skip", expected_effects={"held": 1}),
            toil("flaky", fails=1, failure_behavior="retry", max_retries=1, expected_effects={"flaky": True}),
            toil("after", state_dependencies=["fetched", "held", "flaky"]),
            {**write("gathered", ["held"]), "failure_behavior": "skip"},
        ),
    ),
    stage("again", proposal(toil("fetched", idempotent=True), write("told", "{{stage.gather.answer}}"))),
)
"""A level of three calls side by side, one of which needs two attempts, and then a call that needs what they left."""


def _done(name: str) -> dict[str, Any]:
    """A stage with one call, undone by two."""
    undo = proposal(toil(f"undo-{name}-first"), toil(f"undo-{name}-then"))
    return stage(name, proposal(toil(f"do-{name}")), compensation=undo)


REFERRED = {"type": "stage_ref", "stage_id": "c-undone"}
DONE = (_done("a"), _done("b"), {**_done("c"), "compensation": REFERRED}, _done("d"))
UNDONE = [
    "undo-d-first",
    "undo-d-then",
    "undo-c",
    "undo-b-first",
    "undo-b-then",
    "undo-a-first",
    "undo-a-then",
]
"""What undoes the stages, in the order in which it must finish."""
HELD_UNDOING = {"undo-b-then"}


def _undone_after(last: dict[str, Any]) -> dict[str, Any]:
    found = in_order(*DONE, last)
    return {**found, "stages": [*found["stages"], stage("c-undone", proposal(toil("undo-c")))]}


FAILING = _undone_after(stage("fails", proposal(toil("fail", fails=9))))
"""Four stages and one that fails."""
ENDLESS = _undone_after(stage("endless", pattern("pipeline", "scribe", task="wait to be cancelled")))
"""Four stages and one that is held until its run is cancelled."""
HELD_ENDLESS = {"wait to be cancelled"}

QUESTION = {
    "type": "approval",
    "prompt": "Go on?",
    "output_key": "verdict",
    "fields": [{"name": "go", "options": ["yes", "no"]}],
}


def asking(**fields: Any) -> dict[str, Any]:
    """Prepares, asks a person, and acts on the answer; `fields` are the approval's own."""
    return in_order(
        stage("prepare", proposal(toil("prepare")), compensation=proposal(toil("clear up"))),
        stage("ask", {**QUESTION, **fields}),
        stage("act", proposal(toil("act on {{verdict.go}}"))),
    )


FOR_EACH = in_order(
    stage(
        "each",
        {
            "type": "for_each",
            "items_from": "items",
            "body": pattern("pipeline", "scribe", task="{{item}}"),
            "max_concurrent": WIDTH,
        },
    ),
    stage("sum up", pattern("pipeline", "scribe", task="{{stage.each.answer}}")),
    initial_state={"items": ITEMS},
)
