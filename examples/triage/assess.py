"""Assesses the incident on stdin: severity, team and the sentence that says why, as a line of text.

stdin is one incident as JSON; its `report` is a file of the workspace. A report that cannot be read is an error.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

WEIGHTS = {
    "breach": 6,
    "failed": 2,
    "down": 4,
    "leak": 4,
    "token": 3,
    "data loss": 6,
    "refuse": 2,
    "times out": 2,
    "degraded": 2,
    "slow": 1,
    "wrong": 1,
    "workaround": -2,
    "revoked": -1,
}
"""What a word adds to an incident's weight, once."""
CUSTOMERS = re.compile(r"^Customers affected: (\d+)$", re.MULTILINE)
MANY_CUSTOMERS = 100
CUSTOMERS_WEIGHT = 3
SEVERITIES = ((8, "critical"), (4, "high"), (1, "medium"))
"""From which weight on."""
TEAMS = {
    "security": {"token", "breach", "login", "leak"},
    "payments": {"checkout", "payment", "invoice", "vat"},
    "platform": {"backup", "database", "search", "reindexing", "load balancer", "servers"},
}


def assess(service: str, report: str) -> tuple[str, str, str]:
    """Severity, team and reason of a report. Raises ValueError where it does not say whom it hits."""
    affected = CUSTOMERS.search(report)
    if affected is None:
        raise ValueError("it has no line 'Customers affected: <number>'")
    told = " ".join(report[affected.end() :].split())
    weight = _weight(told) + (CUSTOMERS_WEIGHT if int(affected[1]) >= MANY_CUSTOMERS else 0)
    severity = next((name for least, name in SEVERITIES if weight >= least), "low")
    return severity, _team(f"{service} {told}"), _reason(told)


def _weight(text: str) -> int:
    """What the words of a text weigh together; a word behind "not" or "no" weighs nothing."""
    return sum(
        weight
        for word, weight in WEIGHTS.items()
        if re.search(rf"(?<!\bnot )(?<!\bno )\b{word}s?\b", text, re.IGNORECASE)
    )


def _team(text: str) -> str:
    counts = {team: sum(len(re.findall(rf"\b{word}", text, re.IGNORECASE)) for word in TEAMS[team]) for team in TEAMS}
    return max(counts, key=lambda team: counts[team])


def _reason(told: str) -> str:
    """The first of the sentences that weigh the most."""
    return max(re.split(r"(?<=[.!?]) ", told), key=_weight)


def main() -> int:
    """The exit status."""
    incident = json.loads(sys.stdin.read())
    path = Path(incident["report"])
    try:
        severity, team, reason = assess(incident["service"], path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"report {str(path)!r} of incident {incident['id']} cannot be assessed: {error}", file=sys.stderr)
        return 1
    print(f"{severity} | {incident['id']} | {incident['service']} | {team} | {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
