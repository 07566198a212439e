"""Function agents of the tests' world."""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from activities.context import StepContext
from workflows import AgentStepSpec, RetryableStepError, StepOutcome, Usage
from workflows.steps import AnswersNeeded, Delegation, Needs, TokensNeeded

GATHER_SECONDS = 20
# Far more than it takes to start what a window has room for; who waits so long waits in vain.


@dataclass
class Gathering:
    """Steps that are at work side by side."""

    present: int = 0
    is_complete: asyncio.Event = field(default_factory=asyncio.Event)


GATHERINGS: defaultdict[str, Gathering] = defaultdict(Gathering)
"""By the name that their prompts give them."""


async def together(step: AgentStepSpec) -> str:
    """Ends as soon as so many of its name are at work side by side: the prompt is "<how many> <name>"."""
    count, name = step.prompt.split()
    gathering = GATHERINGS[name]
    gathering.present += 1
    if gathering.present == int(count):
        gathering.is_complete.set()
    try:
        await asyncio.wait_for(gathering.is_complete.wait(), GATHER_SECONDS)
    except TimeoutError:
        return "waited in vain"
    return "gathered"


def witness(step: AgentStepSpec, context: StepContext) -> str:
    """Writes down, outside the product, that it ran: the prompt names the file."""
    line = f"{step.task_id} {context.idempotency_key} {context.attempt}\n"
    descriptor = os.open(step.prompt, os.O_WRONLY | os.O_APPEND | os.O_CREAT)  # one write, so lines never mix
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
    return "seen"


async def crash(step: AgentStepSpec) -> str:
    """Has a fault."""
    raise KeyError(step.prompt)


async def verbose(step: AgentStepSpec) -> str:
    """Answers with as many characters as the prompt asks for."""
    return "x" * int(step.prompt)


async def inspect(step: AgentStepSpec, context: StepContext) -> dict[str, Any]:
    """Returns an object, and says what it spent."""
    context.record_after_llm(Usage(input_tokens=7, output_tokens=3))
    return {"subject": step.prompt, "findings": len(step.prompt)}


def suspended(step: AgentStepSpec, needs: Needs) -> StepOutcome:
    """The outcome of a step that waits for something."""
    return StepOutcome(
        task_id=step.task_id, agent=step.agent, output="", success=False, status="suspended", needs=needs
    )


async def insatiable(step: AgentStepSpec, context: StepContext) -> StepOutcome:
    """Asks for more tokens, whatever it has."""
    return suspended(step, TokensNeeded())


async def refused_once(step: AgentStepSpec, context: StepContext) -> str:
    """Asks for a service that wants to be left alone for half a minute."""
    if context.attempt == 1:
        raise RetryableStepError("the service asks to wait", after=timedelta(seconds=30))
    return "answered"


async def asking(step: AgentStepSpec, context: StepContext) -> StepOutcome | str:
    """Asks for what its metadata says (the fields of `AnswersNeeded`), and answers with the answers it got."""
    if context.answers:
        return json.dumps(context.answers)
    return suspended(step, AnswersNeeded.model_validate(step.metadata))


async def delegating(step: AgentStepSpec, context: StepContext) -> StepOutcome | str:
    """Hands its prompt on to itself, without end, and answers with what came back."""
    if context.answers:
        return f"asked: {context.answers['again']}"
    return suspended(
        step, AnswersNeeded(delegations=(Delegation(call_id="again", specialist="delegating", subtask=step.prompt),))
    )


async def weigh(step: AgentStepSpec, context: StepContext) -> str:
    """Says how long its prompt is."""
    context.record_after_llm(Usage(input_tokens=8, output_tokens=2))
    return f"{len(step.prompt)} characters"
