"""What happened to a graph in a run, as a picture of it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

StageState = Literal[
    "succeeded",
    "failed",
    "skipped",
    "compensated",
    "compensation_failed",
    "running",
    "waiting",
    "compensating",
    "cut_off",
    "not_reached",
]
"""How a stage stands in a run; of one that ran several times, how it stands since the last time."""

UNDOING: dict[StageState, StageState] = {
    "compensated": "succeeded",
    "compensation_failed": "failed",
    "compensating": "running",
}
"""How that stands which undoes a stage, by the state of the stage."""


@dataclass(frozen=True)
class Walk:
    """What happened to a graph in a run."""

    status: str
    """Of the graph: `completed`, `running`, `not begun`, …"""
    states: Mapping[str, StageState] = field(default_factory=dict)
    """By stage id; a stage that is not in it was not reached."""
    visits: Mapping[str, int] = field(default_factory=dict)
    """How often each stage ran, compensations apart."""
    taken: frozenset[tuple[str, str]] = frozenset()
    """The transitions that were followed, by the ids of both stages."""
