"""The conversation of one step, from where its transcript stands to its end.

Law: what the transcript holds decides what comes next, so an attempt goes on exactly where the one before it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from pydantic_ai.messages import ToolCallPart

from activities.blobs import plain_json
from activities.context import StepContext
from activities.entries import ModelAgent
from activities.executors import Resources
from activities.executors.model.asking import Alive, Asking
from activities.executors.model.output import OUTPUT_TOOL, REPAIRS, Form, fault_in, sent_back
from activities.executors.model.spans import tool_span
from activities.executors.model.toolset import Asked, Toolset, decided, shortened
from activities.executors.model.transcript import CUT, REPLY, Result, Transcript, Turn
from activities.structured import StructuredOutputFailed
from activities.tools.context import ToolContext
from workflows.errors import RetryableStepError, StepFailed
from workflows.steps import AnswersNeeded, Delegation, StepCall, StepOutcome, ToolRequest, Usage

NAMED_TOOLS = 3
# A progress text has 120 characters.


async def converse(entry: ModelAgent, resources: Resources, call: StepCall, context: StepContext) -> Any:
    """Hold the conversation of a step to its end: what the agent returned.

    Raises `StepFailed`, `RetryableStepError` or `BudgetExceeded`.
    """
    alive = Alive(entry.idle_timeout_seconds)
    conversation = await _begun(Asking(entry, resources, context, alive), call)
    try:
        async with asyncio.timeout(alive.limit_seconds) as deadline:
            alive.watch(deadline)
            return await conversation.to_its_end()
    except TimeoutError:
        if not deadline.expired():
            raise
        raise RetryableStepError(
            f"agent {entry.name!r} made no progress for {alive.limit_seconds:g} s ('idle_timeout_seconds'): no answer, "
            "and no tool's result"
        ) from None


async def _begun(asking: Asking, call: StepCall) -> Conversation:
    entry, spec = asking.entry, call.spec
    try:
        form = await Form.of(spec.output_schema)
    except StructuredOutputFailed as error:
        raise StepFailed(f"structured output failed: {error}") from None
    transcript = Transcript(spec.prompt, entry.instructions)
    try:
        transcript.take(await asking.context.pieces())
    except ValueError as error:
        raise StepFailed(
            f"the transcript that step {spec.task_id!r} left cannot be read here: {error}. A newer worker may "
            "have written it: leave none of the older ones running"
        ) from None
    toolset = await Toolset.of(entry, spec, asking.resources)
    return Conversation(asking, call, toolset, form, transcript)


@dataclass(slots=True)
class Conversation:
    """The conversation of one step."""

    asking: Asking
    call: StepCall
    toolset: Toolset
    form: Form
    transcript: Transcript

    @property
    def entry(self) -> ModelAgent:
        """The agent that holds it."""
        return self.asking.entry

    @property
    def context(self) -> StepContext:
        """The step that it is held for."""
        return self.asking.context

    async def to_its_end(self) -> Any:
        """What the agent returned."""
        while True:
            turn = self.transcript.last
            if turn is None or turn.reply is not None or (turn.calls and not turn.pending):
                await self._ask()
                continue
            ended = await (self._serve(turn) if turn.calls else self._answered(turn))
            if ended is not None:
                return ended

    async def _ask(self) -> None:
        """Ask the model, and keep its answer."""
        self._tell("asking")
        answer = await self.asking.ask(
            self.transcript.messages(), self.toolset.definitions(), self.form, self.transcript.cut_at
        )
        if answer.cut_at is not None:
            self.transcript.cut_at = answer.cut_at
            await self.context.add({CUT: answer.cut_at})  # so that it is paid for once
            return
        _, piece = self.transcript.answered(answer.response)
        await self.context.add(piece)

    async def _answered(self, turn: Turn) -> Any:
        """The end, unless the answer does not fit its form: then the model is told."""
        if self.form.schema is None:
            return turn.text
        fault = await fault_in(self.form, None, turn.text)
        if fault is None or self._repairs() >= REPAIRS:
            return self._outcome(turn.text, turn.text, None)
        turn.reply = sent_back(fault)
        await self.context.add({REPLY: turn.reply})
        return None

    def _outcome(self, output: str, text: str, structured: JsonValue) -> StepOutcome:
        """An answer in its form. Where the step ends it is judged once more, and demoted if it does not fit."""
        spec = self.call.spec
        return StepOutcome(
            task_id=spec.task_id, agent=spec.agent, output=output or text, success=True, structured=structured
        )

    def _repairs(self) -> int:
        """How often an answer was sent back."""
        form = self.form
        return sum(
            turn.reply is not None or (form.output_call(turn.calls) is not None and not turn.pending)
            for turn in self.transcript.turns
        )

    async def _serve(self, turn: Turn) -> Any:
        """Make the calls of a turn; what the agent returned, or None where the conversation goes on."""
        if (given := self.form.output_call(turn.pending)) is not None:
            return await self._given(turn, given)
        rounds = sum(1 for one in self.transcript.turns if one.calls and self.form.output_call(one.calls) is None)
        if rounds > self._max_steps:
            return self._over_limit(turn)
        self._tell(_named(turn.pending))
        waiting = await self._make_calls(turn)
        return self._suspended(waiting) if waiting else None

    @property
    def _max_steps(self) -> int:
        return self.call.spec.max_steps or self.entry.max_steps

    def _over_limit(self, turn: Turn) -> StepOutcome:
        text = f"agent {self.entry.name!r} reached its limit of {self._max_steps} tool rounds ('max_steps')"
        said = next((one.text for one in reversed(self.transcript.turns) if one.text.strip()), "")
        return StepOutcome(
            task_id=self.call.spec.task_id,
            agent=self.call.spec.agent,
            output=f"Task failed: {text}\n\n{said}" if said else f"Task failed: {text}",
            success=False,
            status="failed",
            error=text,
        )

    async def _given(self, turn: Turn, given: ToolCallPart) -> Any:
        """The end by the tool that gives the final answer; other calls of the turn are not made."""
        structured, fault = await self._read(given)
        if fault is None or self._repairs() >= REPAIRS:
            written = str(given.args) if structured is None else plain_json(structured)
            return self._outcome(turn.text, written, structured)
        for call in turn.pending:
            told = sent_back(fault) if call is given else f"Not called, for {OUTPUT_TOOL!r} was called too."
            await self._keep(turn, Result(call.tool_call_id, told, "retried"))
        return None

    async def _read(self, given: ToolCallPart) -> tuple[dict[str, JsonValue] | None, str | None]:
        """The object that a call gives, and why it does not do."""
        try:
            structured = given.args_as_dict(raise_if_invalid=True)
        except (ValueError, AssertionError):
            return None, "the arguments are not a JSON object"
        return structured, await fault_in(self.form, structured, "")

    async def _make_calls(self, turn: Turn) -> list[Delegation | ToolRequest]:
        """Make the calls of a turn that can be made, all at once; what the others wait for."""
        waiting: list[Delegation | ToolRequest] = []
        async with asyncio.TaskGroup() as calls:
            for call in turn.pending:
                ready = self._ready(call)
                if isinstance(ready, (Delegation, ToolRequest)):
                    waiting.append(ready)
                elif isinstance(ready, Result):
                    calls.create_task(self._keep(turn, ready))
                else:
                    asked, note = ready
                    calls.create_task(self._make(turn, call, asked, note))
        return waiting

    def _ready(self, call: ToolCallPart) -> tuple[Asked, str] | Result | Delegation | ToolRequest:
        """What is to be done about a call, with the answers that have come."""
        asked = self.toolset.asked(call)
        answers = self.call.resume.answers if self.call.resume else {}
        if isinstance(asked, Result):
            return asked
        if isinstance(asked, Delegation):
            if call.tool_call_id in answers:
                return Result(call.tool_call_id, shortened(answers[call.tool_call_id]))
            return asked
        if not asked.tool.requires_approval:
            return asked, ""
        if call.tool_call_id not in answers:
            return ToolRequest(
                call_id=call.tool_call_id,
                tool=call.tool_name,
                arguments=asked.arguments,
                timeout_seconds=self.entry.approval_timeout_seconds,
            )
        decision = decided(call, asked, answers[call.tool_call_id])
        if isinstance(decision, Result):
            return decision
        judged = self.toolset.judged(call, decision[0])  # the worker's policies stand above a person's edit
        return judged if isinstance(judged, Result) else (judged, decision[1])

    async def _make(self, turn: Turn, call: ToolCallPart, asked: Asked, note: str) -> None:
        context = self.context
        resources = self.asking.resources
        told = ToolContext(
            idempotency_key=f"{context.idempotency_key}/{call.tool_call_id}",
            workspace=resources.workspace or Path.cwd(),
            attempt=context.attempt,
            log=context.log.bind(tool=call.tool_name),
        )
        with tool_span(call, asked, resources.tracing) as ended:
            result = await self.toolset.call(call.tool_call_id, asked, told, note=note)
            ended(result)
        context.record_after_llm(Usage(tool_calls=1))
        await self._keep(turn, result)

    async def _keep(self, turn: Turn, result: Result) -> None:
        await self.context.add(result.piece())
        turn.results[result.call_id] = result
        self.asking.alive.touch()

    def _suspended(self, waiting: Sequence[Delegation | ToolRequest]) -> StepOutcome:
        """The end until others have answered."""
        if self.context.is_unsaved:
            raise StepFailed(
                f"agent {self.entry.name!r} waits for answers, and its conversation could not be kept until they come. "
                "Set PERDURE_BLOBS to a folder or a bucket that all workers share"
            )
        needs = AnswersNeeded(
            delegations=tuple(one for one in waiting if isinstance(one, Delegation)),
            approvals=tuple(one for one in waiting if isinstance(one, ToolRequest)),
        )
        names = [
            *(f"specialist {one.specialist!r}" for one in needs.delegations),
            *(f"a decision about tool {one.tool!r}" for one in needs.approvals),
        ]
        text = f"agent {self.entry.name!r} waits for {', '.join(names)}"
        return StepOutcome(
            task_id=self.call.spec.task_id,
            agent=self.call.spec.agent,
            output=f"Task failed: {text}",
            success=False,
            status="suspended",
            error=text,
            needs=needs,
        )

    def _tell(self, doing: str) -> None:
        number = len(self.transcript.turns) + (doing == "asking")
        self.context.progress(f"turn {number}: {doing} …")


def _named(calls: Sequence[ToolCallPart]) -> str:
    names = ", ".join(call.tool_name for call in calls[:NAMED_TOOLS])
    more = len(calls) - NAMED_TOOLS
    return f"{names} and {more} more" if more > 0 else names
