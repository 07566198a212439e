"""The scripted agents of the patterns' tests: each plays what its own metadata says."""

from __future__ import annotations

import asyncio
from typing import Any

from activities.context import StepContext
from tests.agents import suspended
from workflows import AgentStepSpec
from workflows.errors import StepFailed
from workflows.steps import AnswersNeeded, Delegation


async def play(step: AgentStepSpec) -> Any:
    """The reply that the script has for this step, or for any (`*`); without one, the prompt comes back.

    A reply is a text, an object (structured output), {"fail": text}, or {"sleep": seconds}, after which it is `late`.
    """
    script = step.profile.metadata.get("script", {}) if step.profile else {}
    assert isinstance(script, dict)
    reply = script.get(step.task_id, script.get("*", step.prompt))
    match reply:
        case {"fail": text}:
            raise StepFailed(str(text))
        case {"sleep": float(seconds)}:
            await asyncio.sleep(seconds)
            return "late"
    return reply


async def delegate(step: AgentStepSpec, context: StepContext) -> Any:
    """A lead with a tool: asks each specialist that it is offered once, and answers with what they said."""
    if context.answers:
        return " and ".join(str(answer) for answer in context.answers.values())
    asked = tuple(
        Delegation(call_id=str(number), specialist=specialist.name, subtask=f"part {number}")
        for number, specialist in enumerate(step.specialists)
    )
    return suspended(step, AnswersNeeded(delegations=asked))
