"""How much of a graph runs in one go.

Stages that wait for nothing (a state_write, an assertion, an empty loop) never give the worker back by themselves, and
the SDK gives up on workflow code that holds it for 2 s: such a run would be tried again for ever.
Law: whatever a graph does, one activation does a bounded part of it.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

MOST_AT_ONCE = 100.0
# Stages, or items of a `for_each`, in one activation: about 0.1 s on a slow core.
KEYS_OF_A_STAGE = 1_000
# Reading and copying a state of so many keys takes about as long as running a small stage.
PAUSE = timedelta(milliseconds=1)
# A timer costs the history two events and a workflow task; its length does not matter.


class Pace:
    """What the current activation may still do; one for the whole run."""

    def __init__(self) -> None:
        self._activation = -1
        self._done = 0.0
        self._is_pausing = False

    async def keep(self, state_keys: int) -> None:
        """Return at once, or after a pause where this activation has done enough."""
        cost = 1 + state_keys / KEYS_OF_A_STAGE
        while not self._has_taken(cost):
            await self.pause()

    async def pause(self) -> None:
        """Give the worker back; those who ask meanwhile share one timer."""
        if self._is_pausing:
            await workflow.wait_condition(lambda: not self._is_pausing)
            return
        self._is_pausing = True
        try:
            await workflow.sleep(PAUSE, summary="a pause: much was done at once")
        finally:
            self._is_pausing = False

    def _has_taken(self, cost: float) -> bool:
        activation = workflow.info().get_current_history_length()
        if activation != self._activation:
            self._activation, self._done = activation, 0.0
        if self._done >= MOST_AT_ONCE:
            return False
        self._done += cost
        return True
