"""What each kind of step does: one coroutine for each, over the verbs.

A body reads and writes the state that it is given: the frame's own, or, for an item of a `for_each`, a layer over it.
"""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, assert_never

from pydantic import JsonValue
from temporalio import workflow

from workflows.approvals import ApprovalAnswer, ApprovalRequest
from workflows.deadline import Finished, within
from workflows.errors import PatternFailed, cut
from workflows.events import ApprovalAsked, ApprovalResolved, rfc3339
from workflows.graph.acting import run_proposal
from workflows.graph.conditions import as_text, holds
from workflows.graph.definition import (
    ActionProposal,
    ApprovalStep,
    DedupStep,
    DeliverStep,
    ForEachStep,
    LoopUntilStep,
    PatternStep,
    ProposalStep,
    Stage,
    Step,
    SubWorkflowStep,
)
from workflows.graph.frame import Frame, State
from workflows.graph.outputs import StageFailed, answer_of
from workflows.graph.proposal import Course, failure
from workflows.graph.results import (
    ApprovalOutput,
    DeliverOutput,
    EmptyOutput,
    ForEachOutput,
    LoopOutput,
    PatternOutput,
    ProposalOutput,
    ProposalResult,
    StageOutput,
)
from workflows.graph.seen import claim_unseen, fingerprint
from workflows.graph.templates import MissingKey, render
from workflows.patterns.dispatch import run_pattern
from workflows.run import current_stage
from workflows.window import sliding_window

MAX_PROMPT_LENGTH = 500
# In an event; the query `approvals` has all of it.


@dataclass(frozen=True)
class Scope:
    """What a body works in: its stage, the frame it belongs to, and the state it reads and writes."""

    frame: Frame
    stage: Stage
    state: State
    nest: Callable[[Scope, SubWorkflowStep], Awaitable[StageOutput]]
    """How a graph inside this one is run; the engine's, which knows the bodies too."""
    layer: tuple[str, ...] = ()
    """Names that the body itself brings (`item`, `index`, `payload`): replaced also where templates are off."""

    def rendered(self, value: JsonValue) -> Any:
        """The value with its references replaced. Raises `StageFailed` where the state lacks one."""
        only = None if self.frame.uses_templates(self.stage) else self.layer
        try:
            return value if only == () else render(value, self.state, only=only)
        except MissingKey as missing:
            raise StageFailed(str(missing)) from None

    def over(self, layer: dict[str, JsonValue]) -> Scope:
        """The same with a layer over the state: what the body writes goes there."""
        return replace(self, state=ChainMap(layer, self.state), layer=(*self.layer, *layer))


async def run(scope: Scope, step: Step) -> StageOutput:
    """What a step brings. Raises `StageFailed`."""
    match step:
        case PatternStep():
            return await coordinate(scope, step)
        case ProposalStep():
            return ProposalOutput(result=await act(scope, step.proposal))
        case SubWorkflowStep():
            return await scope.nest(scope, step)
        case ApprovalStep():
            return await ask(scope, step)
        case LoopUntilStep():
            return await repeat(scope, step)
        case ForEachStep():
            return await for_each(scope, step)
        case DedupStep():
            return await dedup(scope, step)
        case DeliverStep():
            return await deliver(scope, step)
        case _:
            assert_never(step)


async def coordinate(scope: Scope, step: PatternStep) -> StageOutput:
    """Run a pattern; each agent's answer is at `agent.<name>.answer` from then on."""
    frame, task = scope.frame, as_text(scope.rendered(step.task))
    if frame.graph.goal is not None:
        task = f"Overall goal: {frame.graph.goal}\nCurrent step: {task}"
    agents = tuple(
        agent.model_copy(update={"system_prompt": as_text(scope.rendered(agent.system_prompt))})
        for agent in step.agents
    )
    asked = step.model_copy(update={"task": task, "agents": agents})
    try:
        output = await run_pattern(frame.owner, asked, scope.state)
    except PatternFailed as failure:
        raise StageFailed(failure.message, PatternOutput(outputs=tuple(failure.outputs), final_answer="")) from None
    if isinstance(output, PatternOutput):
        # A later answer replaces an earlier one of the same agent; a failure replaces nothing.
        scope.state.update({f"agent.{each.name}.answer": each.answer for each in output.outputs if each.succeeded})
    else:
        scope.state[f"stage.{scope.stage.id}.review_passed"] = output.passed
    return output


async def act(scope: Scope, proposal: ActionProposal) -> ProposalResult:
    """Run a proposal; its state changes are written only if every action succeeded."""
    actions = tuple(
        action.model_copy(update={"parameters": scope.rendered(action.parameters)}) for action in proposal.actions
    )
    course = Course(proposal.model_copy(update={"actions": actions}), scope.state)
    frame = scope.frame
    try:
        result = await run_proposal(
            frame.run, course.proposal, scope.state, cache=frame.cache, policies=frame.policies, course=course
        )
    except asyncio.CancelledError:
        frame.left = ProposalOutput(result=course.result(duration_ms=0))
        raise
    if not result.is_success:
        raise StageFailed(failure(result), ProposalOutput(result=result))
    for each in result.results:
        scope.state.update(each.state_changes)
    return result


