"""The report in Markdown: first where to begin, then what was found, last what was not looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import PurePath

from examples.audit.findings import Finding, PlacedFinding, PlacedFunction, Report, Tool, WorstFile
from examples.audit.judging import counted, plural

RUFF_RULES = 15
RUFF_SETTINGS = "with the settings of this tree; where it has none, with those of the folder that the worker runs in"


def render(report: Report, written: datetime) -> str:
    """The report's text."""
    blocks = [
        *_head(report, written),
        *_worst(report),
        *_listed(report),
        *_hardest(report.hardest),
        *_rules(report),
        *_ruff(report.ruff, report.root),
        *_limits(report),
    ]
    return "\n\n".join(blocks) + "\n"


def _head(report: Report, written: datetime) -> Iterator[str]:
    yield f"# Audit of {PurePath(report.root).name or report.root}"
    who = "as git lists them" if report.source == "git" else "as its folders hold them"
    sizes = (plural(report.files, "Python file"), plural(report.functions, "function"), plural(report.lines, "line"))
    looked_at = f"{', '.join(sizes)}, {who}"
    yield f"`{report.root}` · {looked_at} · {written:%Y-%m-%d %H:%M} · run `{report.edition}`"
    yield f"**Found: {counted(report.severities)}.** {_verdict(report)}"


def _verdict(report: Report) -> str:
    if report.severities.get("error"):
        return "The errors are wrong as they stand; begin there."
    if report.severities.get("warning"):
        return "Nothing is wrong as it stands; the warnings are where the next fault will come from."
    if report.severities.get("note"):
        return "Nothing is wrong and nothing is urgent; the notes are questions of upkeep."
    ruff = sum(count for _, _, count in report.ruff.rules)
    return f"Ruff has {plural(ruff, 'finding')}, below." if ruff else "Nothing to do."


def _worst(report: Report) -> Iterator[str]:
    if not report.worst:
        return
    is_urgent = report.severities.get("error") or report.severities.get("warning")
    yield "## Where to begin" if is_urgent else "## Where the next fault is likeliest"
    yield _table(("file", "why", "score"), (_worst_row(file) for file in report.worst))
    yield "Scores go to 100: findings count for half, then hard functions, changes in the last year, and size."
    for file in report.worst:
        if file.findings:
            yield f"### {file.path}"
            yield file.summary
            more = [f"- and {plural(file.more, 'finding')} more"] if file.more else []
            yield "\n".join([*(_item(finding) for finding in file.findings), *more])


def _worst_row(file: WorstFile) -> tuple[str, ...]:
    return f"`{file.path}`", f"**{file.verdict}**: {'; '.join(file.reasons) or 'little'}", str(file.score)


def _item(finding: Finding) -> str:
    return f"- line {finding.line}: {finding.message} ({finding.severity}: {finding.rule})"


def _listed(report: Report) -> Iterator[str]:
    for severity, title in (("error", "Errors"), ("warning", "Warnings")):
        by_rule: dict[str, list[PlacedFinding]] = {}
        for placed in report.listed:
            if placed.finding.severity == severity:
                by_rule.setdefault(placed.finding.rule, []).append(placed)
        if by_rule:
            yield f"## {title}"
        for rule, same in sorted(by_rule.items(), key=lambda one: (len(one[1]), one[0])):  # what is rare is news
            yield f"**{rule}**"
            yield "\n".join(f"- `{one.path}:{one.finding.line}` {one.finding.message}" for one in same)
    if report.unlisted:
        yield f"Not listed here, and counted below: {counted(report.unlisted)}."


def _hardest(functions: tuple[PlacedFunction, ...]) -> Iterator[str]:
    if functions:
        yield "## Hardest functions"
        yield "Those with the most independent paths: the dearest to test, and the likeliest to hide a fault."
        yield _table(("where", "function", "lines", "paths"), (_function_row(one) for one in functions))


def _function_row(placed: PlacedFunction) -> tuple[str, ...]:
    function = placed.function
    return f"`{placed.path}:{function.line}`", f"`{function.name}`", str(function.lines), str(function.complexity)


def _rules(report: Report) -> Iterator[str]:
    if report.rules:
        yield "## Findings by rule"
        most_first = sorted(report.rules.items(), key=lambda one: (-one[1], one[0]))
        yield _table(("rule", "findings"), ((rule, f"{count:,}") for rule, count in most_first))


def _ruff(ruff: Tool, root: str) -> Iterator[str]:
    yield "## Ruff"
    if ruff.failure:
        yield f"Ruff could not be asked: {ruff.failure}"
    elif not ruff.rules:
        yield f"Ruff finds nothing, {RUFF_SETTINGS}."
    else:
        total = sum(count for _, _, count in ruff.rules)
        yield f"{plural(total, 'finding')}, {RUFF_SETTINGS}:"
        yield _table(
            ("code", "name", "findings"), ((code, name, f"{count:,}") for code, name, count in ruff.rules[:RUFF_RULES])
        )
        if len(ruff.rules) > RUFF_RULES:
            rest = sum(count for _, _, count in ruff.rules[RUFF_RULES:])
            yield f"{plural(len(ruff.rules) - RUFF_RULES, 'more rule')} with {plural(rest, 'finding')} together."
        yield f"`ruff check {root}` lists them."


def _limits(report: Report) -> Iterator[str]:
    yield "## What was not looked at"
    skipped = [f"- {reason}: {count:,}" for reason, count in sorted(report.skipped.items())]
    failed = [f"- step `{step}`: {reason}" for step, reason in report.failures.items()]
    yield "\n".join([*skipped, *failed]) or "Every Python file was inspected."
    yield "A line with a `noqa` comment that fits a finding accepts it. Rules that are unsure keep silent."


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    ruler = ["---"] * (len(head) - 1) + ["---:"]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, tuple(ruler), *rows))
