"""What a suspended step waits for besides tokens, and the answers that it goes on with.

Specialists run as steps of their own, side by side; a person decides about a tool call, before its deadline if it has
one. Law: every call that the step asked about gets an answer, also where a specialist fails or nobody speaks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import JsonValue, ValidationError
from pydantic_core import to_json
from temporalio import workflow

from workflows.approvals import ApprovalAnswer, ApprovalRequest
from workflows.deadline import first_of
from workflows.errors import ApprovalRejected, cut
from workflows.events import ApprovalAsked, ApprovalResolved, rfc3339
from workflows.graph.definition import ApprovalField
from workflows.run import Run, current_stage
from workflows.steps import AgentStepSpec, AnswersNeeded, Delegation, StepOutcome, ToolDecision, ToolRequest
from workflows.window import sliding_window

MAX_DELEGATION_DEPTH = 8
# Specialists may delegate too, and two that name each other would do so until the budget is gone.
TOO_DEEP = f"Not done: this is the subtask of a subtask, {MAX_DELEGATION_DEPTH} deep. Solve it without delegating."
MAX_ANSWERS_CHARACTERS = 400_000
# Of all answers that a step goes on with: they travel in its next argument, which holds 1.9 MB, four bytes each.
SHOWN_ARGUMENTS = 4_000
# Of a tool's arguments, in the question to the person. What is left out is told; `perdure approvals` asks the run.
SHOWN_PROMPT = 500
# In an event.

DECISION = ApprovalField(name="decision", options=("approve", "deny", "edit"), required=True)
ARGUMENTS = ApprovalField(name="arguments", label="with `edit`: what the tool is called with", field_type="json")
MESSAGE = ApprovalField(name="message", label="with `deny`: what the agent is told")

delegation_depth: ContextVar[int] = ContextVar("perdure_delegation_depth", default=0)
"""How many delegations this step is below the step that a verb was given."""

delegated: ContextVar[list[tuple[Delegation, StepOutcome]] | None] = ContextVar("perdure_delegated", default=None)
"""Where the outcomes of specialists are gathered for a caller that reports them."""


@contextmanager
def gathering() -> Iterator[list[tuple[Delegation, StepOutcome]]]:
    """The specialists of the steps that are run inside, with their outcomes, in the order in which they were asked."""
    found: list[tuple[Delegation, StepOutcome]] = []
    before = delegated.get()
    delegated.set(found)
    try:
        yield found
    finally:
        delegated.set(before)  # not by its token: a coroutine that is evicted is closed in another context


RunStep = Callable[[AgentStepSpec, str], Awaitable[StepOutcome]]
"""How a specialist's step is run: its spec, and its identity in the run."""


@dataclass(slots=True)
class Suspended:
    """A step that asks others, over all its suspensions."""

    spec: AgentStepSpec
    step: str
    """Its identity in the run; those of its specialists and questions begin with it."""
    asked: dict[str, int] = field(default_factory=dict)
    """How often each specialist and each tool was asked for, so that no two of its calls share a name."""

    def name(self, subject: str) -> str:
        """A name for the next call of a specialist or a tool."""
        self.asked[subject] = self.asked.get(subject, 0) + 1
        return f"{subject}-{self.asked[subject]}"


async def answers(run: Run, suspended: Suspended, needs: AnswersNeeded, run_step: RunStep) -> dict[str, JsonValue]:
    """The answer to each call, by call id. Raises CancelledError, after all that was begun has ended."""
    calls: list[tuple[str, Delegation | ToolRequest]] = []
    calls += [(suspended.name(each.specialist), each) for each in needs.delegations]
    calls += [(suspended.name(each.tool), each) for each in needs.approvals]
    room = MAX_ANSWERS_CHARACTERS // max(1, len(calls))
    depth = delegation_depth.get() + 1
    outcomes: dict[str, tuple[Delegation, StepOutcome]] = {}

    async def answer(named: tuple[str, Delegation | ToolRequest]) -> JsonValue:
        name, call = named
        if isinstance(call, Delegation):
            if depth > MAX_DELEGATION_DEPTH:
                return TOO_DEEP
            outcome = await _delegate(suspended, call, name, depth, run_step)
            outcomes[name] = (call, outcome)
            return _shortened(outcome.output if outcome.success else f"Failed: {outcome.error or outcome.output}", room)
        return (await _decide(run, suspended, call, name)).model_dump(mode="json")

    given = await sliding_window(calls, len(calls), answer)  # a specialist waits for a slot of the run all the same
    gathered = delegated.get()
    if gathered is not None:  # who ended first is chance, and a result should not depend on it
        gathered += [outcomes[name] for name, _ in calls if name in outcomes]
    return {call.call_id: answer for (_, call), answer in zip(calls, given, strict=True)}


