"""The verbs of a run, and the signals and queries that every run answers.

Source of the verbs: a3s orchestration (`a3s-code-core`). A failed step is data, never an exception: a fan-out goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import JsonValue
from pydantic_core import to_jsonable_python
from temporalio import workflow

from workflows import wire
from workflows.approvals import ApprovalAnswer, ApprovalRequest
from workflows.budget import BudgetSnapshot
from workflows.chains import ChainSupply, PipelineStage, StageCrashed, staged
from workflows.errors import InputRejected, NotInitialised, cut
from workflows.events import EventPage, Log, PhaseEnd, PhaseStart
from workflows.execution import execute
from workflows.fanout import FanOut
from workflows.graph.definition import GraphDefinition
from workflows.graph.engine import walk
from workflows.graph.results import WorkflowResult
from workflows.place import Place
from workflows.progress import PhaseRecord, Progress
from workflows.run import Announced, Run
from workflows.steps import AgentStepSpec, StepOutcome
from workflows.supply import StepSupply
from workflows.window import sliding_window

Item = TypeVar("Item")

MAX_LOG_FIELDS_BYTES = 16_000
MAX_LOG_MESSAGE = 2_000
# Of one log event; what is larger belongs into a step's output.

LOG_LEVELS = {"debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40, "critical": 50}


@dataclass(frozen=True)
class Continue:
    """The next round of a loop runs these steps; without any the loop ends."""

    specs: Iterable[AgentStepSpec]


@dataclass(frozen=True)
class Stop:
    """The loop ends with the round that it has."""


Next = Callable[[list[StepOutcome]], Continue | Stop]


class AgentWorkflow:
    """Base class of a workflow that runs agents: subclass it, decorate it with `@workflow.defn`, call the verbs."""

    def __init__(self) -> None:
        self._perdure = Run()

    @property
    def perdure(self) -> Run:
        """The state of this run.

        Raises `NotInitialised` where a subclass's `__init__` forgot `super()`, `OptionsRejected` where the run's
        options cannot be used.
        """
        try:
            run = self._perdure
        except AttributeError:
            raise NotInitialised(type(self)) from None
        if run.rejection:
            raise run.rejection
        return run

    async def agent(self, spec: AgentStepSpec) -> StepOutcome:
        """Run one step."""
        place = self.perdure.place()
        place.expect(1)
        return await execute(self.perdure, spec, place.name(0, spec.task_id), place.stage)

    async def parallel(self, specs: Iterable[AgentStepSpec], *, at_most: int | None = None) -> list[StepOutcome]:
        """Run steps side by side, as many at once as the run's `max_concurrency` (8), and wait for all of them.

        `at_most` narrows the window for this call.

        Outcomes keep the order of the specs; failed steps are among them. More than 1,000 steps are carried by
        children; specs may then come from a generator, which is asked for them slice by slice. Raises
        `DuplicateTaskIds`: for a list before anything is scheduled, for a generator after what was begun has ended.
        """
        supply = StepSupply("parallel", specs)
        return await self._fan_out(supply, self.perdure.place(), 0, at_most)

    async def phase(self, name: str, specs: Iterable[AgentStepSpec]) -> list[StepOutcome]:
        """A named `parallel`: a barrier that the events, the progress and the Temporal UI show under its name."""
        run, supply = self.perdure, StepSupply("phase", specs)
        run.raise_if_cancelled()
        index, run.phase_index = run.phase_index, run.phase_index + 1
        record = run.board.open_phase(name, index, supply.known)
        run.tell(PhaseStart(name=name, index=index, step_count=supply.known, more=supply.has_more))

        def expect(count: int) -> None:
            record.step_count += count

        try:
            with workflow.create_event_group(f"phase-{index}", label=name or None).scope():
                outcomes = await self._branches(supply, str(index), f"{index}.0", record, expect)
        # Not `finally`: a coroutine that is merely closed has no clock to ask.
        except (asyncio.CancelledError, Exception):
            self._end_phase(record)
            raise
        self._end_phase(record)
        return outcomes

    async def pipeline(self, items: Iterable[Item], stages: Sequence[PipelineStage[Item]]) -> list[StepOutcome | None]:
        """Send each item through the stages as a chain of its own; no chain waits for another.

        A stage is a function (previous outcome or None, item) -> spec or None. None stops that chain, and so does a
        failed step. The result of an item is its last outcome; None if its first stage gave None or a stage raised.
        `max_concurrency` counts chains.
        """
        run, place = self.perdure, self.perdure.place()
        run.raise_if_cancelled()
        supply = ChainSupply(items, stages)
        if (waiting := supply.all_inline()) is None:
            supply.prefixes = [place.round(number) for number in range(len(stages))]
            endings = await FanOut(run, supply, place.id, place.stage, place.expect, run.options.window).endings()
            return [ending.outcome for ending in endings]
        with Announced(run, len(waiting)) as announced:

            async def chain(item: Item) -> StepOutcome | None:
                announced.begin()
                outcome: StepOutcome | None = None
                for number, stage in enumerate(stages):
                    try:
                        spec = staged(stage, number, outcome, item)
                    except StageCrashed as crashed:  # one chain's crash leaves the others alone
                        self.log("error", str(crashed), {})
                        return None
                    if spec is None:
                        break
                    place.expect(1)
                    outcome = await execute(run, spec, place.name(number, spec.task_id), place.stage)
                    if not outcome.success:
                        break
                return outcome

            return await sliding_window(waiting, run.options.window, chain)

    async def loop(self, specs: Iterable[AgentStepSpec], max_iterations: int, next: Next) -> list[StepOutcome]:
        """Run rounds of steps until `next` says `Stop`, or the cap of max(1, max_iterations) rounds is reached.

        `next` sees each round's outcomes, the last one's too. Returns the last round's outcomes; [] for no specs, and
        then `next` is not called.
        """
        place = self.perdure.place()
        outcomes: list[StepOutcome] = []
        for round_number in range(max(1, max_iterations)):
            supply = StepSupply("loop", specs)
            if not supply.known:
                break
            outcomes = await self._fan_out(supply, place, round_number)
            match next(outcomes):
                case Continue(more):
                    specs = more
                case Stop():
                    break
                case other:
                    raise InputRejected(f"loop: next returned {other!r}; it returns Continue(specs) or Stop().")
        return outcomes

    async def run_graph(
        self, graph: GraphDefinition, initial_state: Mapping[str, JsonValue] | None = None
    ) -> WorkflowResult:
        """Run a stage graph; its result, whatever its status. `load_graph` makes one from text or plain JSON.

        The graph shares this run's budget, window, events and phase numbers. When the caller is cancelled, the graph
        compensates and then CancelledError is raised.
        """
        self.perdure.raise_if_cancelled()
        state = {**graph.initial_state, **(initial_state or {})}
        result, is_cancelled = await walk(self, graph, state, is_for_program=True)
        if is_cancelled:
            raise asyncio.CancelledError
        return result

    def log(self, level: str, message: str, fields: Any = None) -> None:
        """Append a log event to the run's events, and to the worker's log; never fails."""
        level, message = cut(str(level)), cut(_readable_text(message), MAX_LOG_MESSAGE)
        self.perdure.tell(Log(level=level, message=message, fields=_readable(fields)))
        workflow.logger.log(LOG_LEVELS.get(level.lower(), LOG_LEVELS["info"]), "%s", message)

    async def continue_as_new_if_needed(self, *args: Any) -> None:
        """Continue as new, with `args` for the new run, when this history has grown long; else return at once.

        Call it between phases, with everything that `run` needs to go on as its arguments. The ledger, the phase
        index, event offsets and run options go along by themselves.
        """
        run = self.perdure
        run.raise_if_cancelled()
        if run.is_long:
            await run.settled()
            run.continue_as_new(args)

    @workflow.query(name=wire.BUDGET_QUERY)
    def budget(self) -> BudgetSnapshot:
        """What was spent, what is set aside, and the limits."""
        return self.perdure.grants.snapshot()

    @workflow.query(name=wire.EVENTS_QUERY)
    def events(self, after: int = -1) -> EventPage:
        """The events that follow an offset; -1, the default, begins with the first."""
        return self.perdure.log.after(after)

    @workflow.query(name=wire.PROGRESS_QUERY)
    def progress(self) -> Progress:
        """Phases and steps with their status, attempts, durations and usage."""
        return self.perdure.board.report()

    @workflow.query(name=wire.APPROVALS_QUERY)
    def approvals(self) -> list[ApprovalRequest]:
        """What waits for a person's answer, oldest first."""
        return self.perdure.approvals.requests()

    @workflow.update(name=wire.RESOLVE_APPROVAL_UPDATE)
    def resolve_approval(self, answer: Any) -> ApprovalAnswer:
        """{id, response, answered_by?}: answer an approval; the first answer counts, a bad one is refused."""
        self.perdure.updates += 1
        accepted = self.perdure.approvals.read(answer)
        self.perdure.approvals.resolve(accepted)
        return accepted

    @resolve_approval.validator
    def _check_approval(self, answer: Any) -> None:
        self.perdure.approvals.read(answer)

    @workflow.signal(name=wire.SET_BUDGET_SIGNAL)
    def set_budget(self, change: Any = None, *more: Any) -> None:
        """{limit_tokens?, limit_usd?}: an absent limit stays as it is, null takes it away."""
        self.perdure.set_budget(change, *more)

    @workflow.signal(name=wire.SLICE_OUTCOMES_SIGNAL)
    def slice_outcomes(self, chunk: Any = None, *more: Any) -> None:
        """From a child of this run: outcomes that its result has no room for."""
        self.perdure.slice_outcomes(chunk, *more)

    @workflow.signal(name=wire.SLICE_SHORT_SIGNAL)
    def slice_short(self, short: Any = None, *more: Any) -> None:
        """From a child of this run: it needs more of the budget."""
        self.perdure.slice_short(short, *more)

    @workflow.signal(name=wire.RECORD_USAGE_SIGNAL)
    def record_usage(self, report: Any = None, *more: Any) -> None:
        """{id, input_tokens?, output_tokens?, cost_usd?}: charge what was spent elsewhere; an id counts once."""
        self.perdure.record_usage(report, *more)

    def _end_phase(self, phase: PhaseRecord) -> None:
        run, phase.is_done = self.perdure, True
        run.tell(PhaseEnd(name=phase.name, index=phase.index, succeeded=phase.succeeded, failed=phase.failed))
        run.tell_if_exhausted()
        run.refresh_details()

    async def _fan_out(
        self, supply: StepSupply, place: Place, round_number: int, at_most: int | None = None
    ) -> list[StepOutcome]:
        self.perdure.raise_if_cancelled()
        if not supply.known:
            return []
        place.expect(supply.known)
        prefix = place.round(round_number)
        return await self._branches(supply, place.id, prefix, place.stage, place.expect, at_most)

    async def _branches(
        self,
        supply: StepSupply,
        place: str,
        prefix: str,
        phase: PhaseRecord | None,
        expect: Callable[[int], None],
        at_most: int | None = None,
    ) -> list[StepOutcome]:
        """The outcomes of a call at a place, whose steps' identities begin with `prefix`."""
        run = self.perdure
        width = run.options.window if at_most is None else max(1, min(at_most, run.options.window))
        if supply.inline is None:
            supply.prefix = prefix
            endings = await FanOut(run, supply, place, phase, expect, width).endings()
            return [ending.outcome for ending in endings if ending.outcome is not None]
        with Announced(run, supply.known) as announced:

            async def branch(spec: AgentStepSpec) -> StepOutcome:
                announced.begin()
                return await execute(run, spec, f"{prefix}:{spec.task_id}", phase)

            return await sliding_window(supply.inline, width, branch)


def _readable(fields: Any) -> JsonValue:
    """Fields as JSON; a log event never fails, whatever it is given."""
    try:
        readable: JsonValue = to_jsonable_python(fields, fallback=repr)
        size = wire.size(readable)
    except Exception as error:  # noqa: BLE001 - cycles, bytes that are no text, a repr that raises
        return {"left_out": f"a {type(fields).__name__} that is no JSON ({type(error).__name__})"}
    if size > MAX_LOG_FIELDS_BYTES:
        return {"left_out": f"{size:,} bytes; a log event holds {MAX_LOG_FIELDS_BYTES:,}"}
    return readable


def _readable_text(message: object) -> str:
    try:
        return str(message).encode(errors="replace").decode()  # a lone surrogate cannot be stored
    except Exception as error:  # noqa: BLE001 - a __str__ that raises
        return f"(a {type(message).__name__} that cannot be read: {type(error).__name__})"
