"""How large, how tangled and how restless a file is."""

from __future__ import annotations

from pathlib import Path

from examples.audit.findings import Function, Measures
from examples.audit.source import NOT_PYTHON, FunctionNode, Source, code_lines, complexity
from examples.audit.tree import git
from workflows.errors import StepFailed

CHURN_PERIOD = "1 year ago"


def measure(root: str, path: str) -> Measures:
    """The measures of a file; its functions count as none where it does not parse."""
    try:
        content = (Path(root) / path).read_bytes()
    except OSError as error:
        raise StepFailed(f"{path!r} cannot be read: {error.strerror}.") from None
    try:
        functions = sizes(Source.parsed(path, content))
    except NOT_PYTHON:
        functions = []  # the inspection says what is wrong with it
    commits, authors = _churn(root, path)
    return Measures(
        lines=len(content.splitlines()),
        functions=len(functions),
        hardest=functions[0] if functions else None,
        commits=commits,
        authors=authors,
    )


def sizes(source: Source) -> list[Function]:
    """The functions of a file, the hardest first."""
    sized = [_sized(function) for function in source.functions]
    return sorted(sized, key=lambda function: (-function.complexity, -function.lines, function.line))


def _sized(function: FunctionNode) -> Function:
    return Function(
        name=function.name, line=function.lineno, lines=code_lines(function), complexity=complexity(function)
    )


def _churn(root: str, path: str) -> tuple[int | None, int | None]:
    """Commits and authors of the last year; None for both where git does not know the file."""
    if not git(Path(root), "ls-files", "--cached", "--", path):
        return None, None
    logged = git(Path(root), "log", f"--since={CHURN_PERIOD}", "--format=%ae", "--", path)
    if logged is None:  # a repository without a commit
        return None, None
    authors = logged.splitlines()
    return len(authors), len(set(authors))
