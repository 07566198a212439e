"""Puts the assessments of all incidents in order. Pure: the same prompt, the same list."""

from __future__ import annotations

import json
from operator import itemgetter

from workflows import AgentStepSpec

ORDER = ("critical", "high", "medium", "low")


def rank(step: AgentStepSpec) -> str:
    """The incidents as a Markdown table, the worst first; the prompt holds their assessments as a JSON list."""
    rows = [line.strip().split(" | ", 4) for line in json.loads(step.prompt)]
    rows.sort(key=itemgetter(1))
    rows.sort(key=lambda row: ORDER.index(row[0]))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"| severity | incident | service | team | why |\n|---|---|---|---|---|\n{table}"


def headline(step: AgentStepSpec) -> str:
    """One line about a table of incidents: how many there are of each severity, and who must act first."""
    found = [line.strip("| ").split(" | ") for line in step.prompt.splitlines() if line.startswith("| ")]
    rows = [row for row in found if row[0] in ORDER]
    counted = [f"{count} {name}" for name in ORDER if (count := sum(row[0] == name for row in rows))]
    _, incident, service, team, _ = rows[0]
    return f"{', '.join(counted)}. First: {incident} ({service}), {team}."
