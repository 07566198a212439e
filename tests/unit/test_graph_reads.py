"""What the body of a `for_each` may read is found from its definition."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.definitions import NOTHING, call, nested, pattern, proposal, stage, write
from tests.graphs import check, when
from workflows.graph.definition import Step
from workflows.graph.policies import DenyTool, RequireState
from workflows.graph.reads import reads_of

STEP: TypeAdapter[Step] = TypeAdapter(Step)
ONCE = {**call("calculate", expression="{{a}}"), "idempotent": True}
APPROVAL = {"type": "approval", "prompt": "{{a}}?", "output_key": "go"}

READS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "pattern": (
        {
            **pattern("fleet", task="{{a}} {{item}}", timeout_secs="{{b}}"),
            "agents": [{"name": "x", "system_prompt": "{{c}}"}],
        },
        {"a", "b", "c", "item"},
    ),
    "review": (pattern("adversarial_review", "x", review_key="work"), {"work"}),
    "proposal": (
        proposal(
            write("w", {"deep": ["{{a}}"]}),
            {"type": "state_read", "parameters": {"key": "r"}},
            {**check("p"), "state_dependencies": ["d"]},
        ),
        {"a", "r", "p", "d"},
    ),
    "sub_workflow": (
        nested(stage("in", pattern("fleet", "x", task="{{its own}} {{own}}")), initial_state={"own": "{{a}}"}),
        {"a"},
    ),
    "loop": (
        {"type": "loop_until", "body": proposal(write("w", "{{a}}")), "until": [when("u", 1)], "max_iterations": 2},
        {"a", "u"},
    ),
    "for_each": ({"type": "for_each", "items_from": "list", "body": pattern("fleet", task="{{a}}")}, {"list", "a"}),
    "dedup": ({"type": "dedup", "items_from": "list", "into": "new", "store": "s"}, {"list"}),
    "deliver": (
        {"type": "deliver", "sinks": [{"actions": [call("send", to="{{a}} {{payload}}")]}], "payload_key": "p"},
        {"a", "p", "payload"},
    ),
}


@pytest.mark.parametrize(("body", "keys"), READS.values(), ids=READS.keys())
def test_reads_are_found(body: dict[str, Any], keys: set[str]) -> None:
    """Of every kind of step, in every place where it reads."""
    found = reads_of(STEP.validate_python(body), (), has_templates=True)
    assert (found.keys, found.shares, found.computes) == (keys, None, None)


def test_reads_without_templates_are_those_by_name() -> None:
    """Where references are text, only what names a key reads it."""
    body = proposal(write("w", "{{a}}"), {"type": "state_read", "parameters": {"key": "{{b}}"}})
    found = reads_of(STEP.validate_python(body), (), has_templates=False)
    assert (found.keys, found.computes) == ({"{{b}}"}, None)


def test_reads_of_policies_count() -> None:
    """A policy asks for a key before each action."""
    policies = (DenyTool(target="x"), RequireState(key="allowed", value=True))
    assert reads_of(STEP.validate_python(NOTHING), policies, has_templates=True).keys == {"allowed"}


OBSTACLES: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "approval inside": (nested(stage("in", APPROVAL)), "asks a person", None),
    "idempotent": (proposal(ONCE), "has idempotent actions, which run once in a run", None),
    "idempotent undoing": (
        nested(stage("in", compensation={"type": "proposal", "proposal": {"actions": [ONCE]}})),
        "has idempotent actions, which run once in a run",
        None,
    ),
    "computed key": (
        proposal({"type": "state_read", "parameters": {"key": "{{item}}"}}),
        None,
        "computes the key that a state_read reads",
    ),
    "computed key inside": (
        nested(stage("in", proposal({"type": "state_read", "parameters": {"key": "{{a}}"}}))),
        None,
        None,
    ),
    "computed review": (
        pattern("adversarial_review", "x", review_key="{{item}}"),
        None,
        "computes the key that a review reads",
    ),
}


@pytest.mark.parametrize(("body", "shares", "computes"), OBSTACLES.values(), ids=OBSTACLES.keys())
def test_reads_say_what_stands_in_the_way(body: dict[str, Any], shares: str | None, computes: str | None) -> None:
    """What items share with their run, and keys that only a running body knows."""
    found = reads_of(STEP.validate_python(body), (), has_templates=True)
    assert (found.shares, found.computes) == (shares, computes)
