"""One answer out of many: the synthesizer's, else all of them, each under its agent's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflows.graph.results import AgentOutput
from workflows.patterns import prompts
from workflows.patterns.asking import Member, ask_one

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow


async def synthesized(
    workflow: AgentWorkflow, synthesizer: Member | None, task: str, outputs: list[AgentOutput]
) -> str | None:
    """The synthesizer's answer, its output added to the others; None where there is no synthesizer, or it failed."""
    if synthesizer is None:
        return None
    question = synthesizer.question(prompts.synthesis(task, outputs), name=f"{synthesizer.name}_synthesis")
    output = (await ask_one(workflow, question)).output
    outputs.append(output)
    return output.answer if output.succeeded else None


async def combined(workflow: AgentWorkflow, synthesizer: Member | None, task: str, outputs: list[AgentOutput]) -> str:
    """The synthesizer's answer, else the succeeded answers: nothing is lost where the synthesizer fails."""
    workers = list(outputs)
    answer = await synthesized(workflow, synthesizer, task, outputs)
    return prompts.named(workers) if answer is None else answer
