"""What the agents of the research say to each other: findings, and which studies are too small to rest on.

Law: a finding reads the same in every answer, so that whoever reads an answer can check it against the studies. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

LINE = re.compile(r"(?P<measure>[a-z][a-z ]*) (?P<change>[+-]\d+) % \((?P<source>[\w.-]+), (?P<streets>\d+) streets\)")
WEAK = re.compile(r"weak: (?P<source>[\w.-]+)")
SMALL = 5
# Streets. Of fewer, one accident more or less is the whole difference.
WANTED_LESS = frozenset({"collisions", "noise", "emissions", "journey time", "bus delay"})
"""Measures that are better when they fall; the others are better when they rise."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One measured change."""

    measure: str
    change: int
    """In per cent."""
    source: str
    streets: int

    @property
    def speaks_for(self) -> bool:
        """Whether it speaks for the measure that was tried."""
        return (self.change < 0) == (self.measure in WANTED_LESS)

    def __str__(self) -> str:
        return f"{self.measure} {self.change:+d} % ({self.source}, {self.streets} streets)"


def findings(text: str) -> list[Finding]:
    """Every finding that a text names, once, in order."""
    found = {
        Finding(line["measure"].strip(), int(line["change"]), line["source"], int(line["streets"]))
        for line in LINE.finditer(text)
    }
    return sorted(found)


def weak_sources(text: str) -> set[str]:
    """The studies that a text calls weak."""
    return {found["source"] for found in WEAK.finditer(text)}


def listed(heading: str, lines: Iterable[object]) -> str:
    """The lines under a heading; says so where there are none."""
    return f"{heading}:\n" + ("\n".join(f"- {line}" for line in lines) or "- nothing")
