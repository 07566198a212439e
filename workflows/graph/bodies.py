"""What each kind of step does: one coroutine for each, over the verbs.

A body reads and writes the state that it is given: the frame's own, or, for an item of a `for_each`, a layer over it.
"""

from __future__ import annotations

import asyncio
from typing import assert_never

from pydantic import JsonValue
from temporalio import workflow

from workflows import wire
from workflows.approvals import ApprovalAnswer, ApprovalRequest
from workflows.deadline import first_of, milliseconds
from workflows.errors import PatternFailed, PerdureError, cut
from workflows.events import ApprovalAsked, ApprovalResolved, rfc3339
from workflows.fanout import FanOut
from workflows.graph.acting import run_proposal
from workflows.graph.conditions import as_text, holds
from workflows.graph.definition import (
    Action,
    ActionProposal,
    ApprovalStep,
    DedupStep,
    DeliverStep,
    ForEachStep,
    LoopUntilStep,
    PatternStep,
    ProposalStep,
    Step,
    SubWorkflowStep,
)
from workflows.graph.items import ItemSupply, slicing_of
from workflows.graph.outputs import StageFailed, answer_of
from workflows.graph.proposal import Course, failure
from workflows.graph.results import (
    ActionResult,
    ApprovalOutput,
    CarriedOutputs,
    DeliverOutput,
    EmptyOutput,
    ForEachOutput,
    LoopOutput,
    PatternOutput,
    ProposalOutput,
    ProposalResult,
    StageOutput,
)
from workflows.graph.scope import Scope, refuse_large
from workflows.graph.seen import claim_unseen, fingerprint
from workflows.handover import ItemEnd
from workflows.history import refuses_stages
from workflows.oversize import written
from workflows.parsing import told
from workflows.patterns.asking import asking_about
from workflows.patterns.dispatch import run_pattern
from workflows.run import current_stage
from workflows.steps import MAX_CONCURRENCY, AgentSpec
from workflows.window import sliding_window

MAX_PROMPT_LENGTH = 500
# In an event; the query `approvals` has all of it.
MAX_EXPANSION = 50_000_000
# Characters of all references that one step has replaced. A history ends at as many bytes, and a worker's memory not
# long after: a thousand actions that each hold a text of the state twice need no large definition.
STAGES_PER_PLACE = 0.02
# Making a place in a window: there are up to a thousand of them, and each item of a `for_each` may make as many again.
ACTIONS_AT_ONCE = 100
STAGES_PER_RENDERING = 0.1
# Looking for references in an action takes about a tenth of a small stage.
MANY_OUTPUTS = 10_000
# Writing so many outputs of agents takes about a tenth of a second.
MANY_AGENTS = 1_000
# Preparing more takes a tenth of a second, and making steps of them twice that again: each in an activation of its own.


async def run(scope: Scope, step: Step) -> StageOutput:
    """What a step brings. Raises `StageFailed`."""
    try:
        return await _performed(scope, step)
    except PerdureError as refused:  # more steps in one call than a history holds, for one
        raise StageFailed(refused.message) from None


async def _performed(scope: Scope, step: Step) -> StageOutput:
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
    expanded = sum(scope.expansion(agent.system_prompt) for agent in step.agents)
    refuse_large(expanded, MAX_EXPANSION, "the agents' prompts together are")
    agents = tuple(_prompted(scope, agent) for agent in step.agents)
    asked = step.model_copy(update={"task": task, "agents": agents, "config": scope.rendered(step.config)})
    if len(agents) > MANY_AGENTS:
        await frame.pace.pause()
    try:
        with asking_about(f"item {cut(str(scope.state['index']))}" if "index" in scope.layer else ""):
            output = await run_pattern(frame.owner, asked, scope.state)
    except PatternFailed as failure:
        left = PatternOutput(outputs=tuple(failure.outputs), final_answer="")
        raise StageFailed(failure.message, _marked_where_many(left)) from None
    if isinstance(output, PatternOutput):
        # A later answer replaces an earlier one of the same agent; a failure replaces nothing.
        scope.state.update({f"agent.{each.name}.answer": each.answer for each in output.outputs if each.succeeded})
        return _marked_where_many(output)
    scope.state[f"stage.{scope.stage.id}.review_passed"] = output.passed
    return output


