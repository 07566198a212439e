"""`Steps`: phases of agent steps as plain JSON, for callers without Python.

In:  `[{"name": str, "steps": [AgentStepSpec]}]`
Out: `{"phases": [{"name", "index", "outcomes"}], "budget", "succeeded", "failed"}`

Failed steps are data; a phase begins when the one before it has ended, whatever its outcomes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from workflows import wire
from workflows.budget import BudgetSnapshot
from workflows.calls import CANCELLED_TEXT, failed
from workflows.errors import DuplicateTaskIds, InputRejected, PayloadTooLarge
from workflows.oversize import KEPT_OUTPUT_BYTES, trimmed
from workflows.parsing import nearest, problems, told
from workflows.steps import AgentStepSpec, StepOutcome
from workflows.verbs import AgentWorkflow
from workflows.wire import Stored


class PhaseSpec(Stored):
    """A phase as a caller writes it."""

    name: str = Field(min_length=1)
    steps: tuple[AgentStepSpec, ...]


class PhaseReport(Stored):
    """A phase as it ended."""

    name: str
    index: int
    outcomes: tuple[StepOutcome, ...]


class StepsReport(Stored):
    """The result of a `Steps` run."""

    phases: tuple[PhaseReport, ...]
    budget: BudgetSnapshot
    succeeded: int
    failed: int
    """Steps of the whole run, also where their outcomes had to be left out."""
    left_out: str | None = None
    """Set where the report was too large for a history: which outputs were replaced, and by what."""


_PHASES = TypeAdapter(tuple[PhaseSpec, ...])


def parse_phases(value: Any) -> tuple[PhaseSpec, ...]:
    """The input of `Steps` as phases.

    Raises `InputRejected`, naming every field that is wrong, or `DuplicateTaskIds`.
    """
    if not isinstance(value, list):
        raise InputRejected(f'Steps takes a list of phases, [{{"name": …, "steps": […]}}]; it was given {told(value)}.')
    try:
        phases = _PHASES.validate_python(value)
    except ValidationError as error:
        raise InputRejected(" ".join(problems(error, (), "Steps"))) from None
    for phase in phases:
        _refuse_repeated_ids(phase)
    return phases


def unknown_fields(value: list[Any]) -> list[str]:
    """A sentence for each field that perdure does not know; such fields are ignored, as a3s ignores them."""
    found = []
    for number, phase in enumerate(value):
        found += _unknown(phase, PhaseSpec, f"phase {number}")
        for step in phase.get("steps", ()):
            found += _unknown(step, AgentStepSpec, f"step {step.get('task_id')!r}")
    return found


def _unknown(given: dict[str, Any], model: type[Stored], where: str) -> list[str]:
    known = model.model_fields
    return [
        f"{where}: {name!r} is not known and is ignored.{nearest(name, known)}" for name in given if name not in known
    ]


def _refuse_repeated_ids(phase: PhaseSpec) -> None:
    seen: set[str] = set()
    for step in phase.steps:
        if step.task_id in seen:
            raise DuplicateTaskIds(f"phase {phase.name!r}", [step.task_id])
        seen.add(step.task_id)


@workflow.defn(name=wire.STEPS_WORKFLOW)
class Steps(AgentWorkflow):
    """Runs phases of agent steps, one phase after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._ended: list[PhaseReport] = []

    @workflow.run
    async def run(self, phases: Any = None, *more: Any) -> StepsReport:
        """Run the phases; a run that is cancelled fails with its report, type `cancelled`."""
        if more:
            raise InputRejected(f"Steps takes one argument, a list of phases; it was given {len(more) + 1}.")
        parsed = parse_phases(phases)
        for sentence in unknown_fields(phases):
            self.log("warning", sentence)
        for index, phase in enumerate(parsed):
            try:
                outcomes = await self.phase(phase.name, phase.steps)
            except asyncio.CancelledError:
                self._ended.append(self._interrupted(phase, index))
                raise self._cancelled() from None
            self._ended.append(PhaseReport(name=phase.name, index=index, outcomes=tuple(outcomes)))
        return self._report()

    def _interrupted(self, phase: PhaseSpec, index: int) -> PhaseReport:
        """The phase that was cancelled: what ended, and a cancelled outcome for each step that never began."""
        begun = [record for record in self.perdure.board.phases if record.index == index]
        ended = begun[0].ended if begun else {}
        outcomes = [ended.get(step.task_id) or failed(step, "cancelled", CANCELLED_TEXT) for step in phase.steps]
        return PhaseReport(name=phase.name, index=index, outcomes=tuple(outcomes))

    def _cancelled(self) -> ApplicationError:
        return ApplicationError("the run was cancelled", self._report(), type=wire.CANCELLED, non_retryable=True)

    def _report(self) -> StepsReport:
        outcomes = [outcome for phase in self._ended for outcome in phase.outcomes]
        succeeded = sum(outcome.success for outcome in outcomes)
        report = StepsReport(
            phases=tuple(self._ended),
            budget=self.budget(),
            succeeded=succeeded,
            failed=len(outcomes) - succeeded,
        )
        return report if wire.fits(report) else _fitting(report)


def _fitting(report: StepsReport) -> StepsReport:
    """The report in a size that one payload takes; `left_out` says what it lacks."""
    phases = trimmed(list(report.phases))
    said = f"outputs over {KEPT_OUTPUT_BYTES:,} bytes were replaced by their size and hash"
    lighter = report.model_copy(update={"phases": tuple(phases), "left_out": said})
    kept = max((len(phase.outcomes) for phase in phases), default=0)
    while not wire.fits(lighter):
        if not kept:
            raise PayloadTooLarge(
                owner="Steps", field="the report", size=wire.size(lighter), limit=wire.largest_payload()
            )
        kept //= 2
        cut = tuple(phase.model_copy(update={"outcomes": phase.outcomes[:kept]}) for phase in phases)
        missing = sum(max(0, len(phase.outcomes) - kept) for phase in phases)
        more = f"{said}; {missing:,} outcomes were left out, {kept:,} of each phase are kept"
        lighter = report.model_copy(update={"phases": cut, "left_out": more})
    return lighter
