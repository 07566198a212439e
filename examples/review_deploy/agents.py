"""Three reviewers of a patch: each finds what its rules know, and votes to reject where it found something.

Law: a reviewer judges the lines that come, never those that were there before. Running twice reads twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from pydantic import JsonValue

from examples.review_deploy import patch
from workflows import AgentStepSpec

Rules = Mapping[str, re.Pattern[str]]
"""What is wrong with a line that a pattern fits."""

SECRETS: Rules = {
    "a credential is written down": re.compile(
        r"""(api_?key|token|password|secret)\w*\s*=\s*["'][^"'\s]{8,}""", re.IGNORECASE
    ),
    "a private key is written down": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
DANGERS: Rules = {
    "eval runs whatever it is given": re.compile(r"\b(eval|exec)\("),
    "a shell reads the command": re.compile(r"shell\s*=\s*True"),
    "a bare except hides every fault": re.compile(r"^\s*except\s*:"),
}
QUOTED = re.compile(r"""(["']).*?(\1|$)""")
LEFTOVERS: Rules = {"a print was left behind": re.compile(r"^\s*print\(")}


def secrets(step: AgentStepSpec) -> str | dict[str, JsonValue]:
    """Looks for credentials."""
    return _vote(step, _broken(SECRETS, patch.read(step.prompt)))


def safety(step: AgentStepSpec) -> str | dict[str, JsonValue]:
    """Looks for what runs foreign code or hides faults."""
    return _vote(step, _broken(DANGERS, patch.read(step.prompt)))


def upkeep(step: AgentStepSpec) -> str | dict[str, JsonValue]:
    """Looks for code without a test, and for leftovers."""
    files = patch.read(step.prompt)
    return _vote(step, [*_untested(files), *_broken(LEFTOVERS, files)])


def _vote(step: AgentStepSpec, findings: list[str]) -> str | dict[str, JsonValue]:
    """The choice, where the step asks for one; else the findings themselves."""
    if step.output_schema is not None:
        return {"choice": "reject" if findings else "approve", "findings": list[JsonValue](findings)}
    return "\n".join(f"- {finding}" for finding in findings) or "- nothing to object to"


def _broken(rules: Rules, files: tuple[patch.FilePatch, ...]) -> list[str]:
    return [
        f"{file.path}: {fault}: {_shown(line)}"
        for file in files
        for line in file.added
        for fault, pattern in rules.items()
        if pattern.search(line)
    ]


def _shown(line: str) -> str:
    """A line without what stands in quotes, for a finding must not spread the secret that it is about."""
    masked = QUOTED.sub('"…"', line.strip())
    return f"`{masked}`"


def _untested(files: tuple[patch.FilePatch, ...]) -> list[str]:
    changed = {PurePosixPath(file.path).name for file in files}
    return [
        f"{file.path}: no test came with it; a change of test_{name} was expected"
        for file in files
        if (name := PurePosixPath(file.path).name).endswith(".py") and not name.startswith("test_")
        if f"test_{name}" not in changed
    ]
