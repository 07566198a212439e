"""The state that every run has: its options, ledger, events and progress, and whether it is being cancelled.

Law: after a cancel of the run no step begins, except inside a compensation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NoReturn

from pydantic import Field
from temporalio import workflow

from workflows import budget, wire
from workflows.approvals import Approvals
from workflows.budget import BudgetChange, Ledger, UsageReport
from workflows.deadline import cancel_all
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
from workflows.handover import SliceChunk, SliceShort
from workflows.parsing import Model, parse
from workflows.place import Place, current_item
from workflows.progress import Board, PhaseRecord, in_markdown
from workflows.steps import RunOptions
from workflows.wire import Stored

CARRIED_EVENTS = 50
# The tail of the log that goes along on continue-as-new, for readers that are a moment behind.
MAX_CARRIED_BYTES = 64_000
# A memo travels with every description of the run, and the workflow's own arguments need their room too.
MAX_SCHEDULED_BYTES = 2_000_000
# Of arguments in one workflow task. The server ends a run that writes more than 4 MB at once, and what steps bring
# while the task is under way, up to 2 MB, is written with it.
FORMER_SCHEDULED_BYTES = 3_000_000
# Of agent steps and children, in histories without `SMALLER_TASKS_PATCH`; of actions, any number.
CONTINUE_AFTER_SIGNALS = 8_000
# Temporal ends a run at 10,000 and does not suggest continue-as-new for it.
CONTINUE_AFTER_UPDATES = 1_500
# Temporal refuses more than 2,000 in one execution.
CONTINUE_AFTER_BYTES = 5_000_000
# Replaying more than that takes a worker several seconds.

compensating: ContextVar[bool] = ContextVar("perdure_compensating", default=False)
"""Whether this task undoes what the run did: it goes on although the run is cancelled, and is never denied."""

current_stage: ContextVar[PhaseRecord | None] = ContextVar("perdure_stage", default=None)
"""The stage of a graph that this task works for: its steps are shown under it."""


class Carried(Stored):
    """What the base class of a workflow takes along on continue-as-new, under 64 KB, in the memo `perdure_carried`."""

    ledger: Ledger
    phase_index: int
    call_number: int
    next_offset: int
    events: tuple[EventEnvelope, ...] = Field(default=())
    succeeded: int = 0
    failed: int = 0


class Slot:
    """A step's place in the window of its run. It gives it back while it waits for what others answer.

    A child that carries steps has several places at once: as many as it has steps in flight.
    """

    def __init__(self, run: Run, width: int = 1) -> None:
        # What undoes must not queue behind steps that wait for tokens.
        self._slots = None if compensating.get() else run.slots
        self._taking = run.taking_slots
        self._width, self._held = width, 0

    async def __aenter__(self) -> Slot:
        await self.take()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.give_back()

    async def take(self) -> None:
        """Wait for a place, or for all of several."""
        if self._slots is None:
            return
        if self._width == 1:
            await self._slots.acquire()
            self._held = 1
            return
        try:
            async with self._taking:  # two that each hold half of what they need would wait for each other
                while self._held < self._width:
                    await self._slots.acquire()
                    self._held += 1
        except asyncio.CancelledError:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Let others have it."""
        while self._slots is not None and self._held:
            self._held -= 1
            self._slots.release()


class Announced:
    """Steps that a verb has taken on and not begun: the budget is shared with them too."""

    def __init__(self, run: Run, count: int) -> None:
        self._run, self._left = run, count

    def __enter__(self) -> Announced:
        self._run.announced += self._left
        return self

    def begin(self, count: int = 1) -> None:
        """So many of them begin."""
        self._left -= count
        self._run.announced -= count

    def add(self, count: int) -> None:
        """So many more are taken on, or came back."""
        self.begin(-count)

    def __exit__(self, *exc_info: object) -> None:
        self._run.announced -= self._left