async def ask(scope: Scope, step: ApprovalStep) -> StageOutput:
    """Wait for a person, or for the deadline; the answer is at `output_key` and, by field, below it."""
    run, request = scope.frame.run, _request(scope, step)
    run.tell(ApprovalAsked(id=request.id, stage=scope.stage.id, prompt=cut(request.prompt, MAX_PROMPT_LENGTH)))
    limit = None if step.timeout_ms is None else timedelta(milliseconds=step.timeout_ms)
    asking = run.approvals.ask(request)
    run.refresh_details()
    ended = await within(asking, limit)
    run.refresh_details()
    if isinstance(ended, Finished):
        answer, by_deadline = ended.value, False
    elif isinstance(step.on_timeout, dict):
        answer, by_deadline = ApprovalAnswer(id=request.id, response=step.on_timeout), True
    else:
        raise StageFailed(f"approval '{scope.stage.id}' was not answered within {step.timeout_ms}ms")
    run.tell(ApprovalResolved(id=request.id, answered_by=answer.answered_by, by_deadline=by_deadline))
    scope.state[step.output_key] = answer.response
    if isinstance(answer.response, dict):
        scope.state.update({f"{step.output_key}.{name}": value for name, value in answer.response.items()})
    return ApprovalOutput(response=answer.response, answered_by=answer.answered_by)


def _request(scope: Scope, step: ApprovalStep) -> ApprovalRequest:
    record, now = current_stage.get(), workflow.now()
    number = scope.frame.run.phase_index if record is None else record.index
    deadline = None if step.timeout_ms is None else rfc3339(now + timedelta(milliseconds=step.timeout_ms))
    return ApprovalRequest(
        id=f"{number}.{scope.stage.id}",
        stage=scope.stage.id,
        prompt=as_text(scope.rendered(step.prompt)),
        fields=step.fields,
        asked=rfc3339(now),
        deadline=deadline,
    )


async def repeat(scope: Scope, step: LoopUntilStep) -> StageOutput:
    """Run the body until the conditions hold; reaching the cap is no failure."""
    outputs: list[StageOutput] = []
    satisfied = False
    while len(outputs) < step.max_iterations and not satisfied:
        outputs.append(await run(scope, step.body))
        scope.state[f"stage.{scope.stage.id}.answer"] = answer_of(outputs[-1])
        scope.state[f"stage.{scope.stage.id}.iteration"] = len(outputs)
        satisfied = bool(step.until) and holds(step.until, scope.state)
    return LoopOutput(iterations=len(outputs), satisfied=satisfied, iterations_output=tuple(outputs))


async def for_each(scope: Scope, step: ForEachStep) -> StageOutput:
    """Run the body for each item. Every item runs; the stage fails, in the end, if one of them failed."""
    found = scope.state.get(step.items_from)
    items = found if isinstance(found, list) else []
    state, failures = scope.state, dict[int, str]()

    async def one(place: tuple[int, JsonValue]) -> StageOutput:
        index, item = place
        layer: dict[str, JsonValue] = {"item": item, "index": index}
        try:
            output = await run(scope.over(layer), step.body)
        except StageFailed as failed:
            failures[index], output = str(failed), failed.output
        prefix = f"foreach.{scope.stage.id}.{index}"
        state[f"{prefix}.item"], state[f"{prefix}.answer"] = item, answer_of(output)
        state.update({f"{prefix}.state.{key}": layer[key] for key in layer if key not in ("item", "index")})
        return output

    width = step.max_concurrent or scope.frame.run.options.window
    outputs = await sliding_window(list(enumerate(items)), width, one)
    state[f"foreach.{scope.stage.id}.count"] = len(items)
    output = ForEachOutput(items=len(items), outputs=tuple(outputs))
    if failures:
        first = min(failures)
        raise StageFailed(f"{len(failures)} of {len(items)} items failed; item {first}: {failures[first]}", output)
    return output


async def dedup(scope: Scope, step: DedupStep) -> StageOutput:
    """Let the items through that the store has not seen; nothing is seen twice, whichever run asks."""
    found = scope.state.get(step.items_from)
    items = found if isinstance(found, list) else []
    unseen = await claim_unseen(step.store, [fingerprint(item, step.hash_fields) for item in items], step.ttl_secs)
    scope.state[step.into] = [item for item, is_new in zip(items, unseen, strict=True) if is_new]
    scope.state[f"stage.{scope.stage.id}.unseen_count"] = sum(unseen)
    scope.state[f"stage.{scope.stage.id}.total_count"] = len(items)
    return EmptyOutput()


async def deliver(scope: Scope, step: DeliverStep) -> StageOutput:
    """Hand the payload to each sink, in order; only when all of them fail the stage fails."""
    layer: dict[str, JsonValue] = {}
    if step.payload_key is not None:
        if step.payload_key not in scope.state:
            raise StageFailed(f"deliver: the state has no key '{step.payload_key}' to take the payload from")
        layer["payload"] = scope.state[step.payload_key]
    inner = scope.over(layer)
    results: list[ProposalResult] = []
    errors: list[str] = []
    for sink in step.sinks:
        try:
            results.append(await act(inner, sink))
        except StageFailed as failed:
            errors.append(str(failed))
            if isinstance(failed.output, ProposalOutput):
                results.append(failed.output.result)
    scope.state.update({key: value for key, value in layer.items() if key != "payload"})
    scope.state[f"stage.{scope.stage.id}.delivered_count"] = len(step.sinks) - len(errors)
    scope.state[f"stage.{scope.stage.id}.failed_count"] = len(errors)
    output = DeliverOutput(results=tuple(results))
    if errors and len(errors) == len(step.sinks):
        raise StageFailed(f"every sink failed: {'; '.join(errors)}", output)
    return output
