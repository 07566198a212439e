"""Who gets tokens next: the keeper of a run's ledger.

Steps that must wait are served in the order in which they asked, so a large request is not starved by small ones.
Only workflow code holds a keeper; activities know nothing but their grant.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import assert_never

from workflows import budget
from workflows.budget import (
    BudgetChange,
    BudgetSnapshot,
    Bundle,
    Denied,
    Granted,
    Ledger,
    MustWait,
    Request,
    UsageReport,
)
from workflows.steps import Grant, Usage

OnChange = Callable[[Ledger, Ledger], None]
OnWait = Callable[[str], None]


class GrantDenied(Exception):
    """The budget cannot pay for the step; the text is the reason."""


class Grants:
    """The ledger of a run and the steps that wait for it."""

    def __init__(self, ledger: Ledger, *, waits_for_raise: bool, on_change: OnChange) -> None:
        self._ledger = ledger
        self._waits_for_raise = waits_for_raise
        self._on_change = on_change
        self._queue: deque[tuple[Request | Bundle, asyncio.Future[Grant | None]]] = deque()

    @property
    def ledger(self) -> Ledger:
        """The ledger as it stands."""
        return self._ledger

    @property
    def waiting(self) -> int:
        """Steps that wait for tokens."""
        return len(self._queue)

    def snapshot(self) -> BudgetSnapshot:
        """The budget as people and programs read it."""
        return budget.snapshot(self._ledger)

    async def obtain(self, request: Request | Bundle, on_wait: OnWait) -> Grant | None:
        """What the step, or the bundle of steps, may spend, now or when there is enough; None is no limit.

        `on_wait` is told why, if it has to wait. Raises `GrantDenied`.
        """
        decision = self._decide(request)
        if self._queue and isinstance(decision, Granted):
            decision = MustWait("other steps have asked for tokens before this one")
        match decision:
            case Granted():
                self._become(decision.ledger)
                return decision.grant
            case Denied():
                raise GrantDenied(decision.reason)
            case MustWait():
                on_wait(decision.reason)
                return await self._wait_for(request)
            case _:
                assert_never(decision)

    def refusal(self, request: Request | Bundle) -> str | None:
        """Why the request would be denied, however others end; None where it would not."""
        decision = self._decide(request)
        return decision.reason if isinstance(decision, Denied) else None

    def settle(self, held: Grant | None, spent: Usage) -> None:
        """Charge a step that ended, take back what it did not use, and serve who waits."""
        self._become(budget.settle(self._ledger, held, spent))
        self._serve()

    def change(self, wanted: BudgetChange) -> None:
        """Set limits, and serve who waits."""
        self._become(budget.change(self._ledger, wanted))
        self._serve()

    def record(self, report: UsageReport) -> bool:
        """Charge usage from outside; whether it counted."""
        before = self._ledger
        self._become(budget.record(before, report))
        self._serve()
        return self._ledger is not before

    def _decide(self, request: Request | Bundle) -> budget.Decision:
        decision = budget.decide(self._ledger, request)
        if isinstance(decision, Denied) and self._waits_for_raise:
            return MustWait(decision.reason)
        return decision

    async def _wait_for(self, request: Request | Bundle) -> Grant | None:
        granted: asyncio.Future[Grant | None] = asyncio.get_running_loop().create_future()
        place = (request, granted)
        self._queue.append(place)
        try:
            return await granted
        except asyncio.CancelledError:
            if place in self._queue:
                self._queue.remove(place)
                self._serve()  # it may have stood in front of one that fits
            elif granted.done() and not granted.cancelled() and granted.exception() is None:
                self.settle(granted.result(), Usage())  # granted and cancelled in one breath
            raise

    def _serve(self) -> None:
        while self._queue:
            request, place = self._queue[0]
            if place.done():  # cancelled, and not yet woken to leave by itself
                self._queue.popleft()
                continue
            match self._decide(request):
                case MustWait():
                    return
                case Granted() as granted:
                    self._become(granted.ledger)
                    place.set_result(granted.grant)
                case Denied() as denied:
                    place.set_exception(GrantDenied(denied.reason))
                case never:
                    assert_never(never)
            self._queue.popleft()

    def _become(self, ledger: Ledger) -> None:
        before, self._ledger = self._ledger, ledger
        self._on_change(before, ledger)
