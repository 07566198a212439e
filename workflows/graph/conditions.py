"""Whether a condition holds in a state: on edges and in `until`, and before an action.

Source: car-workflow and car-engine. The two differ: before an action order is for numbers alone, and `contains` looks
into lists and into the text of a value too.
Law: any JSON is an answer, never an error. 1 equals 1.0, and true equals no number. Pure.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import JsonValue

from workflows.errors import cut
from workflows.graph.definition import Condition

State = Mapping[str, JsonValue]
Test = Callable[[JsonValue, JsonValue], bool]
"""(what the state holds, what the condition names) -> whether it holds."""


def same(one: JsonValue, other: JsonValue) -> bool:
    """JSON equality at any depth, without recursion: a state may hold what an agent nested as deep as it liked."""
    waiting: list[tuple[Any, Any]] = [(one, other)]
    while waiting:
        left, right = waiting.pop()
        if isinstance(left, dict) and isinstance(right, dict):
            if left.keys() != right.keys():
                return False
            waiting += [(item, right[name]) for name, item in left.items()]
        elif isinstance(left, list) and isinstance(right, list):
            if len(left) != len(right):
                return False
            waiting += zip(left, right, strict=True)
        elif not _is_same_scalar(left, right):
            return False
    return True


def _is_same_scalar(one: Any, other: Any) -> bool:
    if is_number(one) and is_number(other):
        return bool(one == other)
    return type(one) is type(other) and bool(one == other)


def is_number(value: JsonValue) -> bool:
    """Whether a value is a JSON number; Python's booleans are integers, and JSON's are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _ordered(compare: Callable[[Any, Any], bool], *, texts: bool) -> Test:
    def test(held: JsonValue, named: JsonValue) -> bool:
        if is_number(held) and is_number(named):
            return compare(held, named)
        return texts and isinstance(held, str) and isinstance(named, str) and compare(held, named)

    return test


def _is_part_of_text(held: JsonValue, named: JsonValue) -> bool:
    return isinstance(held, str) and isinstance(named, str) and named in held


def _contains(held: JsonValue, named: JsonValue) -> bool:
    if isinstance(held, list):
        return any(same(item, named) for item in held)
    return as_text(named) in as_text(held)


def as_text(value: JsonValue) -> str:
    """A string as it is, anything else as compact JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _differs(held: JsonValue, named: JsonValue) -> bool:
    return not same(held, named)


ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}

EDGE_TESTS: dict[str, Test] = {
    "eq": same,
    "neq": _differs,
    **{name: _ordered(compare, texts=True) for name, compare in ORDERS.items()},
    "contains": _is_part_of_text,
}

ACTION_TESTS: dict[str, Test] = {
    "eq": same,
    "neq": _differs,
    **{name: _ordered(compare, texts=False) for name, compare in ORDERS.items()},
    "contains": _contains,
}

OPERATORS = ("exists", "not_exists", *EDGE_TESTS)
"""Every operator there is, for both kinds of condition."""


def holds(conditions: Iterable[Condition], state: State) -> bool:
    """Whether all conditions of an edge (or of `until`) hold; none at all always hold."""
    return all(_holds(condition, state, EDGE_TESTS) for condition in conditions)


def _holds(condition: Condition, state: State, tests: Mapping[str, Test]) -> bool:
    is_present = condition.key in state
    if condition.operator == "exists":
        return is_present
    if condition.operator == "not_exists":
        return not is_present
    test = tests.get(condition.operator)
    return test is not None and is_present and test(state[condition.key], condition.value)


def precondition_fails(condition: Condition, state: State) -> str | None:
    """Why an action's precondition does not hold; None where it does."""
    if _holds(condition, state, ACTION_TESTS):
        return None
    key = condition.key
    if condition.operator not in OPERATORS:
        return f"precondition failed: state['{key}'] has the unknown operator '{condition.operator}'"
    found = f"state['{key}'] is {_quoted(state[key])}" if key in state else f"state['{key}'] is not set"
    wanted = condition.operator
    if condition.operator in ACTION_TESTS:
        wanted += f" {_quoted(condition.value)}"
    return f"precondition failed: {found}, expected {wanted}"


def _quoted(value: JsonValue) -> str:
    return cut(json.dumps(value, ensure_ascii=False))
