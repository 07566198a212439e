"""Walks a stage graph inside a run: run a stage, follow the first edge that fits, undo what was done when one fails.

Source: car-workflow's engine. Law: whatever happens (a failure, the loop guard, a cancel), what was completed is
compensated in reverse order and the result tells all that was done.
"""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from pydantic import JsonValue
from temporalio import workflow

from workflows.deadline import Finished, milliseconds, within
from workflows.errors import cut
from workflows.events import StageFinished, StageStarted, rfc3339
from workflows.graph import bodies
from workflows.graph.carrying import CarriedGraph, Continuation, packing
from workflows.graph.conditions import holds
from workflows.graph.definition import Condition, GraphDefinition, ProposalCompensation, Stage, SubWorkflowStep
from workflows.graph.frame import Frame, State
from workflows.graph.keys import GOAL
from workflows.graph.outputs import StageFailed, answer_of
from workflows.graph.pace import Pace, in_parts
from workflows.graph.policies import policies_of
from workflows.graph.results import (
    EmptyOutput,
    StageCompensation,
    StageOutput,
    StageResult,
    SubWorkflowOutput,
    WorkflowResult,
    WorkflowStatus,
)
from workflows.graph.scope import Scope
from workflows.history import refuses_stages
from workflows.progress import PhaseRecord
from workflows.run import current_stage
from workflows.saga import CompensationResult, Saga

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

CYCLE_LIMIT = "cycle limit reached after"
"""What the loop guard's refusal begins with: a stage that failed by it never ran."""
MAX_ERROR_LENGTH = 2_000
# Of a stage's error in an event; the result has all of it.
TOO_LARGE_TO_CARRY = (
    "The run's history is long, and the graph's state is too large to be carried into a new one, so it goes on in this "
    "one for as long as Temporal lets it. Keep large values out of the state, or configure a blob store."
)


async def walk(
    owner: AgentWorkflow,
    graph: GraphDefinition,
    state: Mapping[str, JsonValue],
    outer: Frame | None = None,
    *,
    carried: CarriedGraph | None = None,
    continuation: Continuation | None = None,
    is_for_program: bool = False,
) -> tuple[WorkflowResult, bool]:
    """The result of a graph, and whether a cancel ended it; compensations have run when this returns.

    A graph nested in another (`outer`) obeys that one's policies beside its own. With a `continuation`, a history that
    has grown long ends between two stages, and the next one goes on with what is then `carried`. `is_for_program` says
    that a program reads the result.
    """
    begun = workflow.now() if carried is None else carried.begun_at
    frame = _framed(owner, graph, state, outer)
    frame.is_for_program = is_for_program if outer is None else outer.is_for_program
    following = graph.start if carried is None else _taken_up(frame, carried)
    is_cancelled, failed = False, False
    try:
        failed = not await _to_the_end(frame, following, begun, continuation)
    except asyncio.CancelledError:
        is_cancelled = failed = True
    frame.at_failure = dict(frame.state) if failed else {}
    compensations = await frame.saga.compensate() if failed else []
    return _result(frame, begun, _status(failed, compensations), compensations), is_cancelled


def _framed(owner: AgentWorkflow, graph: GraphDefinition, state: Mapping[str, JsonValue], outer: Frame | None) -> Frame:
    policies = policies_of(graph.metadata, f"graph {graph.id!r}")
    return Frame(
        owner,
        graph,
        _seeded(graph, state),
        Saga(owner),
        policies=(*outer.policies, *policies) if outer else policies,
        cache=outer.cache if outer else {},
        pace=outer.pace if outer else Pace(),
    )


def _result(
    frame: Frame, begun: datetime, status: WorkflowStatus, compensations: Sequence[CompensationResult]
) -> WorkflowResult:
    return WorkflowResult(
        workflow_id=frame.graph.id,
        workflow_name=frame.graph.name,
        status=status,
        stages=tuple(frame.results),
        compensations=tuple(_reported(compensation) for compensation in compensations),
        duration_ms=(workflow.now() - begun) // timedelta(milliseconds=1),
        timestamp=rfc3339(begun),
        final_state=frame.state,
    )


