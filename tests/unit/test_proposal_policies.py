"""Policies: what each forbids, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from workflows.errors import GraphRejected
from workflows.graph.policies import DenyTool, DenyToolParam, Policy, RequireState, policies_of, violations

NO_DELETE = DenyTool(target="delete")
NO_SECRETS = DenyToolParam(target="write_file", key="path", pattern=".ssh")
NO_LIST = DenyToolParam(target="write_file", key="tags", pattern='"x"')
TESTED = RequireState(key="tests", value={"passed": 1})


@pytest.mark.parametrize(
    ("policy", "tool", "parameters", "state", "told"),
    [
        (NO_DELETE, "delete", {}, {}, "tool 'delete' denied"),
        (NO_DELETE, "delete_all", {}, {}, None),
        (NO_DELETE, None, {}, {}, None),
        (NO_SECRETS, "write_file", {"path": "a/.ssh/b"}, {}, "param 'path' matches '.ssh'"),
        (NO_SECRETS, "write_file", {"path": "assh"}, {}, None),
        (NO_SECRETS, "write_file", {}, {}, None),
        (NO_SECRETS, "read_file", {"path": "a/.ssh/b"}, {}, None),
        (NO_LIST, "write_file", {"tags": ["x"]}, {}, "param 'tags' matches '\"x\"'"),
        (TESTED, "any", {}, {"tests": {"passed": 1.0}}, None),
        (TESTED, None, {}, {"tests": {"passed": True}}, "state['tests'] must be {\"passed\":1}"),
        (TESTED, None, {}, {}, "state['tests'] must be {\"passed\":1}"),
        (RequireState(key="k", value="on"), None, {}, {}, "state['k'] must be \"on\""),
        (RequireState(key="k", value=None), None, {}, {}, "state['k'] must be null"),
    ],
)
def test_policy_says_what_it_forbids(
    policy: Policy, tool: str | None, parameters: dict[str, Any], state: dict[str, Any], told: str | None
) -> None:
    """Tools by name, parameters by what their text or JSON contains, the state by JSON equality."""
    found = violations([policy], tool=tool, parameters=parameters, state=state)
    assert found == (() if told is None else (told,))


def test_policies_are_all_heard() -> None:
    """Every violation is collected, in the order of the policies."""
    policies: list[Policy] = [TESTED, NO_SECRETS, DenyTool(target="write_file")]
    assert violations(policies, tool="write_file", parameters={"path": ".ssh"}, state={}) == (
        "state['tests'] must be {\"passed\":1}",
        "param 'path' matches '.ssh'",
        "tool 'write_file' denied",
    )


def test_policies_of_a_graph_are_read_from_its_metadata() -> None:
    """None there is no policy; each has its type."""
    assert policies_of({}, "graph 'g'") == ()
    written: Any = [{"type": "deny_tool", "target": "delete"}, {"type": "require_state", "key": "k", "value": None}]
    assert policies_of({"policies": written}, "graph 'g'") == (NO_DELETE, RequireState(key="k", value=None))


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (3, "graph 'g': 'policies' is 3; input should be a list."),
        ([{"type": "deny_tool"}], "graph 'g': 'policies.0.deny_tool.target' is missing."),
    ],
)
def test_policies_that_cannot_be_read_are_refused(written: Any, told: str) -> None:
    """A policy with a mistake would forbid nothing, so nothing starts."""
    with pytest.raises(GraphRejected) as rejected:
        policies_of({"policies": written}, "graph 'g'")
    assert rejected.value.message == told
