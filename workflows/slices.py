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

from workflows import wire
from workflows.chains import PipelineStage, StageCrashed, found, staged
from workflows.errors import InputRejected
from workflows.events import UsageUnknown
from workflows.execution import HandedBack, carry_out
from workflows.handover import (
    Begun,
    ChainEnd,
    ChainItem,
    ChainsWork,
    Ended,
    Returned,
    SliceChunk,
    SliceInput,
    SliceReport,
    StepItem,
    StepsWork,
    shortened,
)
from workflows.parsing import parse
from workflows.progress import PhaseRecord
from workflows.run import Announced, compensating, current_stage
from workflows.steps import StepOutcome, Usage
from workflows.supply import SMALL_ITEM
from workflows.verbs import AgentWorkflow
from workflows.window import sliding_window

ENOUGH_BYTES = 1_000_000
# Of outcomes in one result: then no further step is begun, and the parent gives the rest to another child.
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

    @workflow.run
    async def run(self, given: Any = None, *more: Any) -> SliceReport:
        """Run the steps within this run's share of the window and its allotment."""
        if more:
            raise InputRejected(f"Slice takes one argument; it was given {len(more) + 1}.")
        asked = parse(SliceInput, {} if given is None else given, "Slice", InputRejected)
        run = self.perdure
        run.hands_back = not asked.is_compensating
        compensating.set(asked.is_compensating)
        is_cancelled = False
        try:
            await self._carry(asked)
        except asyncio.CancelledError:
            is_cancelled = True
        return await self._report(is_cancelled)

    async def _carry(self, asked: SliceInput) -> None:
        run, phase, work = self.perdure, asked.phase, asked.work
        match work:
            case StepsWork():
                carry = self._steps(work)
            case ChainsWork():
                carry = self._chains(work)
            case never:
                assert_never(never)
        with ExitStack() as stack:
            if phase is not None:
                self._phase = run.board.open_phase(phase.name, phase.index, len(work.items))
                group = workflow.create_event_group(f"phase-{phase.index}", label=phase.name or None)
                stack.enter_context(group.scope())
                if phase.is_stage:
                    current_stage.set(self._phase)
            self._announced.add(len(work.items))
            await sliding_window(range(len(work.items)), run.options.window, carry)

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

    def _may_begin(self) -> bool:
        """Whether the result has room for what another step brings."""
        if self._bytes >= ENOUGH_BYTES:
            return False
        self._announced.begin()
        return True

    async def _carried_out(self, item: StepItem, name: str) -> tuple[StepOutcome, bool]:
        return await carry_out(self.perdure, item.spec, name, self._phase, item.begun)

    def _stop_if(self, is_interrupted: bool) -> None:
        if is_interrupted:
            raise asyncio.CancelledError
        self.perdure.raise_if_cancelled()

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
        snapshot, board = self.perdure.grants.snapshot(), self.perdure.board
        *ahead, last = self._chunks()
        for chunk in ahead:
            await self._send(chunk)
        return SliceReport(
            ended=last.ended,
            returned=last.returned,
            succeeded=board.succeeded,
            failed=board.failed,
            spent=Usage(total_tokens=snapshot.consumed_tokens, cost_usd=snapshot.consumed_usd or None),
            usage_unknown=tuple(self.perdure.log.of_type(UsageUnknown)),
            is_cancelled=is_cancelled,
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

    async def _send(self, chunk: SliceChunk) -> None:
        parent = workflow.info().parent
        if parent is None:
            raise InputRejected("Slice was started without a parent, and what it has to report is over 1.9 MB.")
        # Whichever run has the id: after a reset of the parent it is another one.
        await workflow.get_external_workflow_handle(parent.workflow_id).signal(wire.SLICE_OUTCOMES_SIGNAL, chunk)