async def _delegate(suspended: Suspended, call: Delegation, name: str, depth: int, run_step: RunStep) -> StepOutcome:
    """What a specialist made of a subtask."""
    spec, profiles = suspended.spec, {profile.name: profile for profile in suspended.spec.specialists}
    delegation_depth.set(depth)  # in this answer's task, and those it creates
    return await run_step(
        AgentStepSpec(
            task_id=f"{spec.task_id}.{name}",
            agent=call.specialist,
            prompt=call.subtask,
            description=f"for {spec.task_id}: {cut(call.subtask)}",
            parent_session_id=f"task-run-{spec.task_id}",
            profile=profiles.get(call.specialist),
        ),
        f"{suspended.step}.{name}",
    )


def _shortened(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    return f"{text[:room]}\n\n[cut: {room:,} of {len(text):,} characters; the answers of one turn share the room]"


async def _decide(run: Run, suspended: Suspended, call: ToolRequest, name: str) -> ToolDecision:
    """What a person decides about a tool call; denied where nobody answers in time."""
    limit = None if call.timeout_seconds is None else timedelta(seconds=call.timeout_seconds)
    request = _request(suspended, call, name, limit)
    run.tell(
        ApprovalAsked(id=request.id, stage=request.stage, step=request.step, prompt=cut(request.prompt, SHOWN_PROMPT))
    )
    with run.approvals.open(request, _readable) as answered:
        run.refresh_details()
        in_time = await first_of(answered, limit, f"a person decides about {call.tool}")
    run.refresh_details()
    answer = answered.result() if in_time else None
    run.tell(
        ApprovalResolved(id=request.id, answered_by=answer.answered_by if answer else None, by_deadline=answer is None)
    )
    if answer is None:
        return ToolDecision(decision="deny", message=f"Nobody answered within {call.timeout_seconds:g} s.")
    return ToolDecision.model_validate(answer.response)


def _request(suspended: Suspended, call: ToolRequest, name: str, limit: timedelta | None) -> ApprovalRequest:
    stage, now = current_stage.get(), workflow.now()
    return ApprovalRequest(
        id=f"{suspended.step}.{name}",
        stage=stage.name if stage else "",
        step=suspended.step,
        prompt=f"Agent {suspended.spec.agent!r} asks to call the tool {call.tool!r} with {_shown(call.arguments)}",
        fields=(DECISION, ARGUMENTS, MESSAGE),
        asked=rfc3339(now),
        deadline=None if limit is None else rfc3339(now + limit),
    )


def _shown(arguments: dict[str, JsonValue]) -> str:
    written = to_json(arguments).decode()
    if len(written) <= SHOWN_ARGUMENTS:
        return written
    return f"{written[:SHOWN_ARGUMENTS]}… ({len(written):,} characters)"


def _readable(answer: ApprovalAnswer) -> None:
    """Refuse an answer that is no decision about a tool call."""
    given: Any = answer.response
    try:
        decision = ToolDecision.model_validate(given)
    except ValidationError:
        raise ApprovalRejected(
            f"the response is {cut(repr(given))}; expected `decision`, with `arguments` as an object and `message` "
            "as text where they are given."
        ) from None
    if decision.decision == "edit" and "arguments" not in given:
        raise ApprovalRejected("the decision is 'edit' and `arguments` are missing: what is the tool called with?")
    if decision.decision != "edit" and decision.arguments:
        raise ApprovalRejected(f"the decision is {decision.decision!r}, and `arguments` go with 'edit' alone.")
