"""Runs a proposal inside a run: tool calls are activities, everything else happens here.

Law: every action that began ends in the log and in the course of its proposal, also when the run is cancelled; after a
cancel none begins, except inside a compensation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue
from temporalio import workflow

from workflows import calls, wire
from workflows.actions import ActionCall, ActionOutcome
from workflows.errors import PayloadTooLarge
from workflows.events import ActionFinished, ActionStarted, rfc3339
from workflows.graph.definition import Action, ActionProposal
from workflows.graph.pace import Pace
from workflows.graph.policies import Policy
from workflows.graph.proposal import Course, Level, cache_key, levels, performed, refusal
from workflows.graph.results import ProposalResult
from workflows.place import Place
from workflows.run import Run
from workflows.window import sliding_window

Cache = MutableMapping[str, JsonValue]
"""What idempotent actions of a run brought, by tool and parameters."""

MOST_ATTEMPTS = 1_000_000
# Temporal counts attempts in 32 bits; whoever asks for more asks for no end.
STAGES_PER_ACTION = 0.2
# An action that calls no tool, or may not, takes about 80 µs, a fifth of a small stage.
POLICIES_PER_ACTION = 100
# Asking so many policies takes about as long.


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the actions of one proposal share."""

    run: Run
    course: Course
    cache: Cache
    policies: Sequence[Policy]
    place: Place
    pace: Pace

    async def keep_pace(self) -> None:
        """Before each action: some wait for nothing, and a proposal may hold thousands."""
        await self.pace.spend(STAGES_PER_ACTION * (1 + len(self.policies) / POLICIES_PER_ACTION))


async def run_proposal(
    run: Run,
    proposal: ActionProposal,
    state: Mapping[str, JsonValue],
    *,
    cache: Cache,
    policies: Sequence[Policy] = (),
    course: Course | None = None,
    pace: Pace | None = None,
) -> ProposalResult:
    """Run a proposal; its result, with the state changes that are the caller's to write if every action succeeded.

    `state` is read and left as it is. `cache` is kept by the caller for as long as the run goes on. Failed actions are
    data. When the run or the caller is cancelled, what is in flight is cancelled, awaited and recorded, and then
    CancelledError is raised; a caller that gave its own `course` still finds the results in it. `pace` is that of the
    work around it.
    """
    run.raise_if_cancelled()
    begun_ms = _now_ms()
    course = Course(proposal, state) if course is None else course
    shared = _Shared(run, course, cache, policies, run.place(), Pace() if pace is None else pace)
    for level in levels(proposal.actions):
        if course.is_aborted:
            break
        await _run_level(shared, level)
    return course.result(duration_ms=_now_ms() - begun_ms)


async def _run_level(shared: _Shared, level: Level) -> None:
    if level.is_concurrent:
        # All of them see the state as the level found it: what they leave does not depend on who was faster.
        async def act(place: int) -> None:
            if not shared.course.is_aborted:  # a retry that was exhausted meanwhile ends the proposal
                await _act(shared, place)

        await sliding_window(level.places, shared.run.options.window, act)
        shared.course.commit(level)
        return
    for place in level.places:
        if not shared.course.is_aborted:
            await _act(shared, place)
            shared.course.commit(Level((place,), is_concurrent=False))


async def _act(shared: _Shared, place: int) -> None:
    """One action, from whether it may run to its record."""
    await shared.keep_pace()
    shared.run.raise_if_cancelled()
    course = shared.course
    if course.is_aborted:  # by another action of its level, while this one waited
        return
    action = course.proposal.actions[place]
    reason = refusal(action, course.state, shared.policies)
    if reason is not None:
        _record(shared, place, ActionOutcome(status="rejected", error=reason))
    elif action.type != "tool_call":
        _record(shared, place, performed(action, course.state))
    elif action.idempotent and (key := cache_key(action)) in shared.cache:
        _record(shared, place, ActionOutcome(status="succeeded", output=shared.cache[key]))
    else:
        await _call_tool(shared, place, action)


async def _call_tool(shared: _Shared, place: int, action: Action) -> None:
    run = shared.run
    async with run.slots:
        run.raise_if_cancelled()  # the run may have been cancelled while this action waited for its slot
        call = _call_of(action)
        is_too_large = not wire.fits(call)
        if not is_too_large:
            await run.make_room(wire.measure(call), is_action=True)
            run.raise_if_cancelled()
        begun_ms = _now_ms()
        run.tell(ActionStarted(action=_name(shared, action), tool=action.tool or ""))
        end = _too_large(action, call) if is_too_large else await calls.run_action(call)
        _record(shared, place, end.outcome, duration_ms=_now_ms() - begun_ms)
    if end.outcome.status == "succeeded" and action.idempotent:
        shared.cache[cache_key(action)] = end.outcome.output
    if end.is_interrupted:
        raise asyncio.CancelledError
    run.raise_if_cancelled()


def _call_of(action: Action) -> ActionCall:
    return ActionCall(
        action=action.id,
        tool=action.tool or "",
        parameters=action.parameters,
        key=str(workflow.uuid4()),
        timeout_ms=action.timeout_ms,
        attempts=min(action.max_retries + 1, MOST_ATTEMPTS) if action.failure_behavior == "retry" else 1,
    )


def _too_large(action: Action, call: ActionCall) -> calls.ActionEnd:
    largest = max(action.parameters, key=lambda name: wire.size(action.parameters[name]), default="")
    error = PayloadTooLarge(
        owner=f"action {action.id!r}",
        field=f"parameter {largest!r}",
        size=wire.size(call),
        limit=wire.largest_payload(),
    )
    return calls.ActionEnd(ActionOutcome(status="rejected", error=error.message))


def _record(shared: _Shared, place: int, outcome: ActionOutcome, *, duration_ms: int | None = None) -> None:
    """The end of an action; one without a duration called no tool."""
    action = shared.course.proposal.actions[place]
    called = duration_ms is not None and outcome.status != "rejected"
    shared.course.record(place, outcome, duration_ms=duration_ms or 0, timestamp=rfc3339(workflow.now()), called=called)
    shared.run.tell(
        ActionFinished(
            action=_name(shared, action),
            status=outcome.status,
            duration_ms=duration_ms or 0,
            attempts=outcome.attempts,
            error=outcome.error,
        )
    )


def _name(shared: _Shared, action: Action) -> str:
    return shared.place.name(0, action.id)


def _now_ms() -> int:
    return workflow.time_ns() // 1_000_000
