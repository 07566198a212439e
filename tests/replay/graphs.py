"""The graphs whose runs the replay ring keeps: every kind of stage, and every way in which a graph ends."""

from __future__ import annotations

from itertools import pairwise
from typing import Any


def stage(name: str, step: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": name, "step": step, **more}


def pattern(kind: str, task: str, *agents: str, **config: Any) -> dict[str, Any]:
    named = [{"name": agent} for agent in agents]
    return {"type": "pattern", "pattern": kind, "task": task, "agents": named, "config": config}


def writes(key: str, value: Any) -> dict[str, Any]:
    return {"type": "state_write", "parameters": {"key": key, "value": value}}


def calls(tool: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "tool_call", "tool": tool, "parameters": parameters}


def proposal(*actions: dict[str, Any]) -> dict[str, Any]:
    return {"type": "proposal", "proposal": {"actions": list(actions)}}


def in_order(name: str, *stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    names = [each["id"] for each in stages]
    edges = [{"from": source, "to": target} for source, target in pairwise(names)]
    return {"id": name, "name": name, "start": names[0], "stages": list(stages), "edges": edges, **more}


ITEMS = ["a", "b", "c"]
UNDO = proposal(writes("undone", True), calls("calculate", expression="1+1"))
INNER = in_order(
    "inner",
    stage(
        "again",
        {
            "type": "loop_until",
            "max_iterations": 3,
            "until": [{"key": "stage.again.iteration", "operator": "gte", "value": 2}],
            "body": pattern("pipeline", "{{given}}", "echo"),
        },
    ),
    initial_state={"given": "{{items}}"},
)

EVERY_STAGE = in_order(
    "every-stage",
    stage("look", pattern("swarm_parallel", "look at {{thing}}", "echo", "brief"), timeout_ms=60_000),
    stage("plan", proposal(writes("items", ITEMS), calls("calculate", expression="6*7")), compensation=UNDO),
    stage("each", {"type": "for_each", "items_from": "items", "body": pattern("pipeline", "{{item}}", "echo")}),
    stage("fresh", {"type": "dedup", "items_from": "items", "into": "unseen", "store": "replay"}),
    stage("inside", {"type": "sub_workflow", "workflow": INNER}),
    stage(
        "send",
        {
            "type": "deliver",
            "payload_key": "items",
            "sinks": [
                {"actions": [calls("calculate", expression="2")]},
                {"actions": [calls("nothing", about="{{payload}}")]},
            ],
        },
    ),
    stage("ask", {"type": "approval", "prompt": "{{thing}}?", "output_key": "verdict", "fields": [{"name": "go"}]}),
    goal="be thorough",
    initial_state={"thing": "the house"},
)

COMPENSATED = in_order(
    "compensated",
    stage("first", proposal(writes("one", 1)), compensation=UNDO),
    stage("second", pattern("fleet", "x", "echo"), compensation={"type": "stage_ref", "stage_id": "first"}),
    stage("third", proposal(writes("two", 2)), compensation=proposal(calls("nothing"))),
    stage("fails", pattern("pipeline", "x", "broken")),
)
COMPENSATED["stages"][2]["compensation"] = {"type": "proposal", "proposal": {"actions": [calls("nothing")]}}
COMPENSATED["stages"][0]["compensation"] = {"type": "proposal", "proposal": UNDO["proposal"]}
EVERY_STAGE["stages"][1]["compensation"] = {"type": "proposal", "proposal": UNDO["proposal"]}

ROUTED: dict[str, Any] = {
    **in_order("routed", stage("try", pattern("pipeline", "x", "broken"), on_failure="route"), stage("else", UNDO)),
    "edges": [
        {"from": "try", "to": "else", "conditions": [{"key": "stage.try.succeeded", "value": False}]},
        {"from": "else", "to": "try", "conditions": [{"key": "never", "operator": "exists"}]},
    ],
}

TIMED_OUT = in_order(
    "timed-out",
    stage("first", proposal(writes("one", 1)), compensation={"type": "stage_ref", "stage_id": "first"}),
    stage("slow", pattern("swarm_parallel", "x", "slow", "slow"), timeout_ms=500),
)

GUARDED = {
    **in_order("guarded", stage("round", proposal(writes("one", 1)))),
    "edges": [{"from": "round", "to": "round"}],
    "max_iterations": 3,
}

SLOW = in_order(
    "slow",
    stage("first", proposal(writes("one", 1)), compensation={"type": "stage_ref", "stage_id": "first"}),
    stage("inside", {"type": "sub_workflow", "workflow": in_order("in", stage("s", pattern("fleet", "x", "slow")))}),
)

UNANSWERED = in_order(
    "unanswered",
    stage(
        "default",
        {"type": "approval", "prompt": "?", "output_key": "a", "timeout_ms": 300, "on_timeout": {"go": "no"}},
    ),
    stage("fails", {"type": "approval", "prompt": "?", "output_key": "b", "timeout_ms": 300}),
)

LONG = in_order(
    "long",
    stage("plan", proposal(writes("one", 1)), compensation={"type": "stage_ref", "stage_id": "plan"}),
    *(stage(f"ask-{number}", pattern("pipeline", "{{one}}", "echo")) for number in range(8)),
    stage("fails", pattern("pipeline", "x", "broken")),
)

MANY = 1_001
# One more than a run carries itself.
NEARLY_ENOUGH = MANY * 500 - 3_000
# Of tokens: children have to ask for what others leave, and the last ones are refused.
MANY_ITEMS = in_order(
    "many-items",
    stage("each", {"type": "for_each", "items_from": "items", "body": pattern("pipeline", "{{item}}", "metered")}),
    initial_state={"items": list(range(MANY))},
)
MANY_SLOW_ITEMS = in_order(
    "many-slow-items",
    stage("each", {"type": "for_each", "items_from": "items", "body": pattern("pipeline", "{{item}}", "slow")}),
    initial_state={"items": list(range(MANY))},
)
ITEM_BODY = {
    "type": "sub_workflow",
    "workflow": in_order(
        "body",
        stage("look", pattern("swarm_sequential", "{{item}} of {{about}}", "echo", "metered")),
        stage("note", proposal(writes("seen", "{{item}}"), calls("calculate", expression="1+1"))),
        stage(
            "again",
            {"type": "loop_until", "max_iterations": 2, "body": pattern("pipeline", "{{item}}", "echo")},
        ),
        initial_state={"item": "{{item}}", "about": "{{about}}"},
    ),
}

CHAINED = {"items": "x", "given": "y"}
