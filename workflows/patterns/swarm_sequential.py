"""One agent after the other; each builds on what the earlier ones found.

Source: car-multi, Swarm (sequential).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflows.graph.results import AgentOutput, PatternOutput
from workflows.patterns import prompts
from workflows.patterns.asking import Agents, ask_one, members, require_any

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow


async def swarm_sequential(workflow: AgentWorkflow, agents: Agents, task: str) -> PatternOutput:
    """The last succeeded answer. Each task ends with the earlier succeeded answers.

    Raises `PatternFailed` where no agent answered.
    """
    outputs: list[AgentOutput] = []
    for member in members("swarm_sequential", agents):
        question = member.question(prompts.with_findings(task, outputs))
        outputs.append((await ask_one(workflow, question)).output)
    require_any(outputs)
    last = [output for output in outputs if output.succeeded][-1]
    return PatternOutput(outputs=tuple(outputs), final_answer=last.answer)
