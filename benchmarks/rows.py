"""What was measured, as rows of the table: each beside its target.

Law: a ratio is judged by the median of its pairs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.measure import Comparison, Cost, Ratio
from benchmarks.results import NO_SIDE, NO_TARGET, Result
from benchmarks.stopwatch import Activation

EVENTS_PER_STEP = 3
WORKFLOW_TASKS, HISTORY_BYTES, WALL, REPLAY = 1.1, 1.2, 1.15, 1.5
# What a convenience may cost: a tenth more scheduling, a fifth more history (each step's summary is in it).
OUR_SHARE = 0.1
# Of the time of a row of steps, what is perdure's own.
LONGEST_ACTIVATION_SECONDS = 0.5
# The SDK gives up on an activation after 2 s; a machine four times as slow must still do.


def compared(
    comparison: Comparison,
    *,
    history_bytes: float | None = HISTORY_BYTES,
    wall: float | None = WALL,
    replay: float | None = REPLAY,
) -> list[Result]:
    """What a case costs by verbs and by hand. A target of None is none."""
    return [
        _events(comparison),
        _ratio(comparison, "workflow task events", lambda cost: cost.workflow_task_events, WORKFLOW_TASKS, ",.0f"),
        _ratio(comparison, "history bytes", lambda cost: cost.history_bytes, history_bytes, ",.0f"),
        _ratio(comparison, "wall seconds", lambda cost: cost.wall_seconds, wall, ".2f"),
        _ratio(comparison, "CPU seconds", lambda cost: cost.cpu_seconds, None, ".2f"),
        _sides(
            comparison,
            "replay seconds",
            (comparison.verbs_replay_seconds, comparison.hand_replay_seconds),
            replay,
            ".2f",
        ),
    ]


def _events(comparison: Comparison) -> Result:
    verbs, hand = (
        f"{statistics.mean(cost.activity_events for cost in costs) / comparison.case.steps:g}"
        for costs in (comparison.verbs, comparison.hand)
    )
    exact = all(cost.activity_events == EVENTS_PER_STEP * comparison.case.steps for cost in comparison.verbs)
    target = f"exactly {EVENTS_PER_STEP}"
    return Result(comparison.case.name, "activity events a step", target, verbs, verbs, hand, exact)


def _ratio(comparison: Comparison, what: str, read: Callable[[Cost], float], most: float | None, form: str) -> Result:
    sides = ([read(cost) for cost in comparison.verbs], [read(cost) for cost in comparison.hand])
    return _sides(comparison, what, sides, most, form)


def _sides(
    comparison: Comparison, what: str, sides: tuple[list[float], list[float]], most: float | None, form: str
) -> Result:
    ratio = Ratio.of(*sides)
    verbs, hand = (format(statistics.median(side), form) for side in sides)
    target, is_met = (NO_TARGET, True) if most is None else (f"<= {most:g}", ratio.median <= most)
    return Result(comparison.case.name, what, target, str(ratio), verbs, hand, is_met)


def longest(case: str, verbs: Activation, by_hand: str) -> Result:
    """The longest activation of a case."""
    is_met = verbs.wall_seconds < LONGEST_ACTIVATION_SECONDS
    target, value = f"< {LONGEST_ACTIVATION_SECONDS:g} s", f"{verbs.wall_seconds:.3f} s"
    return Result(case, "longest activation", target, value, told(verbs), by_hand, is_met)


def told(activation: Activation) -> str:
    """An activation, in short."""
    return f"{activation.wall_seconds:.3f} s (CPU {activation.cpu_seconds:.3f} s, {activation.jobs} jobs)"


def shares(comparison: Comparison) -> list[Result]:
    """Where the time of a step in a row goes: milliseconds a step, and perdure's own part of them.

    Workflow code is our own as far as it takes longer than by hand. The activity is the same on both sides, and the
    echo agent takes no time, so all of it counts as ours.
    """
    rows = [
        _milliseconds(comparison, "all", lambda cost: cost.wall_seconds),
        _milliseconds(comparison, "in workflow activations", lambda cost: cost.workflow_seconds),
        _milliseconds(comparison, "in the activity", lambda cost: cost.step_seconds),
        _milliseconds(comparison, "in SDK, client, server and waiting", _elsewhere),
    ]
    share = statistics.median(
        (verbs.workflow_seconds - hand.workflow_seconds + verbs.step_seconds) / verbs.wall_seconds
        for verbs, hand in zip(comparison.verbs, comparison.hand, strict=True)
    )
    value, target = f"{share:.1%}", f"< {OUR_SHARE:.0%}"
    return [
        *rows,
        Result(comparison.case.name, "perdure's own share", target, value, value, NO_SIDE, share < OUR_SHARE),
    ]


def _elsewhere(cost: Cost) -> float:
    return cost.wall_seconds - cost.workflow_seconds - cost.step_seconds


def _milliseconds(comparison: Comparison, where: str, read: Callable[[Cost], float]) -> Result:
    verbs, hand = (
        [1_000 * read(cost) / comparison.case.steps for cost in side] for side in (comparison.verbs, comparison.hand)
    )
    return _sides(comparison, f"ms a step, {where}", (verbs, hand), None, ".2f")
