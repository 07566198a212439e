"""One file -> its findings: the table of rules, and what accepts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from examples.audit import rules, upkeep
from examples.audit.findings import (
    FINDINGS_PER_FILE,
    HARDEST_PER_FILE,
    SEVERITIES,
    FileReport,
    Finding,
    Limits,
    Severity,
)
from examples.audit.imports import unused_imports
from examples.audit.measuring import sizes
from examples.audit.source import NOT_PYTHON, Source, digest
from workflows.errors import StepFailed

UNREADABLE = "does-not-parse"


@dataclass(frozen=True)
class Rule:
    """How a rule is called in a report, how much it weighs, and which `noqa` codes accept it."""

    name: str
    severity: Severity
    find: Callable[[Source, Limits], Iterator[tuple[int, str]]]
    codes: tuple[str, ...] = ()


def _plain(
    find: Callable[[Source], Iterator[tuple[int, str]]],
) -> Callable[[Source, Limits], Iterator[tuple[int, str]]]:
    return lambda source, _: find(source)


RULES = (
    Rule("swallowed-interrupt", "error", _plain(rules.swallowed_interrupts), ("BLE001", "E722", "S110", "SIM105")),
    Rule("duplicate-key", "error", _plain(rules.duplicate_keys), ("F601", "PIE794")),
    Rule("repeated-definition", "error", _plain(rules.repeated_definitions), ("F811",)),
    Rule("assert-on-tuple", "error", _plain(rules.assertions_on_tuples), ("F631",)),
    Rule("not-implemented", "error", _plain(rules.raised_not_implemented), ("F901",)),
    Rule("forgotten-await", "error", _plain(rules.forgotten_awaits)),
    Rule("mutable-default", "error", _plain(rules.mutable_defaults), ("B006",)),
    Rule("blocking-call", "warning", _plain(rules.blocking_calls), ("ASYNC251", "ASYNC210", "ASYNC221")),
    Rule("dropped-interrupt", "warning", _plain(rules.dropped_interrupts), ("BLE001", "E722")),
    Rule("ignored-exception", "warning", _plain(rules.ignored_exceptions), ("BLE001", "S110", "SIM105")),
    Rule("forgotten-task", "warning", _plain(rules.forgotten_tasks), ("RUF006",)),
    Rule("shell-command", "warning", _plain(rules.shell_commands), ("S602",)),
    Rule("evaluation", "warning", _plain(rules.evaluations), ("S307", "S102", "PGH001")),
    Rule("wrong-comparison", "warning", _plain(rules.wrong_comparisons), ("E711", "F632")),
    Rule("unreachable-code", "warning", _plain(rules.unreachable_code)),
    Rule("jump-out-of-finally", "warning", _plain(rules.jumps_out_of_finally), ("B012", "SIM107")),
    Rule("unused-import", "warning", _plain(unused_imports), ("F401",)),
    Rule("very-long-function", "warning", upkeep.very_long_functions, ("PLR0915",)),
    Rule("complex-function", "warning", upkeep.complex_functions, ("C901", "PLR0912")),
    Rule("deep-nesting", "warning", upkeep.deep_nesting, ("PLR1702",)),
    Rule("dropped-exception", "note", _plain(rules.dropped_exceptions), ("BLE001",)),
    Rule("long-function", "note", upkeep.long_functions, ("PLR0915",)),
    Rule("many-parameters", "note", upkeep.many_parameters, ("PLR0913", "PLR0917")),
    Rule("missing-docstring", "note", upkeep.missing_docstrings, ("D101", "D102", "D103")),
    Rule("unowned-todo", "note", upkeep.unowned_markers, ("TD002", "TD003", "FIX002")),
    Rule("long-file", "note", upkeep.long_files),
    Rule("shadowed-builtin", "note", _plain(rules.shadowed_builtins), ("A001", "A002")),
)
"""The worst first, as a report lists them. `noqa` codes are ruff's, so that a line is accepted once for both."""


def inspect_file(root: str, path: str, limits: Limits) -> FileReport:
    """The findings of a file, the worst first. Raises `StepFailed` where it cannot be read."""
    try:
        content = (Path(root) / path).read_bytes()
    except OSError as error:
        raise StepFailed(f"{path!r} cannot be read: {error.strerror}.") from None
    source = _parsed(path, content)
    if isinstance(source, Finding):
        functions, findings = [], [source]
    else:
        functions, findings = sizes(source), _findings(source, limits)
    findings.sort(key=lambda one: SEVERITIES.index(one.severity))  # within one, as RULES has them
    return FileReport(
        path=path,
        lines=len(content.splitlines()),
        digest=digest(content),
        findings=tuple(findings[:FINDINGS_PER_FILE]),
        severities=dict(Counter(finding.severity for finding in findings)),
        rules=dict(Counter(finding.rule for finding in findings)),
        functions=len(functions),
        hardest=tuple(functions[:HARDEST_PER_FILE]),
    )


def _parsed(path: str, content: bytes) -> Source | Finding:
    try:
        return Source.parsed(path, content)
    except NOT_PYTHON as error:
        return _unreadable(error)


def _findings(source: Source, limits: Limits) -> list[Finding]:
    return [
        Finding(line=line, rule=rule.name, severity=rule.severity, message=message)
        for rule in RULES
        for line, message in sorted(rule.find(source, limits))
        if not source.is_accepted(line, rule.codes)
    ]


def _unreadable(error: Exception) -> Finding:
    line = (error.lineno or 1) if isinstance(error, SyntaxError) else 1
    said = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
    return Finding(line=line, rule=UNREADABLE, severity="error", message=f"this is no Python that can be read: {said}.")
