"""The order of a proposal's actions, for any proposal."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.graph.definition import Action
from workflows.graph.proposal import Level, changes, levels, written_key

KEYS = st.sampled_from(["a", "b", "c", "d"])
ACTIONS = st.lists(
    st.builds(
        lambda kind, key, needs, effects, behavior: Action(
            id="x",
            type=kind,
            tool="t",
            parameters={"key": key, "value": 1},
            state_dependencies=tuple(needs),
            expected_effects=dict.fromkeys(effects, 1),
            failure_behavior=behavior,
        ),
        st.sampled_from(["tool_call", "state_write", "state_read", "assertion"]),
        KEYS,
        st.sets(KEYS, max_size=2),
        st.sets(KEYS, max_size=2),
        st.sampled_from(["abort", "retry", "skip"]),
    ),
    max_size=12,
)


def action(kind: str = "tool_call", **fields: Any) -> Action:
    return Action.model_validate({"id": "x", "type": kind, "tool": "t", **fields})


@given(ACTIONS)
def test_levels_respect_every_dependency(actions: list[Action]) -> None:
    """Each action runs once, later than the earlier writers of what it needs and earlier state_writes of its key."""
    order = levels(actions)
    level_of = {place: depth for depth, level in enumerate(order) for place in level.places}
    assert sorted(level_of) == list(range(len(actions)))
    assert [list(level.places) for level in order] == [sorted(level.places) for level in order]
    for place, one in enumerate(actions):
        for earlier, other in enumerate(actions[:place]):
            writes_what_it_needs = set(changes(other)) & set(one.state_dependencies)
            writes_the_same = written_key(one) is not None and written_key(one) == written_key(other)
            if writes_what_it_needs or writes_the_same:
                assert level_of[earlier] < level_of[place]


@given(ACTIONS)
def test_levels_run_side_by_side_unless_an_action_aborts(actions: list[Action]) -> None:
    """A level of one action, or holding an abort action, runs in sequence."""
    for level in levels(actions):
        aborts = any(actions[place].failure_behavior == "abort" for place in level.places)
        assert level.is_concurrent == (len(level.places) > 1 and not aborts)


@given(ACTIONS)
def test_levels_are_as_few_as_the_dependencies_allow(actions: list[Action]) -> None:
    """Every action beyond the first level waits for one in the level before its own."""
    order = levels(actions)
    for before, level in pairwise(order):
        for place in level.places:
            needed = {*actions[place].state_dependencies, written_key(actions[place])}
            assert any(earlier < place and needed & set(changes(actions[earlier])) for earlier in before.places)


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        pytest.param([], (), id="nothing"),
        pytest.param([action()], (Level((0,), False),), id="one"),
        pytest.param([action(), action()], (Level((0, 1), False),), id="two that abort"),
        pytest.param(
            [action(failure_behavior="retry"), action(failure_behavior="skip")],
            (Level((0, 1), True),),
            id="side by side",
        ),
        pytest.param(
            [action(state_dependencies=["k"]), action(expected_effects={"k": 1})],
            (Level((0, 1), False),),
            id="a later writer holds nobody up",
        ),
        pytest.param(
            [
                action("state_write", parameters={"key": "k"}),
                action("state_write", parameters={"key": "k"}),
                action(state_dependencies=["k"]),
            ],
            (Level((0,), False), Level((1,), False), Level((2,), False)),
            id="writers of one key, then who needs it",
        ),
    ],
)
def test_levels_of(actions: list[Action], expected: tuple[Level, ...]) -> None:
    """The shapes by name."""
    assert levels(actions) == expected
