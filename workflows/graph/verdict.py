"""What verify says of a graph: issues, what can be reached, and what a run may cost in agent steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from workflows.graph.locating import Path
from workflows.wire import Stored

Severity = Literal["error", "doubt", "warning"]
"""error: nothing starts. doubt: runs, and is probably not what was meant. warning: worth knowing."""


class Issue(Stored):
    """One thing that is wrong with a graph."""

    severity: Severity
    stage_id: str | None
    """None where the graph as a whole is meant; `outer/inner` inside a sub-workflow."""
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        parts = (self.file, self.line, self.column)
        where = ":".join(str(part) for part in parts if part is not None)
        return f"{where}: {self.message}" if where else self.message


class Estimate(Stored):
    """How many agent steps, if nothing fails; `most` is None where nothing bounds it."""

    least: int
    most: int | None


class RunEstimate(Estimate):
    """The agent steps of a run, and of one execution of each of its stages. Compensations are not in it."""

    stages: dict[str, Estimate]


class Verdict(Stored):
    """What verify found."""

    valid: bool
    """No error was found; doubts are for whoever asked to judge."""
    issues: tuple[Issue, ...]
    reachable_stages: tuple[str, ...]
    unreachable_stages: tuple[str, ...]
    has_cycles: bool
    estimate: RunEstimate | None
    """None where an error stands in the way."""
    waves: tuple[tuple[str, ...], ...]
    """The stages that can be the first to run, the second, …, each where it comes the earliest."""
    left_out: int = 0
    """Issues beyond those that are listed, in a verdict that had to be short."""

    def with_severity(self, *severities: Severity) -> tuple[Issue, ...]:
        """The issues of these severities."""
        return tuple(issue for issue in self.issues if issue.severity in severities)


@dataclass(frozen=True, slots=True)
class Finding:
    """An issue before its place in the text is known."""

    severity: Severity
    message: str
    path: Path = ()
    stage_id: str | None = None
    is_key: bool = False
    """The key itself is meant, not its value."""


def unusable(*issues: Issue) -> Verdict:
    """The verdict on what could not even be read."""
    return Verdict(
        valid=False,
        issues=issues,
        reachable_stages=(),
        unreachable_stages=(),
        has_cycles=False,
        estimate=None,
        waves=(),
    )
