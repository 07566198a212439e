"""What the steps of an audit tell one another.

Law: an answer stays small whatever the file or the tree holds; what it leaves out is counted in it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first. An error is wrong as it stands, a warning will hurt, a note is a question of upkeep."""

FINDINGS_PER_FILE = 25
# About 4 KB as JSON. A run keeps every step's answer in its history: 2,000 files fit well into the 50 MB it may hold.

HARDEST_PER_FILE = 3


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Model):
    """Where upkeep becomes a finding."""

    function_lines: PositiveInt = 60
    """Without the docstring; a function that is twice as long is a warning, else a note."""
    parameters: PositiveInt = 6
    """Positional ones; keyword-only parameters name themselves where they are called."""
    nesting: PositiveInt = 4
    complexity: PositiveInt = 15
    """Independent paths through a function (McCabe, 1976)."""
    file_lines: PositiveInt = 800


class AuditRequest(_Model):
    """The input of an audit; everything has a default."""

    path: str = Field(default=".", min_length=1)
    """The folder to audit; a relative one is seen from the worker's folder."""
    output: str = Field(default=".perdure/audit-report.md", pattern=r"\.md$")
    """Where the report goes; a relative path is seen from the worker's folder."""
    worst_files: int = Field(default=10, ge=0, le=100)
    """How many files are measured, judged and summarised."""
    max_files: int = Field(default=2_000, ge=1, le=10_000)
    """How many files are inspected; a report says how many were left out."""
    fail_on: Severity | None = None
    """The run fails when it finds this or worse; its report stays."""
    limits: Limits = Limits()


class InventoryOrder(_Model):
    """What the agent `inventory` is asked."""

    path: str
    max_files: int


class Inventory(_Model):
    """The Python files of a tree."""

    root: str
    """Absolute."""
    files: tuple[str, ...]
    """Relative to the root, sorted."""
    source: Literal["git", "folders"]
    """Who knew the files: git, which also knows what is ignored, or a walk through the folders."""
    skipped: dict[str, int] = {}
    """Files that were not taken, by reason."""


class InspectOrder(_Model):
    """What the agent `inspect` is asked."""

    root: str
    path: str
    limits: Limits = Limits()


class Finding(_Model):
    """One thing that is wrong, or may be, at one place."""

    line: int
    rule: str
    severity: Severity
    message: str


class Function(_Model):
    """The size of a function."""

    name: str
    line: int
    lines: int
    complexity: int


class FileReport(_Model):
    """What the inspection of a file found."""

    path: str
    lines: int
    digest: str
    """Of the bytes that were read: the findings hold for these."""
    findings: tuple[Finding, ...] = ()
    """The worst first, at most `FINDINGS_PER_FILE`."""
    severities: dict[Severity, int] = {}
    """Counts of all findings, also of those left out."""
    rules: dict[str, int] = {}
    functions: int = 0
    hardest: tuple[Function, ...] = ()
    """Those with the most paths, at most `HARDEST_PER_FILE`."""


class MeasureOrder(_Model):
    """What the agent `measure` is asked."""

    root: str
    path: str


class Measures(_Model):
    """How large, how tangled and how restless a file is."""

    lines: int
    functions: int
    hardest: Function | None = None
    commits: int | None = None
    """In the last year; None where git does not know the file."""
    authors: int | None = None


class JudgeOrder(_Model):
    """What the agent `judge` is asked."""

    file: FileReport
    measures: Measures


class Judgement(_Model):
    """How urgent a file is, and why."""

    score: int = Field(ge=0, le=100)
    verdict: Literal["act now", "plan it", "keep an eye on it", "in good shape"]
    reasons: tuple[str, ...]
    """The heaviest first."""
    measures: Measures


class SummaryOrder(_Model):
    """What the agent `summarise` is asked."""

    file: FileReport
    judgement: Judgement


class WorstFile(_Model):
    """A file as the report presents it."""

    path: str
    score: int
    verdict: str
    reasons: tuple[str, ...] = ()
    summary: str
    findings: tuple[Finding, ...] = ()
    """Its worst."""
    more: int = 0
    """Findings beyond those."""


class PlacedFinding(_Model):
    """A finding with its file."""

    path: str
    finding: Finding


class PlacedFunction(_Model):
    """A function with its file."""

    path: str
    function: Function


class Tool(_Model):
    """What a linter said about the whole tree."""

    rules: tuple[tuple[str, str, int], ...] = ()
    """Code, name and count."""
    failure: str | None = None
    """Why there is nothing to say."""


class Report(_Model):
    """Everything that the report tells; what the agent `publish` is asked."""

    edition: str
    """The run that wrote it."""
    output: str
    root: str
    source: str
    files: int
    lines: int
    severities: dict[Severity, int]
    rules: dict[str, int]
    functions: int = 0
    hardest: tuple[PlacedFunction, ...] = ()
    worst: tuple[WorstFile, ...] = ()
    listed: tuple[PlacedFinding, ...] = ()
    unlisted: dict[Severity, int] = {}
    """Findings that are counted and not listed."""
    ruff: Tool = Tool()
    skipped: dict[str, int] = {}
    failures: dict[str, str] = {}
    """Steps that failed, with their reason."""


class Publication(_Model):
    """A report on disk."""

    path: str
    """Absolute."""
    digest: str
    edition: str


class VerifyOrder(_Model):
    """What the agent `verify` is asked."""

    publication: Publication
    root: str
    digests: dict[str, str]
    """Of the inspected files."""


class EditionOrder(_Model):
    """What the agents `withdraw` and `archive` are asked."""

    output: str
    edition: str


class AuditSummary(_Model):
    """The result of an audit; the whole of it is in the report."""

    root: str
    report: str
    """Absolute path."""
    files: int
    lines: int
    findings: dict[Severity, int]
    worst_files: tuple[str, ...] = ()
    """Each with its score, the most urgent first."""
    ruff: str
    failed_steps: int = 0
