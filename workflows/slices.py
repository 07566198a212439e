"""`Slice`: the child workflow that carries a slice of a fan-out for its parent.

Law: whatever becomes of it, it returns what it spent, the outcome of each step that ended, and where each step stands
that it could not pay for; what it does not name was not begun. Cancelled, it still returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any, assert_never

from temporalio import workflow
from temporalio.exceptions import FailureError

from workflows import wire
from workflows.budget import Bundle
from workflows.chains import PipelineStage, StageCrashed, found, staged
from workflows.errors import InputRejected
from workflows.events import UsageUnknown
from workflows.execution import HandedBack, carry_out
from workflows.graph.carried_items import CarriedItems
from workflows.handover import (
    Begun,
    ChainEnd,
    ChainItem,
    ChainsWork,
    Ended,
    ItemsWork,
    Returned,
    SliceAllotted,
    SliceChunk,
    SliceInput,
    SliceReport,
    SliceShort,
    StepItem,
    StepsWork,
    shortened,
)
from workflows.parsing import parse
from workflows.progress import PhaseRecord
from workflows.run import Announced, compensating, current_stage
from workflows.steps import Grant, StepOutcome, Usage
from workflows.supply import SMALL_ITEM
from workflows.verbs import AgentWorkflow
from workflows.window import sliding_window
from workflows.wire import Stored

ENOUGH_BYTES = 1_000_000
# Of outcomes in one result: then no further step is begun, and the parent gives the rest to another child.
ENOUGH_QUESTIONS = 20
# For more of the budget: each is a signal to the parent, which takes 10,000 of them from all its children.
CHUNK_BYTES = 1_500_000
# Of what is sent ahead in one signal, where steps in flight bring more than a result takes.


@workflow.defn(name=wire.SLICE_WORKFLOW)
class Slice(AgentWorkflow):
    """Carries steps of another run; started by that run alone."""

    def __init__(self) -> None:
        super().__init__()
        self._ended: list[tuple[int, Ended]] = []
        self._returned: list[tuple[int, Returned]] = []
        self._bytes = 0
        self._announced = Announced(self._perdure, 0)
        self._phase: PhaseRecord | None = None
        self._asking: asyncio.Task[None] | None = None

    @workflow.run
    async def run(self, given: Any = None, *more: Any) -> SliceReport:
        """Run the steps within this run's share of the window and its allotment."""
        if more:
            raise InputRejected(f"Slice takes one argument; it was given {len(more) + 1}.")
        asked = parse(SliceInput, {} if given is None else given, "Slice", InputRejected)
        self._take_over(asked)
        is_cancelled = False
        try:
            await self._carry(asked)
        except asyncio.CancelledError:
            is_cancelled = True
        return await self._report(is_cancelled)

    def _take_over(self, asked: SliceInput) -> None:
        """What this run has of its parent's, and what of it is the parent's to decide."""
        run, is_of_items = self.perdure, isinstance(asked.work, ItemsWork)
        compensating.set(asked.is_compensating)
        run.has_allotment = not asked.is_compensating
        run.hands_back = run.has_allotment and not is_of_items
        run.phase_index = asked.next_phase
        if run.has_allotment and is_of_items:
            run.grants.be_allotted(self._ask_for_more, asked.exhausted)

    async def _carry(self, asked: SliceInput) -> None:
        run, phase, work = self.perdure, asked.phase, asked.work
        match work:
            case StepsWork():
                carry = self._steps(work)
            case ChainsWork():
                carry = self._chains(work)
            case ItemsWork():
                carry = self._items(work)
            case never:
                assert_never(never)
        steps = 0 if isinstance(work, ItemsWork) else len(work.items)  # how many an item has, its body tells
        with ExitStack() as stack:
            if phase is not None:
                self._phase = run.board.open_phase(phase.name, phase.index, steps)
                # Its name is with the child's start: every event here would repeat it, in a payload of its own.
                stack.enter_context(workflow.create_event_group(f"phase-{phase.index}").scope())
                if phase.is_stage:
                    current_stage.set(self._phase)
            self._announced.add(steps)
            await sliding_window(range(len(work.items)), asked.at_once or run.options.window, carry)

    def _steps(self, work: StepsWork) -> Callable[[int], Awaitable[None]]:
        async def step(at: int) -> None:
            if not self._may_begin():
                return
            item = work.items[at]
            try:
                outcome, is_interrupted = await self._carried_out(item, f"{work.prefix}:{item.spec.task_id}")
            except HandedBack as handed_back:
                if handed_back.begun is not None:
                    self._hand_back(at, handed_back.begun)
                return
            self._keep(at, shortened(outcome))
            self._stop_if(is_interrupted)

        return step

    def _chains(self, work: ChainsWork) -> Callable[[int], Awaitable[None]]:
        stages = found(stage.function for stage in work.stages)

        async def chain(at: int) -> None:
            if self._may_begin():
                await self._chain(work, stages, at)

        return chain

    async def _chain(self, work: ChainsWork, stages: Sequence[PipelineStage[Any]], at: int) -> None:
        """Send an item through the stages, from the one at which it stands."""
        item, end, is_interrupted = work.items[at], ChainEnd(), False
        step = item.step
        for number in range(item.stage, len(stages)):
            if step is None:
                try:
                    spec = staged(stages[number], number, end.outcome, item.item)
                except StageCrashed as crashed:
                    end = ChainEnd(crash=str(crashed))
                    break
                if spec is None:
                    break
                step = StepItem(spec=spec)
            try:
                outcome, is_interrupted = await self._carried_out(
                    step, f"{work.stages[number].prefix}:{step.spec.task_id}"
                )
            except HandedBack as handed_back:
                standing = StepItem(spec=step.spec, begun=handed_back.begun)
                self._hand_back(at, ChainItem(item=None, stage=number, step=standing))
                return
            end, step = ChainEnd(outcome=outcome, stage=number), None
            if is_interrupted or not outcome.success or workflow.cancellation_reason() is not None:
                break
        self._keep(at, end.model_dump(mode="json"))
        self._stop_if(is_interrupted)

    def _items(self, work: ItemsWork) -> Callable[[int], Awaitable[None]]:
        carried = CarriedItems(self, work)

        async def item(at: int) -> None:
            run = self.perdure
            # A child whose result or history is full, or that has asked too often, leaves the rest to a later one.
            if not self._has_room or run.is_long or run.grants.times_asked >= ENOUGH_QUESTIONS:
                return
            told, is_interrupted = await carried.ended(work.items[at])
            self._keep(at, told)
            self._stop_if(is_interrupted)

        return item

    @property
    def _has_room(self) -> bool:
        """Whether the result has room for what another step brings."""
        return self._bytes < ENOUGH_BYTES

    def _may_begin(self) -> bool:
        """Whether another step may begin; then it is no longer announced."""
        if self._has_room:
            self._announced.begin()
        return self._has_room

    async def _carried_out(self, item: StepItem, name: str) -> tuple[StepOutcome, bool]:
        return await carry_out(self.perdure, item.spec, name, self._phase, item.begun)

    def _stop_if(self, is_interrupted: bool) -> None:
        if is_interrupted:
            raise asyncio.CancelledError
        self.perdure.raise_if_cancelled()

    def _ask_for_more(self, wants: Bundle) -> None:
        """Tell the parent what is lacking, and how much was spent: the rest of the allotment is the parent's again."""
        spent = self._spent()
        short = SliceShort(
            slice=workflow.info().workflow_id, spent=spent, step_count=self.perdure.grants.waiting, wants=wants
        )
        self._asking = asyncio.create_task(self._tell_short(short))

    async def _tell_short(self, short: SliceShort) -> None:
        try:
            await self._signal_parent(wire.SLICE_SHORT_SIGNAL, short)
        except FailureError as error:
            self.perdure.grants.give_up(f"the run that this slice belongs to could not be asked for tokens: {error}")

    @workflow.signal(name=wire.SLICE_ALLOTTED_SIGNAL)
    def slice_allotted(self, given: Any = None, *more: Any) -> None:
        """From the parent alone: what this run may spend beside what it has spent."""
        allotted = self.perdure.read_signal(SliceAllotted, (given, *more), wire.SLICE_ALLOTTED_SIGNAL)
        if allotted is None:
            return
        if allotted.refused_by is not None:
            self.perdure.grants.refuse(allotted.refused_by)
        else:
            self.perdure.grants.top_up(Grant(tokens=allotted.tokens, usd=allotted.usd))

    def _spent(self) -> Usage:
        snapshot = self.perdure.grants.snapshot()
        return Usage(total_tokens=snapshot.consumed_tokens, cost_usd=snapshot.consumed_usd or None)

    def _keep(self, at: int, told: dict[str, Any]) -> None:
        size = wire.measure(told, SMALL_ITEM)
        self._bytes += size
        self._ended.append((size, (at, told)))

    def _hand_back(self, at: int, standing: Begun | ChainItem) -> None:
        size = wire.measure(standing, SMALL_ITEM)
        self._bytes += size
        self._returned.append((size, (at, standing.model_dump(mode="json"))))

    async def _report(self, is_cancelled: bool) -> SliceReport:
        """What this run has to say; what does not fit into its result is sent ahead."""
        board = self.perdure.board
        *ahead, last = self._chunks()
        for chunk in ahead:
            await self._signal_parent(wire.SLICE_OUTCOMES_SIGNAL, chunk)
        return SliceReport(
            ended=last.ended,
            returned=last.returned,
            succeeded=board.succeeded,
            failed=board.failed,
            spent=self._spent(),
            usage_unknown=tuple(self.perdure.log.of_type(UsageUnknown)),
            is_cancelled=is_cancelled,
            next_phase=self.perdure.phase_index,
        )

    def _chunks(self) -> list[SliceChunk]:
        chunks, ended, returned, size = list[SliceChunk](), list[Ended](), list[Returned](), 0
        own_id = workflow.info().workflow_id

        def close() -> None:
            chunks.append(SliceChunk(slice=own_id, ended=tuple(ended), returned=tuple(returned)))
            ended.clear()
            returned.clear()

        for parts, into in ((self._ended, ended), (self._returned, returned)):
            for part_size, part in parts:
                if size and size + part_size > CHUNK_BYTES:
                    close()
                    size = 0
                into.append(part)
                size += part_size
        close()
        return chunks

    async def _signal_parent(self, signal: str, payload: Stored) -> None:
        parent = workflow.info().parent
        if parent is None:
            raise InputRejected(f"Slice was started without a parent, and has {signal} to tell it.")
        # Whichever run has the id: after a reset of the parent it is another one.
        await workflow.get_external_workflow_handle(parent.workflow_id).signal(signal, payload)
