"""The steps of an audit: which agent is asked what.

Pure: the workflow calls these functions, and a replay calls them again.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from examples.audit.assembling import Suspect, answer_of
from examples.audit.findings import (
    AuditRequest,
    EditionOrder,
    FileReport,
    InspectOrder,
    Inventory,
    InventoryOrder,
    Judgement,
    JudgeOrder,
    Limits,
    MeasureOrder,
    Measures,
    Publication,
    Report,
    SummaryOrder,
    VerifyOrder,
)
from workflows import AgentStepSpec, StepOutcome


def ask(agent: str, task_id: str, order: BaseModel, *, answer: type[BaseModel] | None = None) -> AgentStepSpec:
    """A step that gives an agent its order as JSON; with `answer`, the agent must return such an object."""
    prompt = order.model_dump_json(exclude_defaults=True)
    schema = answer.model_json_schema() if answer else None
    return AgentStepSpec(task_id=task_id, agent=agent, prompt=prompt, output_schema=schema)


def take_inventory(request: AuditRequest) -> AgentStepSpec:
    """List the files."""
    return ask("inventory", "inventory", InventoryOrder(path=request.path, max_files=request.max_files))


def ask_ruff(tree: Inventory) -> AgentStepSpec:
    """Let ruff look at the whole tree. Its prompt is the folder: a program knows no orders of ours."""
    return AgentStepSpec(task_id="ruff", agent="ruff", prompt=tree.root)


def inspect_files(tree: Inventory, limits: Limits) -> list[AgentStepSpec]:
    """Inspect each file by itself."""
    orders = [InspectOrder(root=tree.root, path=path, limits=limits) for path in tree.files]
    return [ask("inspect", order.path, order) for order in orders]


def measure(previous: StepOutcome | None, suspect: Suspect) -> AgentStepSpec:
    """First stage of a suspect's chain: how large, how tangled, how restless."""
    path = suspect.file.path
    return ask("measure", f"measure {path}", MeasureOrder(root=suspect.root, path=path))


def judge(previous: StepOutcome | None, suspect: Suspect) -> AgentStepSpec:
    """Second stage: how urgent, and why."""
    order = JudgeOrder(file=suspect.file, measures=answer_of(previous, Measures))
    return ask("judge", f"judge {suspect.file.path}", order, answer=Judgement)


def summarise(previous: StepOutcome | None, suspect: Suspect) -> AgentStepSpec:
    """Last stage: the words for it."""
    order = SummaryOrder(file=suspect.file, judgement=answer_of(previous, Judgement))
    return ask("summarise", f"summarise {suspect.file.path}", order)


def publish(report: Report) -> AgentStepSpec:
    """Write the report."""
    return ask("publish", "publish", report)


def verify(publication: Publication, report: Report, files: Sequence[FileReport]) -> AgentStepSpec:
    """Make sure that the report is in place and that its files are as they were read."""
    digests = {file.path: file.digest for file in files}
    return ask("verify", "verify", VerifyOrder(publication=publication, root=report.root, digests=digests))


def withdraw(report: Report) -> AgentStepSpec:
    """Undo `publish`."""
    return ask("withdraw", "withdraw", EditionOrder(output=report.output, edition=report.edition))


def archive(report: Report) -> AgentStepSpec:
    """Keep the report that was there before."""
    return ask("archive", "archive", EditionOrder(output=report.output, edition=report.edition))
