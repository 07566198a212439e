"""Whether an action may run, what it leaves, and what a proposal that is aborted leaves of it: nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.actions import ActionOutcome
from workflows.graph.definition import Action, ActionProposal
from workflows.graph.proposal import Course, cache_key, changes, failure, levels, performed, refusal
from workflows.graph.results import ActionResult, ProposalCost, ProposalResult

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
STATES = st.dictionaries(st.sampled_from("abcd"), JSON, max_size=4)


def action(kind: str = "tool_call", **fields: Any) -> Action:
    return Action.model_validate({"id": "x", "type": kind, **fields})


def proposal(*actions: dict[str, Any]) -> ActionProposal:
    return ActionProposal.model_validate(
        {"id": "p", "actions": [{"type": "tool_call", "tool": "t", **one} for one in actions]}
    )


def run(course: Course, ends: list[ActionOutcome]) -> ProposalResult:
    """The course through its levels, each action ending as told."""
    for level in levels(course.proposal.actions):
        for place in level.places:
            if not course.is_aborted:
                course.record(place, ends[place], duration_ms=1, timestamp="now", called=True)
        course.commit(level)
    return course.result(duration_ms=9)


@given(STATES, st.data())
def test_course_that_is_aborted_restores_the_state(state: dict[str, Any], data: st.DataObject) -> None:
    """Whatever was written before an abort or an exhausted retry, the state is exactly as it was."""
    count = data.draw(st.integers(1, 6))
    actions: list[dict[str, Any]] = [
        {
            "expected_effects": data.draw(STATES),
            "failure_behavior": data.draw(st.sampled_from(["abort", "retry", "skip"])),
        }
        for _ in range(count)
    ]
    ends = [ActionOutcome(status=data.draw(st.sampled_from(["succeeded", "failed", "rejected"]))) for _ in range(count)]
    before = {**state}
    course = Course(proposal(*actions), state)
    result = run(course, ends)
    assert state == before
    if course.is_aborted:
        assert course.state == before
        assert not result.is_success
        assert all(one.rolled_back == bool(one.state_changes) for one in result.results)
    elif result.is_success:
        expected = dict(before)
        for one in actions:
            expected.update(one["expected_effects"])
        assert course.state == expected


def test_course_skips_what_follows_an_abort() -> None:
    """The rest is skipped, what was written is marked, and the costs count what was done."""
    course = Course(
        proposal({"expected_effects": {"k": 1}}, {"failure_behavior": "retry"}, {"failure_behavior": "skip"}), {"k": 0}
    )
    ends = [
        ActionOutcome(status="succeeded", output="ok"),
        ActionOutcome(status="failed", error="no", attempts=4),
        ActionOutcome(status="succeeded"),
    ]
    assert run(course, ends) == ProposalResult(
        proposal_id="p",
        results=(
            ActionResult(
                action_id="action-0",
                status="succeeded",
                output="ok",
                state_changes={"k": 1},
                duration_ms=1,
                timestamp="now",
                rolled_back=True,
            ),
            ActionResult(action_id="action-1", status="failed", error="no", duration_ms=1, timestamp="now"),
            ActionResult(action_id="action-2", status="skipped"),
        ),
        cost=ProposalCost(tool_calls=2, actions_executed=2, actions_skipped=1, total_duration_ms=9, retries=3),
    )


def test_course_goes_on_after_a_skip() -> None:
    """A failed skip action stops nothing, and the proposal has not succeeded all the same."""
    course = Course(proposal({"failure_behavior": "skip"}, {}), {})
    result = run(course, [ActionOutcome(status="failed", error="a"), ActionOutcome(status="failed", error="b")])
    assert [one.status for one in result.results] == ["failed", "failed"]
    assert failure(result) == "stage 'proposal' failed: a; b"


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        pytest.param(action(tool="t"), None, id="nothing against it"),
        pytest.param(action(), "tool_call action has no tool specified", id="no tool"),
        pytest.param(action("assertion", state_dependencies=["k"]), None, id="dependency there"),
        pytest.param(
            action("assertion", state_dependencies=["z", "k", "y"]),
            "state dependency 'z' not found; state dependency 'y' not found",
            id="dependencies missing",
        ),
        pytest.param(
            action("state_write", parameters={"value": 1}),
            "state_write action has no key specified: its parameter 'key' must be a text",
            id="no key to write",
        ),
        pytest.param(
            action("state_read", parameters={"key": 3}),
            "state_read action has no key specified: its parameter 'key' must be a text",
            id="a key that is no text",
        ),
        pytest.param(
            action(
                "assertion",
                preconditions=[{"key": "k", "operator": "gt", "value": 9}, {"key": "z", "operator": "exists"}],
            ),
            "precondition failed: state['k'] is 1, expected gt 9; "
            "precondition failed: state['z'] is not set, expected exists",
            id="every precondition that fails",
        ),
    ],
)
def test_refusal_names_every_reason(refused: Action, told: str | None) -> None:
    """All that is against an action is in one text."""
    assert refusal(refused, {"k": 1}) == told


@pytest.mark.parametrize(
    ("done", "outcome", "written"),
    [
        (
            action("state_write", parameters={"key": "k", "value": [2]}, expected_effects={"e": True}),
            ActionOutcome(status="succeeded", output=[2]),
            {"k": [2], "e": True},
        ),
        (action("state_write", parameters={"key": "k"}), ActionOutcome(status="succeeded"), {"k": None}),
        (action("state_read", parameters={"key": "k"}), ActionOutcome(status="succeeded", output=1), {}),
        (action("state_read", parameters={"key": "missing"}), ActionOutcome(status="succeeded"), {}),
        (action("assertion", expected_effects={"e": 1}), ActionOutcome(status="succeeded"), {"e": 1}),
    ],
    ids=["write", "write nothing", "read", "read nothing", "assertion"],
)
def test_performed_in_the_run(done: Action, outcome: ActionOutcome, written: dict[str, Any]) -> None:
    """What is no tool call is done on the spot; a value that is missing is null."""
    assert performed(done, {"k": 1}) == outcome
    assert changes(done) == written


def test_cache_key_is_the_tool_with_its_parameters() -> None:
    """The order of parameters changes nothing, any value does."""
    one = cache_key(action(tool="t", parameters={"a": 1, "b": {"c": 2, "d": 3}}))
    assert one == cache_key(action(tool="t", parameters={"b": {"d": 3, "c": 2}, "a": 1}))
    assert one != cache_key(action(tool="u", parameters={"a": 1, "b": {"c": 2, "d": 3}}))
    assert one != cache_key(action(tool="t", parameters={"a": 1, "b": {"c": 2, "d": 4}}))
