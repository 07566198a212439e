"""Which files are worst, how urgent one is, and the words for it.

Pure: the workflow calls `worst` itself, and a replay calls it again.
"""

from __future__ import annotations

from collections.abc import Iterable

from examples.audit.findings import SEVERITIES, FileReport, Function, Judgement, Measures, Severity

WEIGHTS: dict[Severity, float] = {"error": 12.0, "warning": 4.0, "note": 1.0}
MOST_FROM_FINDINGS = 50.0
MOST_FROM_COMPLEXITY = 25.0
MOST_FROM_CHURN = 15.0
MOST_FROM_SIZE = 10.0
# Together 100. Findings weigh half: they are certain, while the others say how likely and how dear the next fault is.
SIMPLE_PATHS = 8
# Below that a function is understood at sight.
VERDICTS = ((60, "act now"), (30, "plan it"), (12, "keep an eye on it"), (0, "in good shape"))
"""From which score on; one error alone is worth an eye."""


def weight(report: FileReport) -> float:
    """What a file's findings weigh together."""
    return sum(WEIGHTS[severity] * count for severity, count in report.severities.items())


def worst(reports: Iterable[FileReport], count: int) -> list[FileReport]:
    """The files with the heaviest findings and the hardest functions, as far as they have any."""
    ranked = [(weight(report) + excess(report.hardest[:1]), report) for report in reports]
    troubled = [(rank, report) for rank, report in ranked if rank > 0]
    return [report for _, report in sorted(troubled, key=lambda one: (-one[0], -one[1].lines, one[1].path))[:count]]


def excess(hardest: Iterable[Function]) -> int:
    """Paths beyond what is understood at sight."""
    return sum(max(0, function.complexity - SIMPLE_PATHS) for function in hardest)


def judge(report: FileReport, measures: Measures) -> Judgement:
    """How urgent a file is: from its findings, its hardest function, its changes and its size."""
    parts = [
        (min(MOST_FROM_FINDINGS, weight(report)), counted(report.severities)),
        _from_complexity(measures.hardest),
        _from_churn(measures),
        (min(MOST_FROM_SIZE, measures.lines / 100), f"{measures.lines:,} lines"),
    ]
    score = round(sum(points for points, _ in parts))
    told = [reason for points, reason in sorted(parts, key=lambda part: -part[0]) if points >= 1]
    verdict = next(words for least, words in VERDICTS if score >= least)
    return Judgement.model_validate({"score": score, "verdict": verdict, "reasons": told, "measures": measures})


def _from_complexity(hardest: Function | None) -> tuple[float, str]:
    if hardest is None:
        return 0.0, ""
    points = min(MOST_FROM_COMPLEXITY, max(0.0, hardest.complexity - SIMPLE_PATHS))
    return points, f"{hardest.complexity} paths through `{hardest.name}`"


def _from_churn(measures: Measures) -> tuple[float, str]:
    if not measures.commits:
        return 0.0, ""
    return min(MOST_FROM_CHURN, measures.commits / 2), f"{plural(measures.commits, 'change')} in a year"


def summarise(report: FileReport, judgement: Judgement) -> str:
    """A paragraph about a file."""
    measures = judgement.measures
    sentences = [f"{counted(report.severities).capitalize()} in {plural(measures.lines, 'line')}{_changed(measures)}."]
    hardest = measures.hardest
    if hardest and hardest.complexity > SIMPLE_PATHS:
        size = f"{plural(hardest.lines, 'line')}, {hardest.complexity} paths"
        sentences.append(f"Its hardest function is `{hardest.name}` in line {hardest.line} ({size}).")
    if report.findings:
        first = report.findings[0]
        sentences.append(f"Begin with line {first.line}: {first.message}")
    return " ".join(sentences)


def _changed(measures: Measures) -> str:
    if not measures.commits or not measures.authors:
        return ""
    people = plural(measures.authors, "person", "people")
    return f", changed {plural(measures.commits, 'time')} by {people} in the last year"


def counted(severities: dict[Severity, int]) -> str:
    """`1 error, 2 warnings`; `nothing` for nothing."""
    told = [plural(severities[severity], severity) for severity in SEVERITIES if severities.get(severity)]
    return ", ".join(told) or "nothing"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
