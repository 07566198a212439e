"""How full the history of a run may get.

Temporal ends a run whose history reaches 51,200 events or 50 MB, and all that it knows is lost.
Law: near that nothing more begins, so that the run ends with what it has done.
"""

from __future__ import annotations

from temporalio import workflow

from workflows.run import compensating

MOST_EVENTS = 40_000
MOST_BYTES = 35_000_000
# What is left is for what is in flight, and for compensations.

HOLDS = "the run's history holds"
"""What a refusal begins with: a stage that failed by it never ran."""


def refuses_stages() -> str | None:
    """Why no further stage, round or item of a graph may begin; None while one may. What undoes always may."""
    events = workflow.info().get_current_history_length()
    if events < MOST_EVENTS or compensating.get():
        return None
    return (
        f"{HOLDS} {events:,} events, and Temporal ends a run at 51,200. Divide the work over several "
        "runs, or over the graphs of a program that continues as new between them."
    )


def refuses_slices() -> str | None:
    """Why no further slice of a fan-out may begin; None while one may."""
    events, size = workflow.info().get_current_history_length(), workflow.info().get_current_history_size()
    if events < MOST_EVENTS and size < MOST_BYTES:
        return None
    return (
        f"{HOLDS} {events:,} events and {size / 1e6:.1f} MB, and Temporal ends a run at 51,200 or "
        "50 MB. Shorten prompts and outputs, or divide the steps over several runs."
    )
