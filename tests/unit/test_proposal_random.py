"""Random proposals, decided by the product's pure code, end as a reference says."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proposal_reference import Result, propose
from workflows.actions import ActionOutcome
from workflows.graph.definition import Action, ActionProposal
from workflows.graph.proposal import Course, Level, levels, performed, refusal
from workflows.graph.results import ActionResult, ProposalResult

Json = dict[str, Any]

KEYS = st.sampled_from("abcd")
VALUES = st.sampled_from([None, True, False, 0, 1, 1.0, 2, 10, "a", "ab", "b", "1", ["a", 1], [2], []])
STATES = st.dictionaries(KEYS, VALUES, max_size=4)
OPERATORS = st.sampled_from(["eq", "neq", "gt", "gte", "lt", "lte", "contains", "exists", "not_exists", "like"])
CONDITIONS = st.fixed_dictionaries({"key": KEYS, "operator": OPERATORS, "value": VALUES})
KINDS: dict[str, st.SearchStrategy[Json]] = {
    "state_write": st.fixed_dictionaries({"key": KEYS, "value": VALUES}),
    "state_read": st.fixed_dictionaries({"key": KEYS}),
    "assertion": st.just({}),
    "tool_call": st.fixed_dictionaries({"fails": st.sampled_from([None, None, "no paper"])}),
}


@st.composite
def actions(draw: st.DrawFn) -> Json:
    """An action with every field that the reference reads; most may run, wherever they come."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    return {
        "type": kind,
        "tool": "print" if kind == "tool_call" else None,
        "parameters": draw(KINDS[kind]),
        "preconditions": draw(st.just([]) | st.lists(CONDITIONS, max_size=2)),
        "expected_effects": draw(st.dictionaries(KEYS, VALUES, max_size=2)),
        "state_dependencies": draw(st.lists(KEYS, max_size=2)),
        "failure_behavior": draw(st.sampled_from(["abort", "retry", "skip"])),
    }


PROPOSALS = st.lists(actions(), max_size=7)
unhurried = settings(deadline=None)
# How long one example takes says how busy the machine is, and nothing else.


class Run:
    """A proposal driven as a run does it, without the waiting: `order` is in which a level's actions end."""

    def __init__(self, listed: list[Json], state: Json, order: Callable[[list[int]], None] = lambda _: None) -> None:
        self.course = Course(ActionProposal.model_validate({"actions": listed}), state)
        self.ran: list[int] = []
        for level in levels(self.course.proposal.actions):
            places = list(level.places)
            if level.is_concurrent:
                order(places)
                self._record(places)
                self.course.commit(level)
                continue
            for place in places:
                self._record([place])
                self.course.commit(Level((place,), is_concurrent=False))

    def _record(self, places: list[int]) -> None:
        for place in places:
            if not self.course.is_aborted:
                self.ran.append(place)
                outcome = _outcome(self.course.proposal.actions[place], self.course.state)
                self.course.record(place, outcome, duration_ms=0, timestamp="now")

    @property
    def result(self) -> ProposalResult:
        return self.course.result(duration_ms=0)


def _outcome(action: Action, state: Json) -> ActionOutcome:
    reason = refusal(action, state)
    if reason is not None:
        return ActionOutcome(status="rejected", error=reason)
    if action.type != "tool_call":
        return performed(action, state)
    error = action.parameters["fails"]
    return ActionOutcome(status="failed", error=str(error)) if error else ActionOutcome(status="succeeded")


def _exact(value: Any) -> str:
    """JSON tells true, 1 and 1.0 apart; Python does not."""
    return json.dumps(value, sort_keys=True)


def _as_reference(result: ActionResult) -> Result:
    return Result(result.status, result.output, result.error, result.state_changes, result.rolled_back)


@unhurried
@given(PROPOSALS, STATES)
def test_random_proposal_ends_as_the_reference_says(listed: list[Json], state: Json) -> None:
    """The levels, each action's end, what it wrote, what was rolled back, and the state afterwards."""
    run, expected = Run(listed, state), propose(listed, state)
    assert [list(level.places) for level in levels(run.course.proposal.actions)] == expected.levels
    assert [_as_reference(each) for each in run.result.results] == expected.results
    assert _exact([each.state_changes for each in run.result.results]) == _exact(
        [each.changes for each in expected.results]
    )
    assert _exact(run.course.state) == _exact(expected.state)


@unhurried
@given(PROPOSALS, STATES, st.randoms(use_true_random=False))
def test_random_proposal_runs_no_consumer_before_its_writer(listed: list[Json], state: Json, random: Random) -> None:
    """Whatever an action depends on, every earlier action that writes it has ended, whoever was faster."""
    ran = Run(listed, state, random.shuffle).ran
    for place in ran:
        for earlier, other in enumerate(listed[:place]):
            written = {*other["expected_effects"]}
            if other["type"] == "state_write":
                written.add(other["parameters"]["key"])
            if written & {*listed[place]["state_dependencies"]}:
                assert earlier in ran[: ran.index(place)]


@unhurried
@given(PROPOSALS, STATES, st.randoms(use_true_random=False))
def test_random_proposal_that_aborts_restores_the_state(listed: list[Json], state: Json, random: Random) -> None:
    """The state is exactly as it was, each write is marked, and nothing ran after the action that ended it."""
    before = _exact(state)
    run = Run(listed, state, random.shuffle)
    ended = [place for place in run.ran if run.result.results[place].status != "succeeded"]
    ending = [place for place in ended if listed[place]["failure_behavior"] != "skip"]
    assert _exact(state) == before
    assert run.course.is_aborted == bool(ending)
    if run.course.is_aborted:
        assert ending == [run.ran[-1]]
        assert _exact(run.course.state) == before
        assert all(each.rolled_back == bool(each.state_changes) for each in run.result.results)
        skipped = [place for place, each in enumerate(run.result.results) if each.status == "skipped"]
        assert sorted([*run.ran, *skipped]) == list(range(len(listed)))


@unhurried
@given(PROPOSALS, STATES, st.randoms(use_true_random=False))
def test_random_proposal_goes_on_after_a_skip(listed: list[Json], state: Json, random: Random) -> None:
    """With skips alone every action runs, whatever fails, and the order in which they end changes nothing."""
    lenient = [{**action, "failure_behavior": "skip"} for action in listed]
    run, other = Run(lenient, state), Run(lenient, state, random.shuffle)
    assert sorted(run.ran) == sorted(other.ran) == list(range(len(listed)))
    assert not run.course.is_aborted
    assert run.result == other.result
    assert _exact(run.course.state) == _exact(other.course.state)
