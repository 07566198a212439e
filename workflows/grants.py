"""Who gets tokens next: the keeper of a run's ledger.

Steps that must wait are served in the order in which they asked, so a large request is not starved by small ones.
Only workflow code holds a keeper; activities know nothing but their grant.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import assert_never

from workflows import allotment, budget
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
OnShort = Callable[[Bundle], None]


class GrantDenied(Exception):
    """The budget cannot pay for the step; the text is the reason."""


class Grants:
    """The ledger of a run and the steps that wait for it."""

    def __init__(self, ledger: Ledger, *, waits_for_raise: bool, on_change: OnChange) -> None:
        self._ledger = ledger
        self._waits_for_raise = waits_for_raise
        self._on_change = on_change
        self._queue: deque[tuple[Request | Bundle, asyncio.Future[Grant | None]]] = deque()
        self._asks: OnShort | None = None
        self._above: Ledger | None = None
        self._is_asking = False
        self.times_asked = 0
        """How often it ran short."""

    def be_allotted(self, asks: OnShort, above: Ledger | None = None) -> None:
        """What is kept here is a part of another ledger: where it is not enough, `asks` is told what to ask there.

        The answer is for `top_up`, `refuse` or `give_up`. `above` is the other ledger where that has nothing left.
        """
        self._asks, self._above = asks, above

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

    def top_up(self, more: Grant | None) -> None:
        """So much more may be spent; None is no limit."""
        self._is_asking = False
        self._become(allotment.enlarged(self._ledger, more))
        self._serve()

    def refuse(self, above: Ledger) -> None:
        """There is no more: what even the other ledger, as it stands, cannot pay for is denied from now on."""
        self._is_asking, self._above = False, above
        self._serve()

    def give_up(self, reason: str) -> None:
        """Nobody can be asked any more: deny who waits, and whoever comes."""
        self._asks = self._above = None
        waiting, self._queue = self._queue, deque()
        for _, place in waiting:
            if not place.done():
                place.set_exception(GrantDenied(reason))

    def record(self, report: UsageReport) -> bool:
        """Charge usage from outside; whether it counted."""
        before = self._ledger
        self._become(budget.record(before, report))
        self._serve()
        return self._ledger is not before

    def _decide(self, request: Request | Bundle) -> budget.Decision:
        decision = budget.decide(self._ledger, request)
        if not isinstance(decision, Denied):
            return decision
        if self._asks is not None:
            above = None if self._above is None else budget.decide(self._above, request)
            return above if isinstance(above, Denied) else MustWait(decision.reason)
        return MustWait(decision.reason) if self._waits_for_raise else decision

    async def _wait_for(self, request: Request | Bundle) -> Grant | None:
        granted: asyncio.Future[Grant | None] = asyncio.get_running_loop().create_future()
        place = (request, granted)
        self._queue.append(place)
        self._ask_if_short()
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
                    self._ask_if_short()
                    return
                case Granted() as granted:
                    self._become(granted.ledger)
                    place.set_result(granted.grant)
                case Denied() as denied:
                    place.set_exception(GrantDenied(denied.reason))
                case never:
                    assert_never(never)
            self._queue.popleft()

    def _ask_if_short(self) -> None:
        """Where nobody here holds what could come back, only the other ledger can help."""
        if self._asks is None or self._is_asking or allotment.is_held(self._ledger):
            return
        waiting = [request for request, place in self._queue if not place.done()]
        if not waiting:
            return
        self._is_asking = True
        self.times_asked += 1
        wants = allotment.wanted(self._ledger, waiting)
        self._become(allotment.without_rest(self._ledger))
        self._asks(wants)

    def _become(self, ledger: Ledger) -> None:
        before, self._ledger = self._ledger, ledger
        self._on_change(before, ledger)