class Run:
    """What the verbs share."""

    def __init__(self) -> None:
        self.rejection: PerdureError | None = None
        """Why this run must not begin. Raised by its first verb: an error raised while Temporal builds the workflow
        object would leave the coroutine of its `run` behind."""
        carried: Carried | None = None
        self.options = RunOptions()
        try:
            self.options = _options()
            carried = _carried()
        except PerdureError as error:
            self.rejection = error
        self.board = Board()
        self.log = EventLog()
        self.phase_index = 0
        self.call_number = 0
        self.signals = 0
        self.updates = 0
        self.is_continued = carried is not None
        """Whether a run before this one went on as this one."""
        if carried is not None:
            self._take_up(carried)
        self.grants = Grants(
            budget.opened(self.options) if carried is None else carried.ledger,
            waits_for_raise=self.options.on_exhausted == "wait",
            on_change=self._ledger_changed,
        )
        self.approvals = Approvals()
        self.slots = asyncio.Semaphore(self.options.window)
        self.taking_slots = asyncio.Lock()
        self.announced = 0
        """Steps that a verb has taken on and not yet begun: they share the budget with those in flight."""
        self.hands_back = False
        """Whether a step that this run cannot pay for is its parent's to decide about."""
        self.has_allotment = False
        """Whether its budget is a part of its parent's, so that it cannot tell whether that is exhausted."""
        self.sent_ahead: dict[str, list[SliceChunk]] = {}
        """What children in flight have sent before their results, by workflow id."""
        self.topping_up: dict[str, Callable[[SliceShort], None]] = {}
        """Who gives children in flight more of the budget, by workflow id."""
        self._refreshing = False
        self._executing: dict[asyncio.Task[Any], None] = {}
        self._scheduled_in = -1
        self._scheduled_bytes = self._scheduled_actions_bytes = 0

    def _take_up(self, carried: Carried) -> None:
        self.log = EventLog(first_offset=carried.next_offset, tail=carried.events)
        self.phase_index, self.call_number = carried.phase_index, carried.call_number
        self.board.succeeded, self.board.failed = carried.succeeded, carried.failed
        self.board.earlier_phases = carried.phase_index

    @property
    def sharing(self) -> int:
        """Steps that share what the budget has left. Those in children have their share."""
        return self.announced + self.board.running_here

    def tell(self, event: Any) -> None:
        """Append an event to the run's log."""
        self.log.append(event, workflow.now())

    def tell_if_exhausted(self) -> None:
        """The event that a3s sends at each phase end while the budget is exhausted."""
        ledger = self.grants.ledger
        if ledger.is_exhausted and not self.has_allotment:
            resource = budget.exhausted_resource(ledger)
            self.tell(BudgetExhausted(resource=resource, reason=budget.exhausted_reason(ledger)))

    def raise_if_cancelled(self) -> None:
        """Hold up a verb of a run that is being cancelled.

        A cancel reaches workflow code once. Code that caught it, or a task of its own, must not begin new work.
        """
        if workflow.cancellation_reason() is not None and not compensating.get():
            raise asyncio.CancelledError("the run was cancelled")

    @contextmanager
    def executing(self) -> Iterator[None]:
        """Note that this task has a step in flight, for a cancel that does not reach it by itself."""
        task = asyncio.current_task()
        if task is not None:
            self._executing[task] = None
        try:
            yield
        finally:
            if task is not None:
                self._executing.pop(task, None)

    async def end_all(self) -> None:
        """Cancel every step that is still in flight, and wait for its end.

        Temporal cancels the task of `run`; steps in tasks that a workflow made by itself are cancelled here.
        """
        current = asyncio.current_task()
        await cancel_all([task for task in self._executing if task is not current])

    async def make_room(self, scheduled_bytes: int, *, is_action: bool = False) -> None:
        """Wait for the next workflow task where this one has scheduled as much as is written at once."""
        while self._is_full_with(scheduled_bytes, is_action):
            await workflow.sleep(timedelta(milliseconds=1), summary="room for large prompts")
        if is_action:
            self._scheduled_actions_bytes += scheduled_bytes
        else:
            self._scheduled_bytes += scheduled_bytes

    def _is_full_with(self, more: int, is_action: bool) -> bool:
        """Whether this workflow task has no room for more beside what it has scheduled."""
        task = workflow.info().get_current_history_length()
        if task != self._scheduled_in:
            self._scheduled_in, self._scheduled_bytes, self._scheduled_actions_bytes = task, 0, 0
        scheduled = self._scheduled_bytes + self._scheduled_actions_bytes
        if not scheduled or scheduled + more <= MAX_SCHEDULED_BYTES:
            return False
        was_full = self._scheduled_bytes > 0 and self._scheduled_bytes + more > FORMER_SCHEDULED_BYTES
        return (was_full and not is_action) or workflow.patched(wire.SMALLER_TASKS_PATCH)

    def place(self) -> Place:
        """Where the steps of the next call are shown."""
        stage, item = current_stage.get(), current_item.get()
        if stage is None and item is not None:
            return Place(item.place, None, item)
        if stage is None:
            number, self.call_number = self.call_number, self.call_number + 1
            return Place(f"c{number}", None)
        return Place(str(stage.index), stage, item)

    def refresh_details(self) -> None:
        """Bring the UI's current details up to date, once for all that happens in this turn of the event loop."""
        if not self._refreshing:
            self._refreshing = True
            asyncio.get_running_loop().call_soon(self._refresh)

    def _refresh(self) -> None:
        self._refreshing = False
        waiting = self.grants.waiting
        waits = [f"{waiting} steps wait for tokens: raise the budget, or let others finish"] if waiting else []
        waits += [
            f"a person must answer `{asked.id}`: {in_markdown(asked.prompt)}" for asked in self.approvals.requests()
        ]
        workflow.set_current_details(self.board.markdown(self.grants.snapshot(), waits))

    def set_budget(self, *payloads: Any) -> None:
        """The signal `set_budget`. A payload that cannot be read changes nothing and becomes an event."""
        change = self.read_signal(BudgetChange, payloads, wire.SET_BUDGET_SIGNAL)
        if change is not None:
            self.grants.change(change)
            limits = self.grants.snapshot()
            self.tell(BudgetChanged(limit_tokens=limits.limit_tokens, limit_usd=limits.limit_usd))
            self.refresh_details()

    def record_usage(self, *payloads: Any) -> None:
        """The signal `record_usage`; an id that came before changes nothing."""
        report = self.read_signal(UsageReport, payloads, wire.RECORD_USAGE_SIGNAL)
        if report is not None and self.grants.record(report):
            self.tell(UsageRecorded(id=report.id, usage=report.usage))
            self.refresh_details()

    def slice_outcomes(self, *payloads: Any) -> None:
        """The signal `slice_outcomes`: from a child of this run, or it becomes an event."""
        chunk = self.read_signal(SliceChunk, payloads, wire.SLICE_OUTCOMES_SIGNAL)
        if chunk is None:
            return
        if chunk.slice in self.sent_ahead:
            self.sent_ahead[chunk.slice].append(chunk)
        else:  # a child from before a reset
            self._tell_stranger(wire.SLICE_OUTCOMES_SIGNAL, chunk.slice)

    def slice_short(self, *payloads: Any) -> None:
        """The signal `slice_short`: from a child of this run, or it becomes an event."""
        short = self.read_signal(SliceShort, payloads, wire.SLICE_SHORT_SIGNAL)
        if short is None:
            return
        if short.slice in self.topping_up:
            self.topping_up[short.slice](short)
        else:  # a child from before a reset
            self._tell_stranger(wire.SLICE_SHORT_SIGNAL, short.slice)

    def _tell_stranger(self, signal: str, child: str) -> None:
        reason = f"signal {signal}: {child!r} carries no steps of this run."
        self.tell(SignalRejected(signal=signal, reason=reason))

    def read_signal(self, model: type[Model], payloads: Sequence[Any], signal: str) -> Model | None:
        """The payload of a signal. One that cannot be read changes nothing and becomes an event."""
        self.signals += 1
        try:
            if len(payloads) != 1:
                raise InputRejected(f"signal {signal} takes one object; it was given {len(payloads)} values.")
            return parse(model, payloads[0], f"signal {signal}", InputRejected)
        except PerdureError as error:
            self.tell(SignalRejected(signal=signal, reason=error.message))
            return None

    def _ledger_changed(self, before: Ledger, after: Ledger) -> None:
        for resource in () if self.has_allotment else budget.passed_soft_limit(before, after):
            self.tell(BudgetThreshold(resource=resource, percent=budget.SOFT_LIMIT_PERCENT))

    @property
    def is_long(self) -> bool:
        """Whether this history should end, and the run go on in a new one."""
        info = workflow.info()
        return (
            info.is_continue_as_new_suggested()
            or info.get_current_history_size() > CONTINUE_AFTER_BYTES
            or self.signals > CONTINUE_AFTER_SIGNALS
            or self.updates > CONTINUE_AFTER_UPDATES
        )

    async def settled(self) -> None:
        """Return when no handler and no step is under way: they would end in a run that is over."""
        await workflow.wait_condition(lambda: workflow.all_handlers_finished() and not self.board.running)

    def continue_as_new(self, args: Sequence[Any]) -> NoReturn:
        """End this run and begin the next with these arguments; the ledger, the events and the options go along."""
        workflow.continue_as_new(args=args, memo={**workflow.memo(), wire.CARRIED_MEMO: self.carry()})

    def carry(self) -> Carried:
        """What goes along on continue-as-new; of the events as many as there is room for."""
        carried = Carried(
            ledger=budget.as_carried(self.grants.ledger),
            phase_index=self.phase_index,
            call_number=self.call_number,
            next_offset=self.log.next_offset,
            events=self.log.tail(CARRIED_EVENTS),
            succeeded=self.board.succeeded,
            failed=self.board.failed,
        )
        while carried.events and wire.size(carried) > MAX_CARRIED_BYTES:
            carried = carried.model_copy(update={"events": carried.events[len(carried.events) // 2 + 1 :]})
        return carried


def _options() -> RunOptions:
    given = workflow.memo_value(wire.OPTIONS_MEMO, None)
    return parse(RunOptions, {} if given is None else given, f"memo {wire.OPTIONS_MEMO}", OptionsRejected)


def _carried() -> Carried | None:
    given = workflow.memo_value(wire.CARRIED_MEMO, None)
    return None if given is None else parse(Carried, given, f"memo {wire.CARRIED_MEMO}", InputRejected)
