"""How full the history of a run may get.

Temporal ends a run whose history reaches 51,200 events or 50 MB, and all that it knows is lost.
Law: near that nothing more begins but what undoes, so that the run ends with what it has done.
"""

from __future__ import annotations

from temporalio import workflow

from workflows import wire
from workflows.run import compensating

MOST_EVENTS = 40_000
MOST_BYTES = 35_000_000
# What is left is for what is in flight, and for compensations.

HOLDS = "the run's history holds"
"""What a refusal begins with: a stage that failed by it never ran."""


def refuses_stages() -> str | None:
    """Why no further stage, round or item of a graph may begin; None while one may."""
    if compensating.get() or not (_has_most_events() or (_has_most_bytes() and _is_of_today())):
        return None
    return _told(
        "Divide the work over several runs, or over the graphs of a program that continues as new between them."
    )


def refuses_slices() -> str | None:
    """Why no further slice of a fan-out may begin; None while one may."""
    if not (_has_most_events() or _has_most_bytes()) or (compensating.get() and _is_of_today()):
        return None
    return _told("Shorten prompts and outputs, or divide the steps over several runs.")


def _has_most_events() -> bool:
    return workflow.info().get_current_history_length() >= MOST_EVENTS


def _has_most_bytes() -> bool:
    return workflow.info().get_current_history_size() >= MOST_BYTES


def _is_of_today() -> bool:
    """Whether bytes count for stages too, and what undoes may always begin. Asked only where it matters: the answer
    leaves a marker."""
    return workflow.patched(wire.FULL_HISTORIES_PATCH)


def _told(advice: str) -> str:
    events, size = workflow.info().get_current_history_length(), workflow.info().get_current_history_size()
    return f"{HOLDS} {events:,} events and {size / 1e6:.1f} MB, and Temporal ends a run at 51,200 or 50 MB. {advice}"
