"""The agents of the audit: each takes its order as JSON in the prompt, and says what happens when it runs twice.

Law: a prompt names files and never holds them; an answer is one line for people, and a small object for the workflow.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel

from activities.context import BlockingStepContext
from examples.audit import inspecting, judging, measuring, publishing, tree
from examples.audit.findings import (
    EditionOrder,
    InspectOrder,
    InventoryOrder,
    JudgeOrder,
    MeasureOrder,
    Report,
    SummaryOrder,
    VerifyOrder,
    WorstFile,
)
from examples.audit.report import render
from workflows import AgentStepSpec, StepOutcome

PRESENTED_FINDINGS = 8
# Of each of the worst files: what fits into an afternoon.


def inventory(step: AgentStepSpec) -> StepOutcome:
    """Lists the Python files of a tree. Running twice looks twice."""
    order = InventoryOrder.model_validate_json(step.prompt)
    found = tree.inventory(order.path, order.max_files)
    return _answer(step, f"{judging.plural(len(found.files), 'file')} in {found.root}", found)


def inspect(step: AgentStepSpec) -> StepOutcome:
    """Applies every rule to a file. Running twice reads it twice."""
    order = InspectOrder.model_validate_json(step.prompt)
    report = inspecting.inspect_file(order.root, order.path, order.limits)
    return _answer(step, judging.counted(report.severities), report)


def measure(step: AgentStepSpec) -> StepOutcome:
    """Measures a file and its history. Running twice reads both twice."""
    order = MeasureOrder.model_validate_json(step.prompt)
    measures = measuring.measure(order.root, order.path)
    hardest = f", hardest {measures.hardest.complexity}" if measures.hardest else ""
    return _answer(step, f"{judging.plural(measures.lines, 'line')}{hardest}", measures)


def judge(step: AgentStepSpec) -> StepOutcome:
    """Scores a file. Pure: the same order gives the same score."""
    order = JudgeOrder.model_validate_json(step.prompt)
    judgement = judging.judge(order.file, order.measures)
    return _answer(step, f"{judgement.score}: {judgement.verdict}", judgement)


def summarise(step: AgentStepSpec) -> StepOutcome:
    """Presents a file in a paragraph. Pure: the same order gives the same paragraph."""
    order = SummaryOrder.model_validate_json(step.prompt)
    summary = judging.summarise(order.file, order.judgement)
    presented = WorstFile(
        path=order.file.path,
        score=order.judgement.score,
        verdict=order.judgement.verdict,
        reasons=order.judgement.reasons,
        summary=summary,
        findings=order.file.findings[:PRESENTED_FINDINGS],
        more=max(0, sum(order.file.severities.values()) - PRESENTED_FINDINGS),
    )
    return _answer(step, summary, presented)


def publish(step: AgentStepSpec, context: BlockingStepContext) -> StepOutcome:
    """Writes the report. Running twice writes it twice, and keeps the report before it only once."""
    report = Report.model_validate_json(step.prompt)
    body = render(report, datetime.now(UTC).astimezone())
    published = publishing.publish(report.output, report.edition, body, context.progress)
    return _answer(step, published.path, published)


def verify(step: AgentStepSpec) -> str:
    """Checks the report on disk and the files it speaks of. Running twice checks twice."""
    order = VerifyOrder.model_validate_json(step.prompt)
    return publishing.verify(order.publication, order.root, order.digests)


def withdraw(step: AgentStepSpec) -> str:
    """Takes an edition back. Running twice finds it gone, and leaves what is there."""
    order = EditionOrder.model_validate_json(step.prompt)
    return publishing.withdraw(order.output, order.edition)


def archive(step: AgentStepSpec) -> str:
    """Keeps the report before as the previous one. Running twice finds it kept."""
    order = EditionOrder.model_validate_json(step.prompt)
    return publishing.archive(order.output, order.edition)


def _answer(step: AgentStepSpec, line: str, value: BaseModel) -> StepOutcome:
    """A line for people, and the value for the workflow."""
    structured = value.model_dump(mode="json", exclude_defaults=True)
    return StepOutcome(
        task_id=step.task_id,
        agent=step.agent,
        output=line,
        success=True,
        structured=structured,
    )
