"""What was measured against what was promised, as a verdict and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from rich.table import Table

HEAD = ("case", "measured", "target", "result", "by verbs", "by hand", "verdict")

NO_TARGET = "none"
"""A figure that explains others and is promised to nobody."""

NO_SIDE = "–"
"""Nothing that is written by hand does the same."""


@dataclass(frozen=True)
class Result:
    """One promise."""

    case: str
    what: str
    target: str
    value: str
    by_verbs: str
    by_hand: str
    is_met: bool

    @property
    def cells(self) -> tuple[str, ...]:
        """As a row under `HEAD`."""
        verdict = "–" if self.target == NO_TARGET else "met" if self.is_met else "MISSED"
        return (self.case, self.what, self.target, self.value, self.by_verbs, self.by_hand, verdict)


def table(results: Sequence[Result]) -> Table:
    """For the terminal."""
    shown = Table(*HEAD, title="perdure's verbs beside the same work written by hand", title_justify="left")
    for result in results:
        shown.add_row(*result.cells, style=None if result.is_met else "bold red")
    return shown


def markdown(machine: str, results: Sequence[Result], when: date, pairs: int) -> str:
    """For the file: ratios first, then how they came about."""
    rows = [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *(each.cells for each in results))]
    return "\n".join(
        [
            "# What the verbs cost beside the same work written by hand",
            "",
            *rows,
            "",
            f"Measured on {when.isoformat()} in {pairs} pairs: {machine}.",
            "",
            METHOD,
        ]
    )


METHOD = """\
Written by `python -m benchmarks.bench --write`; `make bench` measures anew and fails when a target is missed.

- A ratio is verbs by hand. Both sides run in turns against one embedded server and one worker, with the same activity
  (`run_agent_step`, an echo agent), models, converter, timeouts, retry policy and window. By hand means
  `asyncio.gather` with a semaphore, or a loop, around `workflow.execute_activity`, without summaries
  (`benchmarks/by_hand.py`).
- Each ratio is the median over pairs of runs, and in brackets between which it lay. The columns "by verbs" and
  "by hand" hold the medians.
- CPU seconds are those of the process that holds worker, agents and client. They have no target, and tell how much of
  a wall time was waiting for the server, or for a machine with other work.
- Replay time is that of the SDK's `Replayer` over the histories of the last pair, five times each, in turns.
- The longest activation is the wall time of `WorkflowInstance.activate`, which the SDK's deadlock detector limits to
  2 s, in a worker that runs 500 steps, the workflow and the client in one process. CPU time is its thread's own. The
  median of up to three runs is shown. Of each large graph it is that of one run, however it ends.
- A row of stages is a `StageGraph` run beside the same loop by hand. Its stages have names, events, answers in a state
  and edges, so only its events have a target.
- Reading and judging is `verify_graph` of a text of 3 MB: 10,000 stages with a prompt and a reference each, and 9,999
  edges with a condition each. The median of three, in the CPU time of a process that does nothing else.
- Milliseconds of a step in a row are wall times: of the activations of its run, of its activity, and the rest. Workflow
  code is perdure's as far as it takes longer than by hand; of the activity, which is the same and whose agent takes no
  time, all of it is.
- A worker starts from nothing, as a process: the time is that from its command to the end of a run of one step, which
  waited for it. By hand it is `benchmarks/hand_worker.py`.
- Of two workers, each full, one is killed with SIGKILL: the time is that until a step that was in flight there runs on
  the other. Heartbeats of six seconds tell that it is gone.
- The loop of 5,000 stages and the calls of 100,000 are measured with `--all`, by verbs alone. A `map_reduce` of 100,000
  items takes ten minutes more: `python -m benchmarks.wide --call map_reduce --steps 100000`.
- A call of 10,000 or 100,000 steps has a process and server of its own. Its memory is an upper bound: Linux starts the
  peak of a process at that of the one that began it. By hand means child workflows of as many steps, as many at once.
- Agents with a model ask a scripted provider, a process of its own that counts what it bills. Pieces are those of the
  transcripts in the blob store, a folder: each answer and each tool's result once, so what is written grows with the
  turns and not with their square. By hand the loop is an activity for each call of the model, which is given the
  conversation so far, and one for each call of the tool (`LoopByHand`). Heartbeat details are looked at four times a
  second. The provider of the limited agents bills between 0.8 and 1.4 times a quarter of the characters: what an
  estimate takes too low is what a limit can be passed by.
"""
