"""What a stage's output means to the stages after it: its answer, or its failure."""

from __future__ import annotations

import json
from typing import assert_never

from workflows.graph.conditions import as_text
from workflows.graph.results import (
    ApprovalOutput,
    DeliverOutput,
    EmptyOutput,
    ForEachOutput,
    LoopOutput,
    PatternOutput,
    ProposalOutput,
    ReviewOutput,
    StageOutput,
    SubWorkflowOutput,
)


class StageFailed(Exception):
    """A stage has failed; the text is its error, `output` what it produced all the same."""

    def __init__(self, text: str, output: StageOutput | None = None) -> None:
        super().__init__(text)
        self.output: StageOutput = output if output is not None else EmptyOutput()


def answer_of(output: StageOutput) -> str:
    """A stage's answer: the text at `stage.<id>.answer`."""
    match output:
        case PatternOutput():
            return output.final_answer
        case ReviewOutput():
            verdict = "PASS" if output.passed else "FAIL"
            return f"{verdict}: {output.blocker_count} blockers in {len(output.findings)} findings"
        case ProposalOutput():
            last = output.result.results[-1].output if output.result.results else None
            return "" if last is None else json.dumps(last, ensure_ascii=False, separators=(",", ":"))
        case SubWorkflowOutput():
            return answer_of(output.result.stages[-1].output) if output.result.stages else ""
        case ApprovalOutput():
            return as_text(output.response)
        case LoopOutput():
            return answer_of(output.iterations_output[-1]) if output.iterations_output else ""
        case ForEachOutput():
            carried = output.carried
            return as_text([answer_of(each) for each in output.outputs] if carried is None else list(carried.answers))
        case DeliverOutput():
            delivered = sum(result.is_success for result in output.results)
            return f"{delivered} delivered, {len(output.results) - delivered} failed"
        case EmptyOutput():
            return ""
        case _:
            assert_never(output)
