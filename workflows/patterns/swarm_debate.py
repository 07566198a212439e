"""All agents answer, then each sees the others' answers, criticises them and answers again.

Source: car-multi, Swarm (debate).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from workflows.graph.pace import Pace
from workflows.graph.results import AgentOutput, PatternOutput
from workflows.patterns import prompts
from workflows.patterns.asking import Agents, Member, Question, ask, members, next_round, require_any
from workflows.patterns.combining import combined
from workflows.patterns.configs import DEFAULT_DEBATE_ROUNDS, SwarmDebateConfig, checked, picked

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

KIND: Final = "swarm_debate"


async def swarm_debate(
    workflow: AgentWorkflow,
    agents: Agents,
    task: str,
    synthesizer_index: int | None = None,
    rounds: int = DEFAULT_DEBATE_ROUNDS,
) -> PatternOutput:
    """The synthesizer's answer over all rounds, else the succeeded answers of all rounds, each under its name.

    The outputs of round 2 are named `<name>_critique`, those of round 3 `<name>_critique_2`, and so on.
    Raises `PatternFailed` where no agent answered.
    """
    config = checked(KIND, SwarmDebateConfig, {"synthesizer_index": synthesizer_index, "rounds": rounds})
    team = members(KIND, agents)
    synthesizer = picked(KIND, "synthesizer_index", config.synthesizer_index, team)
    latest = [each.output for each in await ask(workflow, [member.question(task) for member in team])]
    outputs, pace = list(latest), Pace()
    for number in range(1, config.rounds):
        require_any(outputs)
        await next_round(KIND, pace, len(team), outputs)
        asked = [_critique(member, position, number, task, latest) for position, member in enumerate(team)]
        latest = [each.output for each in await ask(workflow, asked)]
        outputs += latest
    require_any(outputs)
    answer = await combined(workflow, synthesizer, task, outputs)
    return PatternOutput(outputs=tuple(outputs), final_answer=answer)


def _critique(member: Member, position: int, number: int, task: str, latest: Sequence[AgentOutput]) -> Question:
    """What an agent is asked in a later round: the others' latest answers, never its own."""
    others = [output for index, output in enumerate(latest) if index != position]
    suffix = "_critique" if number == 1 else f"_critique_{number}"
    return member.question(prompts.critique(task, others), name=f"{member.name}{suffix}")
