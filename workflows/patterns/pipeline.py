"""A line of agents; each sees the answer of the one before it, and the last one's counts.

Source: car-multi, Pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflows.graph.results import AgentOutput, PatternOutput
from workflows.patterns import prompts
from workflows.patterns.asking import Agents, ask_one, members, require, require_any

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow


async def pipeline(workflow: AgentWorkflow, agents: Agents, task: str) -> PatternOutput:
    """The last agent's answer. Where an agent failed, the next one sees the latest answer before it.

    Raises `PatternFailed` where the last agent failed.
    """
    outputs: list[AgentOutput] = []
    previous: list[AgentOutput] = []
    for member in members("pipeline", agents):
        question = member.question(prompts.with_findings(task, previous))
        output = (await ask_one(workflow, question)).output
        outputs.append(output)
        if output.succeeded:
            previous = [output]
    require_any(outputs)
    require("pipeline", "last agent", outputs[-1], outputs)
    return PatternOutput(outputs=tuple(outputs), final_answer=outputs[-1].answer)
