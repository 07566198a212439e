"""Prints the section of a changelog that a version has; stdin is `<version> <path>`.

A version without a section, or with an empty one, is an error: nobody could say what is being released.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def section(changelog: str, version: str) -> str:
    """What stands below the heading of a version. Raises ValueError where there is nothing."""
    found = re.search(rf"^## {re.escape(version)}\b[^\n]*\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None:
        versions = ", ".join(re.findall(r"^## (\S+)", changelog, re.MULTILINE))
        raise ValueError(f"it has no section for {version!r}; the versions are {versions}")
    if not re.search(r"^- ", found[1], re.MULTILINE):
        raise ValueError(f"its section for {version!r} names no change")
    return found[1].strip()


def main() -> int:
    """The exit status."""
    version, _, path = sys.stdin.read().strip().partition(" ")
    try:
        print(section(Path(path).read_text(encoding="utf-8"), version))
    except (OSError, ValueError) as error:
        print(f"changelog {path!r} cannot be used: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
