"""The state that every run has: its options, ledger, events and progress, and whether it is being cancelled.

Law: after a cancel of the run no step begins, except inside a compensation.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from pydantic import Field
from temporalio import workflow

from workflows import budget, wire
from workflows.budget import BudgetChange, Ledger, UsageReport
from workflows.errors import InputRejected, OptionsRejected, PerdureError
from workflows.events import (
    BudgetChanged,
    BudgetExhausted,
    BudgetThreshold,
    EventEnvelope,
    EventLog,
    SignalRejected,
    UsageRecorded,
)
from workflows.grants import Grants
from workflows.parsing import parse
from workflows.progress import Board
from workflows.steps import RunOptions
from workflows.wire import Stored

CARRIED_EVENTS = 50
# The tail of the log that goes along on continue-as-new, for readers that are a moment behind: about 10 KB.

compensating: ContextVar[bool] = ContextVar("perdure_compensating", default=False)
"""Whether this task undoes what the run did: it goes on although the run is cancelled, and is never denied."""


class Carried(Stored):
    """What the base class of a workflow takes along on continue-as-new, under 64 KB, in the memo `perdure_carried`."""

    ledger: Ledger
    phase_index: int
    call_number: int
    next_offset: int
    events: tuple[EventEnvelope, ...] = Field(default=())
    succeeded: int = 0
    failed: int = 0


class Run:
    """What the verbs share."""

    def __init__(self) -> None:
        self.rejection: PerdureError | None = None
        """Why this run must not begin. Raised by its first verb: an error raised while Temporal builds the workflow
        object would leave the coroutine of its `run` behind."""
        try:
            self.options = _options()
        except PerdureError as error:
            self.rejection, self.options = error, RunOptions()
        carried = _carried()
        self.board = Board()
        self.log = EventLog()
        self.phase_index = 0
        self.call_number = 0
        self.signals = 0
        ledger = budget.opened(self.options)
        if carried:
            ledger = carried.ledger
            self.log = EventLog(first_offset=carried.next_offset, tail=carried.events)
            self.phase_index, self.call_number = carried.phase_index, carried.call_number
            self.board.succeeded, self.board.failed = carried.succeeded, carried.failed
        self.grants = Grants(
            ledger, waits_for_raise=self.options.on_exhausted == "wait", on_change=self._ledger_changed
        )
        self.slots = asyncio.Semaphore(self.options.window)
        self.announced = 0
        """Steps that a verb has taken on and not yet begun: they share the budget with those in flight."""
        self._refreshing = False

    def tell(self, event: Any) -> None:
        """Append an event to the run's log."""
        self.log.append(event, workflow.now())

    def tell_if_exhausted(self) -> None:
        """The event that a3s sends at each phase end while the budget is exhausted."""
        ledger = self.grants.ledger
        if ledger.is_exhausted:
            resource = budget.exhausted_resource(ledger)
            self.tell(BudgetExhausted(resource=resource, reason=budget.exhausted_reason(ledger)))

    def raise_if_cancelled(self) -> None:
        """Hold up a verb of a run that is being cancelled.

        A cancel reaches workflow code once. Code that caught it, or a task of its own, must not begin new work.
        """
        if workflow.cancellation_reason() is not None and not compensating.get():
            raise asyncio.CancelledError("the run was cancelled")

    def refresh_details(self) -> None:
        """Bring the UI's current details up to date, once for all that happens in this turn of the event loop."""
        if not self._refreshing:
            self._refreshing = True
            asyncio.get_running_loop().call_soon(self._refresh)

    def _refresh(self) -> None:
        self._refreshing = False
        waiting = self.grants.waiting
        waits = [f"{waiting} steps wait for tokens: raise the budget, or let others finish"] if waiting else []
        workflow.set_current_details(self.board.markdown(self.grants.snapshot(), waits))

    def set_budget(self, payload: Any) -> None:
        """The signal `set_budget`. A payload that cannot be read changes nothing and becomes an event."""
        self.signals += 1
        change = self._read(BudgetChange, payload, wire.SET_BUDGET_SIGNAL)
        if change is not None:
            self.grants.change(change)
            limits = self.grants.snapshot()
            self.tell(BudgetChanged(limit_tokens=limits.limit_tokens, limit_usd=limits.limit_usd))
            self.refresh_details()

    def record_usage(self, payload: Any) -> None:
        """The signal `record_usage`; an id that came before changes nothing."""
        self.signals += 1
        report = self._read(UsageReport, payload, wire.RECORD_USAGE_SIGNAL)
        if report is not None and self.grants.record(report):
            self.tell(UsageRecorded(id=report.id, usage=report.usage))
            self.refresh_details()

    def _read(self, model: Any, payload: Any, signal: str) -> Any:
        try:
            return parse(model, payload, f"signal {signal}", InputRejected)
        except PerdureError as error:
            self.tell(SignalRejected(signal=signal, reason=error.message))
            return None

    def _ledger_changed(self, before: Ledger, after: Ledger) -> None:
        resource = budget.passed_soft_limit(before, after)
        if resource:
            self.tell(BudgetThreshold(resource=resource, percent=budget.SOFT_LIMIT_PERCENT))

    def carry(self) -> Carried:
        """What goes along on continue-as-new."""
        ledger = budget.with_recent_ids(self.grants.ledger)
        return Carried(
            ledger=ledger,
            phase_index=self.phase_index,
            call_number=self.call_number,
            next_offset=self.log.next_offset,
            events=self.log.tail(CARRIED_EVENTS),
            succeeded=self.board.succeeded,
            failed=self.board.failed,
        )


def _options() -> RunOptions:
    given = workflow.memo_value(wire.OPTIONS_MEMO, None)
    return parse(RunOptions, {} if given is None else given, f"memo {wire.OPTIONS_MEMO}", OptionsRejected)


def _carried() -> Carried | None:
    given = workflow.memo_value(wire.CARRIED_MEMO, None)
    return None if given is None else Carried.model_validate(given)