def _marked_where_many(output: PatternOutput) -> PatternOutput:
    """The output, to be written in parts where it takes tenths of a second."""
    is_marked = len(output.outputs) > MANY_OUTPUTS and workflow.patched(wire.WRITTEN_IN_PARTS_PATCH)
    return output.of_many() if is_marked else output


def _prompted(scope: Scope, agent: AgentSpec) -> AgentSpec:
    """The agent with its prompt rendered; the same one where there is nothing to render, for a fleet has thousands."""
    if "{{" not in agent.system_prompt:
        return agent
    return agent.model_copy(update={"system_prompt": as_text(scope.rendered(agent.system_prompt))})


async def act(scope: Scope, proposal: ActionProposal) -> ProposalResult:
    """Run a proposal; its state changes are written only if every action succeeded."""
    frame, actions = scope.frame, await _rendered_actions(scope, proposal)
    found = scope.snapshot()
    course = Course(proposal.model_copy(update={"actions": actions}), found)
    try:
        result = await run_proposal(
            frame.run,
            course.proposal,
            found,
            cache=frame.cache,
            policies=frame.policies,
            course=course,
            pace=frame.pace,
        )
    except asyncio.CancelledError:
        frame.partial = ProposalOutput(result=course.result(duration_ms=0))
        raise
    if not result.is_success:
        raise StageFailed(failure(result), ProposalOutput(result=result))
    for each in result.results:
        scope.state.update(each.state_changes)
    return result


async def _rendered_actions(scope: Scope, proposal: ActionProposal) -> tuple[Action, ...]:
    """The actions with the references in their parameters replaced; those without any as they are."""
    actions, expanded = list[Action](), 0
    for action in proposal.actions:
        if len(actions) % ACTIONS_AT_ONCE == ACTIONS_AT_ONCE - 1:
            await scope.frame.pace.spend(STAGES_PER_RENDERING * ACTIONS_AT_ONCE)
        expanded += scope.expansion(action.parameters)
        refuse_large(expanded, MAX_EXPANSION, "the parameters of the actions together are")
        parameters = scope.rendered(action.parameters)
        is_same = parameters is action.parameters
        actions.append(action if is_same else action.model_copy(update={"parameters": parameters}))
    return tuple(actions)


async def ask(scope: Scope, step: ApprovalStep) -> StageOutput:
    """Wait for a person, or for the deadline; the answer is at `output_key` and, by field, below it."""
    run, request = scope.frame.run, _request(scope, step)
    run.tell(ApprovalAsked(id=request.id, stage=scope.stage.id, prompt=cut(request.prompt, MAX_PROMPT_LENGTH)))
    limit = None if step.timeout_ms is None else milliseconds(step.timeout_ms)
    with run.approvals.open(request) as answered:
        run.refresh_details()
        in_time = await first_of(answered, limit, f"{scope.stage.id} waits for a person")
    run.refresh_details()
    if in_time:
        answer, by_deadline = answered.result(), False
    elif isinstance(step.on_timeout, dict):
        answer, by_deadline = ApprovalAnswer(id=request.id, response=step.on_timeout), True
    else:
        raise StageFailed(f"approval '{scope.stage.id}' was not answered within {step.timeout_ms}ms")
    run.tell(ApprovalResolved(id=request.id, answered_by=answer.answered_by, by_deadline=by_deadline))
    scope.state[step.output_key] = answer.response
    if isinstance(answer.response, dict):
        given = {field.name: None for field in step.fields} | answer.response  # an optional field left out is null
        scope.state.update({f"{step.output_key}.{name}": value for name, value in given.items()})
    return ApprovalOutput(response=answer.response, answered_by=answer.answered_by)


