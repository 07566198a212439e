"""Policies: what no action may do, whoever proposed it.

Source: car-policy. A worker's own (agents.toml) hold for every run that it serves; a run's own hold in that run alone.
Pure, and linear in what it reads: patterns are substrings, never regular expressions, so that none can stall a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, assert_never

from pydantic import ConfigDict, Field, JsonValue

from workflows.errors import GraphRejected
from workflows.graph.conditions import as_text, same
from workflows.parsing import parse
from workflows.wire import Stored


class _Policy(Stored):
    """Unknown fields are refused: a policy with a misspelt field would forbid nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DenyTool(_Policy):
    """No action calls this tool."""

    type: Literal["deny_tool"] = "deny_tool"
    target: str


class DenyToolParam(_Policy):
    """No action calls this tool with a parameter that contains the pattern, in its text or its JSON."""

    type: Literal["deny_tool_param"] = "deny_tool_param"
    target: str
    key: str
    pattern: str


class RequireState(_Policy):
    """No action runs, of whatever type, unless the state holds this value."""

    type: Literal["require_state"] = "require_state"
    key: str
    value: JsonValue


ToolPolicy = Annotated[DenyTool | DenyToolParam, Field(discriminator="type")]
"""What a worker can judge, which sees a call and no state."""
Policy = Annotated[DenyTool | DenyToolParam | RequireState, Field(discriminator="type")]


class _Policies(Stored):
    policies: tuple[Policy, ...] = ()


def policies_of(metadata: Mapping[str, JsonValue], where: str) -> tuple[Policy, ...]:
    """A graph's own policies, under `policies` in its metadata.

    Raises `GraphRejected`, beginning with `where`, and naming each field that is wrong.
    """
    given = {"policies": metadata["policies"]} if "policies" in metadata else {}
    return parse(_Policies, given, where, GraphRejected).policies


def violations(
    policies: Iterable[Policy],
    *,
    tool: str | None,
    parameters: Mapping[str, JsonValue],
    state: Mapping[str, JsonValue],
) -> tuple[str, ...]:
    """What each policy that an action violates says, in the order of the policies."""
    found = (_violation(policy, tool, parameters, state) for policy in policies)
    return tuple(text for text in found if text is not None)


def _violation(
    policy: Policy, tool: str | None, parameters: Mapping[str, JsonValue], state: Mapping[str, JsonValue]
) -> str | None:
    match policy:
        case DenyTool(target=target):
            return f"tool '{target}' denied" if tool == target else None
        case DenyToolParam(target=target, key=key, pattern=pattern):
            is_hit = tool == target and key in parameters and pattern in as_text(parameters[key])
            return f"param '{key}' matches '{pattern}'" if is_hit else None
        case RequireState(key=key, value=value):
            is_met = key in state and same(state[key], value)
            return None if is_met else f"state['{key}'] must be {as_json(value)}"
        case _:
            assert_never(policy)


def as_json(value: JsonValue) -> str:
    """A value as a message names it."""
    return f'"{value}"' if isinstance(value, str) else as_text(value)
