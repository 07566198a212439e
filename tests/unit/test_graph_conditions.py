"""Conditions on edges and before actions: the same operators, and where the two differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.graph.conditions import holds, precondition_fails, same
from workflows.graph.definition import Condition

STATE: dict[str, Any] = {
    "one": 1,
    "float": 1.0,
    "text": "beta",
    "digits": "10",
    "yes": True,
    "nothing": None,
    "list": ["a", 1, {"x": 1}],
    "map": {"x": [1, 2]},
}

ROWS = [
    ("one", "exists", None, True, True),
    ("nothing", "exists", None, True, True),
    ("absent", "exists", None, False, False),
    ("absent", "not_exists", None, True, True),
    ("nothing", "not_exists", None, False, False),
    ("one", "eq", 1, True, True),
    ("one", "eq", 1.0, True, True),
    ("yes", "eq", 1, False, False),
    ("one", "eq", True, False, False),
    ("yes", "eq", True, True, True),
    ("nothing", "eq", None, True, True),
    ("absent", "eq", None, False, False),
    ("map", "eq", {"x": [1.0, 2]}, True, True),
    ("map", "eq", {"x": [True, 2]}, False, False),
    ("list", "eq", ["a", 1], False, False),
    ("one", "neq", 2, True, True),
    ("one", "neq", "1", True, True),
    ("absent", "neq", 2, False, False),
    ("one", "gt", 0, True, True),
    ("one", "gte", 1.0, True, True),
    ("one", "lt", 1, False, False),
    ("one", "lte", 1, True, True),
    ("yes", "gt", 0, False, False),
    ("one", "gt", "0", False, False),
    ("text", "gt", "alpha", True, False),
    ("digits", "lt", "9", True, False),
    ("text", "contains", "et", True, True),
    ("text", "contains", "ET", False, False),
    ("list", "contains", "a", False, True),
    ("list", "contains", {"x": 1.0}, False, True),
    ("list", "contains", True, False, False),
    ("one", "contains", 1, False, True),
    ("map", "contains", "x", False, True),
    ("one", "equals", 1, False, False),
]
"""key, operator, value, whether it holds on an edge, whether it holds before an action."""


@pytest.mark.parametrize(("key", "operator", "value", "on_edge", "before_action"), ROWS)
def test_conditions_hold_by_the_table(key: str, operator: str, value: Any, on_edge: bool, before_action: bool) -> None:
    """Each operator, on each kind of value, on edges and before actions."""
    condition = Condition(key=key, operator=operator, value=value)
    assert (holds([condition], STATE), precondition_fails(condition, STATE) is None) == (on_edge, before_action)


def test_conditions_all_have_to_hold() -> None:
    """One that does not hold is enough to close an edge, and none at all leave it open."""
    good, bad = Condition(key="one", value=1), Condition(key="one", value=2)
    assert [holds([], STATE), holds([good, good], STATE), holds([good, bad], STATE)] == [True, True, False]


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (Condition(key="one", value=2), "precondition failed: state['one'] is 1, expected eq 2"),
        (Condition(key="absent", value="x"), "precondition failed: state['absent'] is not set, expected eq \"x\""),
        (
            Condition(key="absent", operator="exists"),
            "precondition failed: state['absent'] is not set, expected exists",
        ),
        (
            Condition(key="one", operator="not_exists"),
            "precondition failed: state['one'] is 1, expected not_exists",
        ),
        (
            Condition(key="one", operator="equals", value=1),
            "precondition failed: state['one'] has the unknown operator 'equals'",
        ),
    ],
)
def test_precondition_says_why_it_fails(condition: Condition, text: str) -> None:
    """The text names the key, what is there and what was expected."""
    assert precondition_fails(condition, STATE) == text


def test_equality_survives_any_depth() -> None:
    """Values that an agent nested without end are compared without recursion."""

    def nested(innermost: int) -> Any:
        value: Any = innermost
        for _ in range(5_000):
            value = [value]
        return value

    assert [same(nested(1), nested(1)), same(nested(1), nested(2))] == [True, False]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_equality_is_reflexive_and_symmetric(one: Any, other: Any) -> None:
    """A value equals itself, and the order of two does not matter."""
    assert same(one, one)
    assert same(one, other) == same(other, one)


@given(JSON, JSON)
def test_neq_is_the_opposite_of_eq_on_a_key_that_is_there(held: Any, named: Any) -> None:
    """On both kinds of condition."""
    eq, neq = (Condition(key="k", operator=operator, value=named) for operator in ("eq", "neq"))
    state = {"k": held}
    assert holds([eq], state) != holds([neq], state)
    assert (precondition_fails(eq, state) is None) != (precondition_fails(neq, state) is None)


@given(JSON, st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5))
def test_order_is_total_or_absent(held: Any, named: Any) -> None:
    """`gte` and `lte` hold together exactly where the two are equal, and nothing is ordered across types."""
    state = {"k": held}
    ordered = [holds([Condition(key="k", operator=operator, value=named)], state) for operator in ("lt", "gte")]
    comparable = (isinstance(held, (int, float)) and not isinstance(held, bool) and not isinstance(named, str)) or (
        isinstance(held, str) and isinstance(named, str)
    )
    assert sum(ordered) == (1 if comparable else 0)


@given(JSON, JSON, st.sampled_from(["eq", "neq", "gt", "gte", "lt", "lte", "contains", "exists", "not_exists", "?"]))
def test_conditions_never_raise(held: Any, named: Any, operator: str) -> None:
    """Any JSON is an answer."""
    condition = Condition(key="k", operator=operator, value=named)
    assert isinstance(holds([condition], {"k": held}), bool)
    precondition_fails(condition, {"k": held})
