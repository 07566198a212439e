"""Whether a proposal can succeed, judged without running it.

Source: car-verify. Where the state is known it is followed from action to action, as far as the actions say what they
change. Pure.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence

from pydantic import JsonValue

from workflows.graph.conditions import OPERATORS, precondition_fails
from workflows.graph.definition import Action, ActionProposal
from workflows.graph.proposal import changes, levels
from workflows.graph.verdict import Finding, Issue

LOOP_COUNT = 3
# The same call so often is taken for a loop of whoever wrote the proposal, usually a model.


def verify_proposal(
    proposal: ActionProposal,
    known_state: Mapping[str, JsonValue] | None = None,
    tools: Container[str] | None = None,
) -> tuple[Issue, ...]:
    """What is wrong with a proposal.

    Args:
        proposal: the proposal.
        known_state: the state that it will find; None where that is not known.
        tools: the names of the tools that there are; None where that is not known.
    """
    return tuple(
        Issue(severity=finding.severity, stage_id=None, message=finding.message)
        for finding in proposal_findings(proposal, known_state, tools)
    )


def proposal_findings(
    proposal: ActionProposal,
    known_state: Mapping[str, JsonValue] | None = None,
    tools: Container[str] | None = None,
) -> Iterator[Finding]:
    """The same, with paths inside the proposal."""
    for place, action in enumerate(proposal.actions):
        yield from _action_findings(place, action, tools)
    yield from _repeated(proposal.actions)
    yield from _unordered(proposal.actions)
    if known_state is not None:
        yield from _followed(proposal.actions, known_state)


def _action_findings(place: int, action: Action, tools: Container[str] | None) -> Iterator[Finding]:
    at, subject = ("actions", place), f"action {action.id!r}"
    if action.type == "tool_call" and not action.tool:
        yield Finding("error", f"{subject}: tool_call action has no tool specified", at)
    elif action.type == "tool_call" and tools is not None and action.tool not in tools:
        yield Finding("error", f"{subject}: tool '{action.tool}' is not registered", (*at, "tool"))
    if action.type in ("state_write", "state_read") and not isinstance(action.parameters.get("key"), str):
        yield Finding("doubt", f"{subject}: {action.type} has no 'key' among its parameters.", (*at, "parameters"))
    for number, condition in enumerate(action.preconditions):
        if condition.operator not in OPERATORS:
            message = f"{subject}: operator {condition.operator!r} is not known, so its precondition always fails."
            yield Finding("doubt", message, (*at, "preconditions", number, "operator"))


def _repeated(actions: Sequence[Action]) -> Iterator[Finding]:
    calls: Counter[tuple[str, str]] = Counter()
    for place, action in enumerate(actions):
        if action.type != "tool_call" or not action.tool:
            continue
        call = (action.tool, json.dumps(action.parameters, sort_keys=True))
        calls[call] += 1
        if calls[call] == LOOP_COUNT:
            told = f"likely loop: '{action.tool}' is called {LOOP_COUNT} times with the same parameters"
            yield Finding("error", f"action {action.id!r}: {told}", ("actions", place))
        elif calls[call] == LOOP_COUNT - 1:
            told = f"duplicate of an earlier call of '{action.tool}' with the same parameters"
            yield Finding("warning", f"action {action.id!r}: {told}", ("actions", place))


def _unordered(actions: Sequence[Action]) -> Iterator[Finding]:
    """Writers of one key that run side by side: which of them is last is not decided."""
    for level in levels(actions):
        writers: dict[str, list[int]] = defaultdict(list)
        for place in level.places if level.is_concurrent else ():
            for key in changes(actions[place]):
                writers[key].append(place)
        for key, places in writers.items():
            if len(places) > 1:
                one, other = (actions[place].id for place in places[:2])
                message = f"actions {one!r} and {other!r} write '{key}' in no order of their own"
                yield Finding("warning", message, ("actions", places[1]))


def _followed(actions: Sequence[Action], known_state: Mapping[str, JsonValue]) -> Iterator[Finding]:
    state = dict(known_state)
    for place, action in enumerate(actions):
        subject = f"action {action.id!r}"
        for number, key in enumerate(action.state_dependencies):
            if key not in state:
                message = f"{subject}: state dependency '{key}' is not available at this point"
                yield Finding("error", message, ("actions", place, "state_dependencies", number))
        for number, condition in enumerate(action.preconditions):
            why = precondition_fails(condition, state)
            if why is not None:
                message = f"{subject}: precondition will fail: {why.removeprefix('precondition failed: ')}"
                yield Finding("error", message, ("actions", place, "preconditions", number))
        state.update(action.expected_effects)
        if action.type == "state_write" and isinstance(action.parameters.get("key"), str):
            state[str(action.parameters["key"])] = action.parameters.get("value")
