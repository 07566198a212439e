"""Reads the study whose path is the last line of stdin and writes what it measured, a finding in a line.

A finding: `collisions -23 % (alder-street.md, 14 streets)`. A study without one, or without its size, is an error.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FINDING = re.compile(
    r"\b(?P<measure>collisions|noise|journey time|bus delay|emissions|walking)\b[^.,]*?"
    r"\b(?P<direction>fell|rose)\s+by\s+(?P<percent>\d+)\s*%",
    re.IGNORECASE,
)
SIZE = re.compile(r"\b(\d+) streets?\b")


def findings(text: str, source: str) -> list[str]:
    """The findings of a study. Raises ValueError where it does not say how many streets it rests on."""
    flowing = " ".join(text.split())
    size = SIZE.search(flowing)
    if size is None:
        raise ValueError(f"{source} does not say how many streets it rests on")
    return [
        f"{found['measure'].lower()} {'-' if found['direction'].lower() == 'fell' else '+'}{found['percent']} % "
        f"({source}, {size[1]} streets)"
        for found in FINDING.finditer(flowing)
    ]


def main() -> int:
    """The exit status."""
    path = Path(sys.stdin.read().rstrip().splitlines()[-1])
    try:
        found = findings(path.read_text(encoding="utf-8"), path.name)
    except (OSError, ValueError) as error:
        print(f"{path} cannot be used: {error}", file=sys.stderr)
        return 1
    if not found:
        print(f"{path} measures nothing that is known", file=sys.stderr)
        return 1
    print("\n".join(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
