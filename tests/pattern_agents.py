"""The scripted agents of the patterns' tests: each plays what its own metadata says."""

from __future__ import annotations

import asyncio
from typing import Any

from workflows import AgentStepSpec
from workflows.errors import StepFailed


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
