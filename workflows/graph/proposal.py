"""What a proposal does, decided without doing it: the order of its actions, whether each may run, what they leave.

Source: car-ir and car-engine. Pure.
Law: an action comes after every earlier one that writes what it depends on. An aborted proposal leaves the state as it
found it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from pydantic import JsonValue

from workflows.actions import ActionOutcome
from workflows.graph.conditions import precondition_fails
from workflows.graph.definition import Action, ActionProposal
from workflows.graph.policies import Policy, violations
from workflows.graph.results import ActionResult, ProposalCost, ProposalResult

State = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Level:
    """Actions that depend on nothing of each other, by their places in the proposal."""

    places: tuple[int, ...]
    is_concurrent: bool
    """Side by side; else one after the other, in the order of the proposal."""


def levels(actions: Sequence[Action]) -> tuple[Level, ...]:
    """The actions in the order in which they run.

    An action waits for the earlier writers of each of its state dependencies, and a state_write for earlier ones of
    its key. A level runs side by side unless it is a single action or one of its actions aborts.
    """
    deepest_writer: dict[str, int] = {}
    deepest_write: dict[str, int] = {}
    sorted_out: list[list[int]] = []
    for place, action in enumerate(actions):
        waits = [deepest_writer[key] for key in action.state_dependencies if key in deepest_writer]
        key = written_key(action)
        if key is not None and key in deepest_write:
            waits.append(deepest_write[key])
        depth = max(waits, default=-1) + 1
        for changed in changes(action):
            deepest_writer[changed] = max(depth, deepest_writer.get(changed, 0))
        if key is not None:
            deepest_write[key] = depth
        if depth == len(sorted_out):
            sorted_out.append([])
        sorted_out[depth].append(place)
    return tuple(Level(tuple(places), _is_concurrent([actions[place] for place in places])) for places in sorted_out)


def _is_concurrent(actions: Sequence[Action]) -> bool:
    return len(actions) > 1 and all(action.failure_behavior != "abort" for action in actions)


def written_key(action: Action) -> str | None:
    """The state key that a state_write names; None for any other action, and where it names none."""
    key = action.parameters.get("key")
    return key if action.type == "state_write" and isinstance(key, str) else None


def changes(action: Action) -> State:
    """What an action that succeeds writes into the state."""
    key = written_key(action)
    written: State = {} if key is None else {key: action.parameters.get("value")}
    return {**written, **action.expected_effects}


def refusal(action: Action, state: Mapping[str, JsonValue], policies: Iterable[Policy] = ()) -> str | None:
    """Why an action may not run in this state, every reason there is; None where it may."""
    conditions = (precondition_fails(condition, state) for condition in action.preconditions)
    reasons = [reason for reason in conditions if reason is not None]
    reasons += [f"state dependency '{key}' not found" for key in action.state_dependencies if key not in state]
    reasons += _malformed(action)
    reasons += violations(policies, tool=action.tool, parameters=action.parameters, state=state)
    return "; ".join(reasons) or None


def _malformed(action: Action) -> list[str]:
    if action.type == "tool_call" and not action.tool:
        return ["tool_call action has no tool specified"]
    if action.type in ("state_write", "state_read") and not isinstance(action.parameters.get("key"), str):
        return [f"{action.type} action has no key specified: its parameter 'key' must be a text"]
    return []


def performed(action: Action, state: Mapping[str, JsonValue]) -> ActionOutcome:
    """The outcome of an action that is no tool call; one that may not run was refused before."""
    match action.type:
        case "state_write":
            return ActionOutcome(status="succeeded", output=action.parameters.get("value"))
        case "state_read":
            return ActionOutcome(status="succeeded", output=state.get(str(action.parameters["key"])))
        case "assertion":
            return ActionOutcome(status="succeeded")
        case "tool_call":
            raise ValueError(f"action {action.id!r} calls a tool, which only an activity does")


def cache_key(action: Action) -> str:
    """What two calls of one tool with the same parameters share, however these are ordered."""
    call = json.dumps([action.tool, action.parameters], sort_keys=True, separators=(",", ":"))
    return sha256(call.encode()).hexdigest()


class Course:
    """A proposal while it runs: the state that its actions see, and what they brought so far."""

    def __init__(self, proposal: ActionProposal, state: Mapping[str, JsonValue]) -> None:
        self.proposal = proposal
        self.state: State = dict(state)
        self.is_aborted = False
        self._before = dict(state)
        self._ended: dict[int, ActionResult] = {}
        self._tool_calls = 0
        self._retries = 0

    def record(
        self, place: int, outcome: ActionOutcome, *, duration_ms: int, timestamp: str, called: bool = False
    ) -> None:
        """An action has ended. `called`: by calling its tool, which a refused or cached one does not."""
        action = self.proposal.actions[place]
        has_succeeded = outcome.status == "succeeded"
        self._ended[place] = ActionResult(
            action_id=action.id,
            status=outcome.status,
            output=outcome.output,
            error=outcome.error,
            state_changes=changes(action) if has_succeeded else {},
            duration_ms=duration_ms,
            timestamp=timestamp,
        )
        self._tool_calls += called
        self._retries += outcome.attempts - 1
        if not has_succeeded and action.failure_behavior != "skip":
            self.is_aborted = True
            self.state = dict(self._before)

    def commit(self, level: Level) -> None:
        """Write into the state what a level changed, in the order of the proposal; nothing after an abort."""
        for place in level.places:
            if place in self._ended and not self.is_aborted:
                self.state.update(self._ended[place].state_changes)

    def result(self, *, duration_ms: int) -> ProposalResult:
        """One result for each action: those that never began are skipped, and what was undone is marked."""
        results = tuple(self._result_of(place) for place in range(len(self.proposal.actions)))
        statuses = [result.status for result in results]
        return ProposalResult(
            proposal_id=self.proposal.id,
            results=results,
            cost=ProposalCost(
                tool_calls=self._tool_calls,
                actions_executed=statuses.count("succeeded") + statuses.count("failed"),
                actions_skipped=statuses.count("skipped"),
                total_duration_ms=duration_ms,
                retries=self._retries,
            ),
        )

    def _result_of(self, place: int) -> ActionResult:
        ended = self._ended.get(place)
        if ended is None:
            return ActionResult(action_id=self.proposal.actions[place].id, status="skipped")
        is_undone = self.is_aborted and bool(ended.state_changes)
        return ended.model_copy(update={"rolled_back": True}) if is_undone else ended


def failure(result: ProposalResult) -> str:
    """The failure of the stage that a proposal without success was."""
    errors = "; ".join(ended.error for ended in result.results if ended.error)
    return f"stage 'proposal' failed: {errors}"
