"""From the outcomes of the steps to the report.

Pure: the workflow calls these functions, and a replay calls them again. A step that
failed becomes a line of the report.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from examples.audit.findings import (
    SEVERITIES,
    AuditSummary,
    FileReport,
    Inventory,
    PlacedFinding,
    PlacedFunction,
    Publication,
    Report,
    Severity,
    Tool,
    WorstFile,
)
from examples.audit.judging import SIMPLE_PATHS, counted, plural
from workflows import PerdureError, StepOutcome

Answer = TypeVar("Answer", bound=BaseModel)

LISTED_FINDINGS = 300
# About 75 KB in the report, and more than anybody works through before the next audit.
HARDEST_FUNCTIONS = 10
LISTED: tuple[Severity, ...] = ("error", "warning")
"""Notes are counted by rule: they are listed only for the worst files."""


class AuditFailed(PerdureError):
    """The audit could not be made, or its report not be published; the message says why."""


@dataclass(frozen=True)
class Inspected:
    """What the phase `inspect` brought."""

    reports: list[FileReport]
    ruff: Tool
    failures: dict[str, str]
    """Reason by step."""


@dataclass(frozen=True)
class Suspect:
    """A file that goes through the pipeline."""

    root: str
    file: FileReport


@dataclass(frozen=True)
class Judged:
    """What the pipeline brought."""

    worst: list[WorstFile]
    failures: dict[str, str]


def answer_of(outcome: StepOutcome | None, model: type[Answer]) -> Answer:
    """What an agent returned; raises `AuditFailed` with the reason where its step failed."""
    if outcome is None or not outcome.success:
        raise AuditFailed(reason(outcome))
    return model.model_validate(outcome.structured)


def reason(outcome: StepOutcome | None) -> str:
    """Why a step failed, in one line that ends with a full stop."""
    text = "it never began" if outcome is None else outcome.error or outcome.output
    return " ".join(text.split()).rstrip(".") + "."


def inspected(ruff: StepOutcome, outcomes: Sequence[StepOutcome]) -> Inspected:
    """The reports of the files, and the reasons of those that could not be inspected."""
    return Inspected(
        reports=[answer_of(outcome, FileReport) for outcome in outcomes if outcome.success],
        ruff=_ruff(ruff),
        failures={outcome.task_id: reason(outcome) for outcome in outcomes if not outcome.success},
    )


def _ruff(outcome: StepOutcome) -> Tool:
    """Ruff's counts by rule, the most frequent first; syntax errors have no code."""
    if not outcome.success:
        return Tool(failure=reason(outcome))
    try:
        rules = tuple((str(row["code"] or "syntax"), str(row["name"]), int(row["count"])) for row in _rows(outcome))
    except (ValueError, KeyError, TypeError):
        return Tool(failure="it did not answer with the counts that `ruff check --statistics` gives as JSON.")
    return Tool(rules=rules)


def _rows(outcome: StepOutcome) -> list[dict[str, Any]]:
    rows = json.loads(outcome.output or "[]")
    if not isinstance(rows, list):
        raise TypeError(type(rows).__name__)
    return rows


def judged(suspects: Sequence[Suspect], ended: Sequence[StepOutcome | None]) -> Judged:
    """The files that went through the whole pipeline, the most urgent first, and the reasons of the others."""
    files, failures = [], {}
    for suspect, outcome in zip(suspects, ended, strict=True):
        if outcome is not None and outcome.success:
            files.append(answer_of(outcome, WorstFile))
        else:
            failures[outcome.task_id if outcome else f"judge {suspect.file.path}"] = reason(outcome)
    return Judged(sorted(files, key=lambda file: (-file.score, file.path)), failures)


def assemble(tree: Inventory, found: Inspected, urgent: Judged, *, output: str, edition: str) -> Report:
    """Everything that the report tells."""
    severities = _summed(report.severities for report in found.reports)
    listed = list(_placed(found.reports))[:LISTED_FINDINGS]
    unlisted = Counter(severities)
    unlisted.subtract(Counter(one.finding.severity for one in listed))
    return Report(
        edition=edition,
        output=output,
        root=tree.root,
        source=tree.source,
        files=len(found.reports),
        lines=sum(report.lines for report in found.reports),
        severities=severities,
        rules=_summed(report.rules for report in found.reports),
        functions=sum(report.functions for report in found.reports),
        hardest=tuple(_hardest(found.reports)),
        worst=tuple(urgent.worst),
        listed=tuple(listed),
        unlisted={severity: count for severity, count in unlisted.items() if count > 0},
        ruff=found.ruff,
        skipped=tree.skipped,
        failures={**found.failures, **urgent.failures},
    )


def _hardest(reports: Sequence[FileReport]) -> list[PlacedFunction]:
    functions = [PlacedFunction(path=report.path, function=each) for report in reports for each in report.hardest]
    functions = [one for one in functions if one.function.complexity > SIMPLE_PATHS]
    return sorted(functions, key=lambda one: (-one.function.complexity, -one.function.lines))[:HARDEST_FUNCTIONS]


def _placed(reports: Sequence[FileReport]) -> Iterator[PlacedFinding]:
    """Findings with their files, errors of all files first."""
    for severity in LISTED:
        for report in reports:
            for finding in report.findings:
                if finding.severity == severity:
                    yield PlacedFinding(path=report.path, finding=finding)


Key = TypeVar("Key", bound=str)


def _summed(counts: Iterable[dict[Key, int]]) -> dict[Key, int]:
    total: Counter[Key] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def summary(report: Report, publication: Publication) -> AuditSummary:
    """The result of the run."""
    rules, findings = len(report.ruff.rules), sum(count for _, _, count in report.ruff.rules)
    ruff = f"{plural(findings, 'finding')} by {plural(rules, 'rule')}" if rules else "no findings"
    return AuditSummary(
        root=report.root,
        report=publication.path,
        files=report.files,
        lines=report.lines,
        findings=report.severities,
        worst_files=tuple(f"{file.score} {file.path}" for file in report.worst),
        ruff=f"failed: {report.ruff.failure}" if report.ruff.failure else ruff,
        failed_steps=len(report.failures) + bool(report.ruff.failure),
    )


def gate(report: Report, fail_on: Severity | None) -> str:
    """What was found of that severity or worse, in words; "" for nothing."""
    if fail_on is None:
        return ""
    forbidden = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    found = {severity: count for severity, count in report.severities.items() if severity in forbidden}
    return counted(found) if any(found.values()) else ""
