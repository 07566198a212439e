"""How a run ended, for people: the outcomes of its steps or the stages of its graphs, and one closing line.

Pure. What is cut to fit a line says how long it is; `perdure result` has all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from runtime.report import FAILED_MARK
from runtime.standing import Ending, Json, RunInfo, outcomes
from runtime.texts import counted, duration, full_stop, one_line
from workflows.graph.outputs import answer_of
from workflows.graph.results import (
    ForEachOutput,
    LoopOutput,
    PatternOutput,
    StageOutput,
    StageResult,
    SubWorkflowOutput,
    WorkflowResult,
)
from workflows.wire import CHAIN_WORKFLOW, STAGE_GRAPH_WORKFLOW

GRAPH_WORKFLOWS = (STAGE_GRAPH_WORKFLOW, CHAIN_WORKFLOW)

SHOWN_AGENTS = 5
# Of those that failed in a stage. A `for_each` may have thousands.

MARKS = {"ok": "✓", "suspended": "…", "succeeded": "✓", "compensated": "✓", "skipped": "-"}
"""Mark by status of a step, a stage or a compensation; every other status is a failure."""


def graph_results(ending: Ending) -> list[WorkflowResult]:
    """The results of the graphs of a run, whether it completed or failed; none of a run of another type."""
    if ending.type not in GRAPH_WORKFLOWS or ending.result is None:
        return []
    found = ending.result if isinstance(ending.result, list) else [ending.result]
    try:
        return [WorkflowResult.model_validate(result) for result in found]
    except ValidationError:
        return []  # a newer version wrote it: it is shown as it is stored


def graph_lines(result: WorkflowResult, indent: str = "") -> Iterator[str]:
    """A graph's status, its stages with their answers, and what was undone; graphs inside it stand further in."""
    mark = "✓" if result.status == "completed" else FAILED_MARK
    status = result.status.replace("_", " ")
    yield f"{indent}{mark} graph {result.workflow_id!r} {status}, {duration(result.duration_ms)}"
    for stage in result.stages:
        yield f"{indent}  {_stage_line(stage)}"
        if stage.status == "failed":
            yield from (f"{indent}    {line}" for line in _agent_lines(stage))
        if isinstance(stage.output, SubWorkflowOutput):
            yield from graph_lines(stage.output.result, f"{indent}    ")
    for undone in result.compensations:
        mark = MARKS.get(undone.status, FAILED_MARK)
        text = f"{mark} stage {undone.for_stage_id!r} {_undone(undone.status)}, {duration(undone.duration_ms)}"
        yield f"{indent}  {text}: {one_line(undone.error)}" if undone.error else f"{indent}  {text}"


def _stage_line(stage: StageResult) -> str:
    told = stage.error or answer_of(stage.output)
    text = f"{MARKS.get(stage.status, FAILED_MARK)} stage {stage.stage_id!r} {stage.status}"
    text = f"{text}, {duration(stage.duration_ms)}"
    return f"{text}: {one_line(told)}" if told else text


def _agent_lines(stage: StageResult) -> Iterator[str]:
    """Why the agents of a failed stage failed, where its own error does not say it."""
    failed = [(name, error) for name, error in _agent_errors(stage.output) if error not in (stage.error or "")]
    for name, error in failed[:SHOWN_AGENTS]:
        yield f"{FAILED_MARK} agent {name}: {one_line(error)}"
    if len(failed) > SHOWN_AGENTS:
        yield f"… {len(failed) - SHOWN_AGENTS:,} more; `perdure result` has them all"


def _agent_errors(output: StageOutput) -> Iterator[tuple[str, str]]:
    """Which agents failed, and why, also in the bodies of a loop."""
    match output:
        case PatternOutput():
            yield from ((repr(each.name), each.error) for each in output.outputs if each.error)
        case LoopOutput():
            for each in output.iterations_output[-1:]:  # the others have succeeded
                yield from _agent_errors(each)
        case ForEachOutput():
            for index, each in enumerate(output.outputs):
                yield from ((f"{name} of item {index}", error) for name, error in _agent_errors(each))
        case _:
            return


def _undone(status: str) -> str:
    return "undone" if status == "compensated" else "could not be undone"


def outcome_lines(report: Any) -> list[str]:
    """The outcomes of a `Steps` report, one line each."""
    return [_outcome_line(outcome) for outcome in outcomes(report)]


def _outcome_line(outcome: Json) -> str:
    status = outcome.get("status", "ok")
    tokens = outcome.get("usage", {}).get("total_tokens", 0)
    spent = f", {tokens:,} tokens" if tokens else ""
    mark = "✓" if outcome["success"] else FAILED_MARK
    text = (
        f"{mark} {outcome['task_id']} ({outcome['agent']}) {status}, {duration(outcome.get('duration_ms', 0))}{spent}"
    )
    return f"{text}: {one_line(outcome['output'])}" if outcome["output"] else text


def ending_lines(info: RunInfo, ending: Ending) -> list[str]:
    """How a run ended: its outcomes, stages or result, then one closing line."""
    lines = [line for result in graph_results(ending) for line in graph_lines(result)] or outcome_lines(ending.result)
    if not lines and ending.result is not None:
        lines = json.dumps(ending.result, ensure_ascii=False, indent=2).splitlines()
    return [*lines, closing_line(info, ending)]


def closing_line(info: RunInfo, ending: Ending) -> str:
    """The last word on a run."""
    took = "" if info.closed is None else f" after {duration((info.closed - info.started) / timedelta(milliseconds=1))}"
    text = f"Run {info.id!r} {_ended(ending)}{took}"
    if ending.counts:
        succeeded, failed = ending.counts
        text += f": {counted(succeeded, 'step')} succeeded, {failed} failed"
    if ending.failure:
        text += f": {one_line(ending.failure)}"
    return full_stop(text)


def _ended(ending: Ending) -> str:
    return {"completed": "completed", "timed_out": "timed out"}.get(ending.status) or (
        "failed" if ending.status == "failed" else f"was {ending.status}"
    )