def _request(scope: Scope, step: ApprovalStep) -> ApprovalRequest:
    record, now = current_stage.get(), workflow.now()
    number = scope.frame.run.phase_index if record is None else record.index
    deadline = None if step.timeout_ms is None else rfc3339(now + milliseconds(step.timeout_ms))
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
        await scope.frame.pace.keep(len(scope.state))
        if full := refuses_stages():
            raise StageFailed(full, _looped(outputs, satisfied))
        try:
            outputs.append(await run(scope, step.body))
        except StageFailed as failed:
            raise StageFailed(str(failed), _looped([*outputs, failed.output], satisfied)) from None
        except asyncio.CancelledError:
            scope.frame.partial = _looped([*outputs, *_partial(scope)], satisfied)
            raise
        scope.state[f"stage.{scope.stage.id}.answer"] = answer_of(outputs[-1])
        scope.state[f"stage.{scope.stage.id}.iteration"] = len(outputs)
        satisfied = bool(step.until) and holds(step.until, scope.state)
    return _looped(outputs, satisfied)


def _looped(outputs: list[StageOutput], satisfied: bool) -> LoopOutput:
    return LoopOutput(iterations=len(outputs), satisfied=satisfied, iterations_output=tuple(outputs))


def _partial(scope: Scope) -> list[StageOutput]:
    """What a body that was just cut off had done, if it told."""
    partial = scope.frame.take_partial()
    return [] if partial is None else [partial]


class _Ended:
    """What the items of a `for_each` have brought so far; `is_carried` where children bring it."""

    def __init__(self, scope: Scope, items: list[JsonValue], *, is_carried: bool) -> None:
        self._scope, self._items, self._is_carried = scope, items, is_carried
        self._is_written = is_carried and not scope.frame.is_for_program
        self._outputs: list[StageOutput] = [] if self._is_written else [EmptyOutput()] * len(items)
        self._written = [written(EmptyOutput())] * len(items) if self._is_written else []
        self._answers = [""] * len(items)
        self._failures: dict[int, str] = {}

    def keep(self, index: int, end: ItemEnd) -> None:
        """An item has ended."""
        answer = self._answers[index] = answer_of(end.output) if end.answer is None else end.answer
        if self._is_written:
            self._written[index] = written(end.output)
        else:
            self._outputs[index] = end.output
        if end.failure is not None:
            self._failures[index] = end.failure
        if not end.is_cut_off:
            _keep_item(self._scope, index, {"item": self._items[index], **end.written}, answer)

    def output(self) -> ForEachOutput:
        """What the stage brings."""
        output = ForEachOutput(items=len(self._items), outputs=tuple(self._outputs))
        if not self._is_carried:
            return output
        as_json = tuple(self._written) if self._is_written else None
        return output.carrying(CarriedOutputs(answers=tuple(self._answers), written=as_json))

    def failure(self) -> str | None:
        """Why the stage failed, if it did."""
        if not self._failures:
            return None
        first = min(self._failures)
        told = f"{len(self._failures)} of {len(self._items)} items failed"
        return f"{told}; item {first}: {self._failures[first]}"


