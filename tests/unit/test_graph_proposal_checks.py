"""What is wrong with a proposal, judged without running it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.definitions import call, write
from workflows.graph.definition import ActionProposal
from workflows.graph.proposal_checks import verify_proposal

STATE = {"env": "prod", "n": 3}


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([{"type": "state_read", "parameters": {"key": "env"}, "state_dependencies": ["env"]}], []),
        (
            [{**call("t"), "state_dependencies": ["built"]}],
            [("error", "action 'action-0': state dependency 'built' is not available at this point")],
        ),
        ([write("built", 1), {**call("t"), "state_dependencies": ["built"]}], []),
        (
            [{**call("t"), "preconditions": [{"key": "n", "operator": "gt", "value": 5}]}],
            [("error", "action 'action-0': precondition will fail: state['n'] is 3, expected gt 5")],
        ),
        ([{**call("t"), "expected_effects": {"n": 9}}, {**call("u"), "preconditions": [{"key": "n", "value": 9}]}], []),
        ([call("rm")], [("error", "action 'action-0': tool 'rm' is not registered")]),
        ([call()], [("error", "action 'action-0': tool_call action has no tool specified")]),
        (
            [call("t", a=1, b=2), call("t", b=2, a=1)],
            [("warning", "action 'action-1': duplicate of an earlier call of 't' with the same parameters")],
        ),
        (
            [
                {
                    **call("t"),
                    "failure_behavior": "skip",
                    "expected_effects": {"k": n},
                    "id": f"w{n}",
                    "parameters": {"n": n},
                }
                for n in (1, 2)
            ],
            [("warning", "actions 'w1' and 'w2' write 'k' in no order of their own")],
        ),
        ([write("k", 1), write("k", 2)], []),
        ([write(None)], [("doubt", "action 'action-0': state_write has no 'key' among its parameters.")]),
    ],
    ids=range(11),
)
def test_proposal_is_followed_through_its_state(actions: list[Any], expected: list[tuple[str, str]]) -> None:
    """Preconditions and dependencies where the state is known, tools, repeated calls, writers without order."""
    issues = verify_proposal(ActionProposal(actions=actions), STATE, tools=["t", "u"])  # type: ignore[arg-type]
    assert [(issue.severity, issue.message) for issue in issues] == expected


def test_proposal_without_state_judges_no_state() -> None:
    """Preconditions and dependencies are left alone where the state is not known."""
    action = {**call("t"), "preconditions": [{"key": "n", "value": 9}], "state_dependencies": ["x"]}
    assert verify_proposal(ActionProposal.model_validate({"actions": [action]})) == ()
