"""What proposals, conditions and references do, in plain Python, written from their contract alone.

Law: nothing that decides about them in the product is used here, so that no mistake of it can be repeated.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Json = Any

ORDERS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


class Unspelt(str):
    """A text that the contract leaves open: equal to any other."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str)

    def __ne__(self, other: object) -> bool:
        return not self == other


UNSPELT = Unspelt("(a text that the contract leaves open)")


class Failed(Exception):
    """A step has failed; `error` is what the stage tells of it."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True)
class Result:
    """How one action of a proposal ended."""

    status: str = "skipped"
    output: Json = None
    error: str | None = None
    changes: dict[str, Json] = field(default_factory=dict)
    rolled_back: bool = False


@dataclass(frozen=True)
class Proposed:
    """How a proposal ended: its results, the state that it left, and the places of its actions, level by level."""

    results: list[Result]
    state: dict[str, Json]
    levels: list[list[int]]


def propose(actions: list[Json], state: Mapping[str, Json]) -> Proposed:
    """Run actions in the order of their levels; one that aborts undoes all of them."""
    results, now, levels = [Result() for _ in actions], dict(state), list[list[int]]()
    waiting, aborted = list(range(len(actions))), False
    while waiting:
        level = [place for place in waiting if not any(comes_before(actions, other, place) for other in waiting)]
        waiting = [place for place in waiting if place not in level]
        levels.append(level)
        in_sequence = len(level) == 1 or any(actions[place]["failure_behavior"] == "abort" for place in level)
        found = dict(now)
        for place in level:
            if not aborted:
                results[place] = carry_out(actions[place], now if in_sequence else found)
                now.update(results[place].changes)
                aborted = results[place].status != "succeeded" and actions[place]["failure_behavior"] != "skip"
    if not aborted:
        return Proposed(results, now, levels)
    return Proposed([replace(each, rolled_back=bool(each.changes)) for each in results], dict(state), levels)


def comes_before(actions: list[Json], earlier: int, later: int) -> bool:
    """Whether an action has to wait for another, which stands earlier in the list."""
    one, other = actions[earlier], actions[later]
    same_write = (
        one["type"] == other["type"] == "state_write" and one["parameters"]["key"] == other["parameters"]["key"]
    )
    return earlier < later and (same_write or any(key in changes_of(one) for key in other["state_dependencies"]))


def changes_of(action: Json) -> dict[str, Json]:
    """What an action that succeeds writes."""
    given = action["parameters"]
    return {**({given["key"]: given["value"]} if action["type"] == "state_write" else {}), **action["expected_effects"]}


def carry_out(action: Json, state: Mapping[str, Json]) -> Result:
    """One action in a state; a tool fails where its parameter `fails` is a text, its error."""
    given = action["parameters"]
    if not all(holds(each, state, before_action=True) for each in action["preconditions"]):
        return Result("rejected", error=UNSPELT)
    missing = [f"state dependency '{key}' not found" for key in action["state_dependencies"] if key not in state]
    if missing:
        return Result("rejected", error="; ".join(missing))
    if action["type"] == "tool_call" and given["fails"] is not None:
        return Result("failed", error=given["fails"])
    output = {"state_write": given.get("value"), "state_read": state.get(given.get("key", ""))}.get(action["type"])
    return Result("succeeded", output=output, changes=changes_of(action))


def all_hold(conditions: Iterable[Json], state: Mapping[str, Json]) -> bool:
    """Whether an edge may be taken, or a loop has its end."""
    return all(holds(condition, state) for condition in conditions)


def holds(condition: Json, state: Mapping[str, Json], *, before_action: bool = False) -> bool:
    """Whether a condition holds: of an edge, or before an action, where order and `contains` differ."""
    key: str = condition["key"]
    kind: str = condition["operator"]
    named = condition["value"]
    if kind in ("exists", "not_exists"):
        return (key in state) == (kind == "exists")
    if key not in state:
        return False
    held = state[key]
    numbers, texts = is_number(held) and is_number(named), isinstance(held, str) and isinstance(named, str)
    if kind in ORDERS:
        return (numbers or (texts and not before_action)) and bool(ORDERS[kind](held, named))
    if kind == "contains" and before_action:
        return any(same(each, named) for each in held) if isinstance(held, list) else as_text(named) in as_text(held)
    return {"eq": same(held, named), "neq": not same(held, named), "contains": texts and named in held}.get(kind, False)


def same(one: Json, other: Json) -> bool:
    """JSON equality: 1 is 1.0, and true is no number."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_text(value: Json) -> str:
    """A text as it is, anything else as compact JSON."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def rendered(value: Json, state: Mapping[str, Json]) -> Json:
    """A value with its references replaced, one level deep; a value that is one reference keeps its type."""
    if isinstance(value, dict):
        return {name: rendered(each, state) for name, each in value.items()}
    keys = re.findall(r"\{\{([\w.-]+)\}\}", value) if isinstance(value, str) else []
    if any(key not in state for key in keys):
        raise Failed(UNSPELT)
    if keys and value == f"{{{{{keys[0]}}}}}":
        return state[keys[0]]
    return re.sub(r"\{\{([\w.-]+)\}\}", lambda found: as_text(state[found[1]]), value) if keys else value