async def for_each(scope: Scope, step: ForEachStep) -> StageOutput:
    """Run the body for each item. Every item runs; the stage fails, in the end, if one of them failed."""
    run, pace, items = scope.frame.run, scope.frame.pace, _items(scope, step.items_from)
    width = min(step.max_concurrent or run.options.window, MAX_CONCURRENCY)
    await pace.spend(min(width, len(items)) * STAGES_PER_PLACE)
    slicing = slicing_of(scope, step, items)
    ended = _Ended(scope, items, is_carried=slicing is not None)

    async def one(index: int) -> None:
        end, is_interrupted = await item_end(scope, step.body, index, items[index])
        ended.keep(index, end)
        if is_interrupted:
            raise asyncio.CancelledError

    try:
        if slicing is None:
            await sliding_window(range(len(items)), width, one)
        else:
            place, supply = slicing.place, ItemSupply(items, slicing.work, ended.keep, one)
            await FanOut(run, supply, place.id, place.stage, place.expect, run.options.window, width).endings()
            await pace.pause()  # what follows takes its time
    except asyncio.CancelledError:
        scope.frame.partial = ended.output()
        raise
    scope.state[f"foreach.{scope.stage.id}.count"] = len(items)
    output = ended.output()
    if (failure := ended.failure()) is not None:
        raise StageFailed(failure, output)
    return output


async def item_end(scope: Scope, body: Step, index: int, item: JsonValue) -> tuple[ItemEnd, bool]:
    """How the body ended for one item, and whether the caller was cancelled meanwhile."""
    await scope.frame.pace.keep(len(scope.state))
    if full := refuses_stages():
        return ItemEnd(failure=full, is_cut_off=True), False
    layer: dict[str, JsonValue] = {"item": item, "index": index}
    failure: str | None = None
    try:
        output = await run(scope.over(layer), body)
    except StageFailed as failed:
        output, failure = failed.output, str(failed)
    except asyncio.CancelledError:
        return ItemEnd(output=next(iter(_partial(scope)), EmptyOutput()), is_cut_off=True), True
    del layer["index"]
    if layer["item"] is item:
        del layer["item"]
    return ItemEnd(output=output, written=layer, failure=failure), False


def _items(scope: Scope, key: str) -> list[JsonValue]:
    """The list at a state key. Where there is none there is nothing to do; what stands there instead is told."""
    found = scope.state.get(key)
    if isinstance(found, list):
        return found
    if found is not None:
        message = f"stage '{scope.stage.id}' has nothing to do: the state's '{key}' is {told(found)}, and no list."
        scope.frame.owner.log("warning", message, {"stage": scope.stage.id})
    return []


def _keep_item(scope: Scope, index: int, layer: dict[str, JsonValue], answer: str) -> None:
    """What an item's body wrote, below the item's own keys: no item sees another's."""
    prefix = f"foreach.{scope.stage.id}.{index}"
    scope.state[f"{prefix}.item"], scope.state[f"{prefix}.answer"] = layer["item"], answer
    scope.state.update({f"{prefix}.state.{key}": value for key, value in layer.items() if key != "item"})


async def dedup(scope: Scope, step: DedupStep) -> StageOutput:
    """Let the items through that the store has not seen; nothing is seen twice, whichever run asks."""
    items = _items(scope, step.items_from)
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
            results.append(
                failed.output.result if isinstance(failed.output, ProposalOutput) else _refused(sink, str(failed))
            )
        except asyncio.CancelledError:
            cut_off = [partial.result for partial in _partial(scope) if isinstance(partial, ProposalOutput)]
            scope.frame.partial = DeliverOutput(results=(*results, *cut_off))
            raise
    scope.state.update({key: value for key, value in layer.items() if key != "payload"})
    scope.state[f"stage.{scope.stage.id}.delivered_count"] = len(step.sinks) - len(errors)
    scope.state[f"stage.{scope.stage.id}.failed_count"] = len(errors)
    output = DeliverOutput(results=tuple(results))
    if errors and len(errors) == len(step.sinks):
        raise StageFailed(f"every sink failed: {'; '.join(errors)}", output)
    return output


def _refused(sink: ActionProposal, error: str) -> ProposalResult:
    """The result of a sink whose references could not be replaced: none of its actions began."""
    results = (ActionResult(action_id=action.id, status="rejected", error=error) for action in sink.actions)
    return ProposalResult(proposal_id=sink.id, results=tuple(results))