def _seeded(graph: GraphDefinition, state: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    seeded = {key: value for key, value in state.items() if key != GOAL}
    return seeded if graph.goal is None else {**seeded, GOAL: graph.goal}


def _status(failed: bool, compensations: list[CompensationResult]) -> WorkflowStatus:
    if not failed:
        return "completed"
    if not compensations:
        return "failed"
    succeeded = all(compensation.status == "succeeded" for compensation in compensations)
    return "compensated" if succeeded else "partially_compensated"


def _reported(compensation: CompensationResult) -> StageCompensation:
    return StageCompensation(
        for_stage_id=compensation.name,
        status="compensated" if compensation.status == "succeeded" else "failed",
        duration_ms=compensation.duration_ms,
        error=compensation.error,
    )


def _taken_up(frame: Frame, carried: CarriedGraph) -> str:
    """Put a frame where the run before this one left it; the stage that comes next."""
    frame.state.clear()
    frame.state.update(carried.state)
    frame.cache.update(carried.cache)
    frame.executions = carried.executions
    frame.results.extend(carried.results)
    stages = {stage.id: stage for stage in frame.graph.stages}
    for completed in carried.completed:
        _remember(frame, stages[completed])
    return carried.following


async def _continue_if_long(frame: Frame, following: str, begun: datetime, continuation: Continuation) -> None:
    """Return where the run goes on as it is; else it ends here."""
    if continuation.is_too_large or not frame.run.is_long:
        return
    await frame.run.settled()
    carried = await in_parts(packing(frame, following, begun, continuation.room_bytes))
    if carried is not None:
        await continuation.begin(carried)
    continuation.is_too_large = True
    frame.owner.log("warning", TOO_LARGE_TO_CARRY, {"stage": following})


async def _to_the_end(frame: Frame, following: str | None, begun: datetime, continuation: Continuation | None) -> bool:
    """Run stages until no edge fits; whether the graph completed."""
    stages = {stage.id: stage for stage in frame.graph.stages}
    edges: dict[str, list[tuple[tuple[Condition, ...], str]]] = {}
    for edge in frame.graph.edges:
        edges.setdefault(edge.source, []).append((edge.conditions, edge.target))
    while following is not None:
        # Work that is done in parts lets a cancel pass, and one that was delivered is not delivered again.
        frame.run.raise_if_cancelled()
        await frame.pace.keep(len(frame.state))
        if continuation is not None and following in stages:
            await _continue_if_long(frame, following, begun, continuation)
        refusal = _refusal(frame, following, stages)
        if refusal is not None:
            name = stages[following].name if following in stages else following
            frame.results.append(_never_run(following, name, refusal))
            return False
        stage = stages[following]
        frame.executions += 1
        succeeded = await _execute(frame, stage)
        fitting = (target for conditions, target in edges.get(stage.id, ()) if holds(conditions, frame.state))
        following = next(fitting, None) if succeeded or stage.on_failure == "route" else None
        if not succeeded and following is None:
            return False
    return True


def _refusal(frame: Frame, following: str, stages: Mapping[str, Stage]) -> str | None:
    """Why the stage that comes next cannot run. A graph that was verified has every stage it leads to."""
    if following not in stages:
        return "no start stage defined" if frame.executions == 0 else f"stage not found: '{following}'"
    if frame.executions >= frame.graph.max_iterations:
        return f"{CYCLE_LIMIT} {frame.graph.max_iterations} iterations"
    return refuses_stages()


def _never_run(stage_id: str, name: str, error: str) -> StageResult:
    return StageResult(
        stage_id=stage_id, stage_name=name, status="failed", output=EmptyOutput(), duration_ms=0, error=error
    )


async def _execute(frame: Frame, stage: Stage) -> bool:
    """Run one stage and write down how it ended; whether it succeeded."""
    run, begun = frame.run, workflow.now()
    index, run.phase_index = run.phase_index, run.phase_index + 1
    record = run.board.open_phase(stage.name, index, 0)
    run.tell(StageStarted(stage=stage.id, index=index))
    run.refresh_details()
    try:
        output, error = await _outcome(frame, stage, record)
    except asyncio.CancelledError:
        by_run = workflow.cancellation_reason() is not None
        cut_off = "the run was cancelled" if by_run else "cancelled: the time of the stage around it was up"
        _report(frame, stage, record, begun, EmptyOutput(), cut_off)
        raise
    output = _report(frame, stage, record, begun, output, error)
    _write_down(frame, stage, output, error)
    return error is None


def _report(
    frame: Frame, stage: Stage, record: PhaseRecord, begun: datetime, output: StageOutput, error: str | None
) -> StageOutput:
    """Write a stage's end into the results, the log and the board; its output, or what it had done when cut off."""
    run, partial = frame.run, frame.take_partial()
    output = partial if partial is not None and isinstance(output, EmptyOutput) else output
    duration_ms = (workflow.now() - begun) // timedelta(milliseconds=1)
    status: Literal["succeeded", "failed"] = "failed" if error else "succeeded"
    frame.results.append(
        StageResult(
            stage_id=stage.id,
            stage_name=stage.name,
            status=status,
            output=output,
            duration_ms=duration_ms,
            error=error,
        )
    )
    record.is_done, record.has_failed = True, error is not None
    told = None if error is None else cut(error, MAX_ERROR_LENGTH)
    run.tell(StageFinished(stage=stage.id, index=record.index, status=status, duration_ms=duration_ms, error=told))
    run.tell_if_exhausted()
    run.refresh_details()
    return output


async def _outcome(frame: Frame, stage: Stage, record: PhaseRecord) -> tuple[StageOutput, str | None]:
    """What a stage brought, and why it failed if it did."""
    limit = None if stage.timeout_ms is None else milliseconds(stage.timeout_ms)
    before = current_stage.get()
    current_stage.set(record)
    try:
        with workflow.create_event_group(f"phase-{record.index}", label=stage.name or None).scope():
            ended = await within(bodies.run(Scope(frame, stage, frame.state, nest=nested), stage.step), limit)
    except StageFailed as failure:
        return failure.output, str(failure)
    finally:
        current_stage.set(before)  # not by its token: a coroutine that is evicted is closed in another context
    if isinstance(ended, Finished):
        return ended.value, None
    return ended.left or EmptyOutput(), f"stage '{stage.id}' timed out after {stage.timeout_ms}ms"


def _write_down(frame: Frame, stage: Stage, output: StageOutput, error: str | None) -> None:
    """The keys that edges read, and what undoes the stage."""
    frame.state[f"stage.{stage.id}.succeeded"] = error is None
    if error is not None:
        frame.state[f"stage.{stage.id}.error"] = error
        return
    answer = answer_of(output)
    frame.pace.charge(len(answer))
    frame.state[f"stage.{stage.id}.answer"] = answer
    if stage.compensation is not None:
        _remember(frame, stage)


def _remember(frame: Frame, stage: Stage) -> None:
    """Note how to undo a stage."""
    frame.completed.append(stage.id)
    frame.saga.push(stage.id, _undoing(frame, stage))


def _undoing(frame: Frame, stage: Stage) -> Callable[[], Awaitable[None]]:
    async def undo() -> None:
        await frame.pace.keep(len(frame.state))
        written: dict[str, JsonValue] = {}
        try:
            await _undo(frame, stage, ChainMap(written, frame.state))
        finally:
            # Later compensations see these; what stages told of themselves stays as the failure found it.
            frame.state.update({key: value for key, value in written.items() if not key.startswith("stage.")})

    return undo


async def _undo(frame: Frame, stage: Stage, state: State) -> None:
    compensation = stage.compensation
    if isinstance(compensation, ProposalCompensation):
        scope = Scope(frame, stage, state, nest=nested, referred=frame.at_failure)
        await bodies.act(scope, compensation.proposal)
    elif compensation is not None:
        referred = next((other for other in frame.graph.stages if other.id == compensation.stage_id), None)
        if referred is None:
            raise StageFailed(f"stage not found: '{compensation.stage_id}'")
        scope = Scope(frame, referred, state, nest=nested, referred=frame.at_failure)
        await bodies.run(scope, referred.step)


async def nested(scope: Scope, step: SubWorkflowStep) -> StageOutput:
    """Run a graph in a frame of its own: nothing is merged in or out."""
    initial = scope.rendered(step.workflow.initial_state)
    result, is_cancelled = await walk(scope.frame.owner, step.workflow, initial, scope.frame)
    output = SubWorkflowOutput(result=result)
    if is_cancelled:
        scope.frame.partial = output  # the nested graph has compensated; what it did is still part of the result
        raise asyncio.CancelledError
    if result.status != "completed":
        raise StageFailed("stage 'sub_workflow' failed: sub-workflow failed", output)
    return output
