"""Judges whether a version number fits what has changed. Pure: the same prompt, the same verdict.

Source: Semantic Versioning 2.0.0, points 6 to 8, and the headings of Keep a Changelog 1.1.0.
"""

from __future__ import annotations

import re

from workflows import AgentStepSpec
from workflows.errors import StepFailed

STEPS = ("patch", "minor", "major")
NEEDED = {"Removed": "major", "Changed": "major", "Added": "minor", "Deprecated": "minor"}
"""What a heading asks for; any other asks for a patch version."""
ASKED = re.compile(r"from (?P<old>\d+\.\d+\.\d+) to (?P<new>\d+\.\d+\.\d+)")


def semver(step: AgentStepSpec) -> str:
    """Says which kind of version this is. Raises `StepFailed` where the changes ask for a larger step."""
    asked = ASKED.search(step.prompt)
    if asked is None:
        raise StepFailed("the prompt does not say 'from <version> to <version>', each of three numbers")
    taken = _taken(_numbers(asked["old"]), _numbers(asked["new"]))
    headings = re.findall(r"^### (\w+)", step.prompt, re.MULTILINE)
    needed = max((NEEDED.get(heading, "patch") for heading in headings), key=STEPS.index, default="patch")
    if STEPS.index(taken) < STEPS.index(needed):
        raise StepFailed(
            f"from {asked['old']} to {asked['new']} is a {taken} step, and its changes ask for a {needed} one"
        )
    return f"a {taken} version"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _taken(old: tuple[int, ...], new: tuple[int, ...]) -> str:
    """Which step leads from one version to the other."""
    if new <= old:
        raise StepFailed(f"{'.'.join(map(str, new))} does not follow {'.'.join(map(str, old))}")
    return "major" if new[0] > old[0] else "minor" if new[1] > old[1] else "patch"
