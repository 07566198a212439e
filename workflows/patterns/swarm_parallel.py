"""All agents at once on the same task; one of them may combine what they found.

Source: car-multi, Swarm (parallel).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workflows.graph.results import PatternOutput
from workflows.patterns.asking import Agents, ask, members, require_any
from workflows.patterns.combining import combined
from workflows.patterns.configs import SwarmParallelConfig, checked, picked

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

KIND: Final = "swarm_parallel"


async def swarm_parallel(
    workflow: AgentWorkflow, agents: Agents, task: str, synthesizer_index: int | None = None
) -> PatternOutput:
    """The synthesizer's answer, else the succeeded answers, each under its agent's name.

    The synthesizer answers the task too, and then once more with all answers before it, as `<name>_synthesis`.
    Raises `PatternFailed` where no agent answered.
    """
    config = checked(KIND, SwarmParallelConfig, {"synthesizer_index": synthesizer_index})
    team = members(KIND, agents)
    synthesizer = picked(KIND, "synthesizer_index", config.synthesizer_index, team)
    outputs = [each.output for each in await ask(workflow, [member.question(task) for member in team])]
    require_any(outputs)
    answer = await combined(workflow, synthesizer, task, outputs)
    return PatternOutput(outputs=tuple(outputs), final_answer=answer)
