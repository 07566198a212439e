"""Competitors answer once, and a judge chooses between two answers at a time until one is left.

Source: car-multi, Tournament. Single elimination in the order of the agents: neighbours meet, the odd one out has a
bye. Law: the bracket depends on the order of the agents and the judge's choices alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from workflows.graph.results import AgentOutput, PatternOutput
from workflows.patterns import prompts
from workflows.patterns.asking import (
    Agents,
    Member,
    Question,
    Reply,
    ask,
    chosen,
    failed,
    members,
    only_choice,
    require_any,
)
from workflows.patterns.configs import TournamentConfig, checked, picked

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

KIND: Final = "tournament"

Pair = tuple[AgentOutput, AgentOutput]


async def tournament(
    workflow: AgentWorkflow, agents: Agents, task: str, judge_index: int | None = None
) -> PatternOutput:
    """The winner's answer. The judge, the last agent unless an index is given, does not compete.

    Each match is a fresh step of the judge, `<judge>_match_<n>`; its `outcome` says who goes on. Where a judge fails,
    or names neither, the one that stands earlier goes on: by `order`, not by `judge`. Raises `PatternFailed` where no
    competitor answered, or no match at all was judged.
    """
    config = checked(KIND, TournamentConfig, {"judge_index": judge_index})
    team = members(KIND, agents)
    judge = picked(KIND, "judge_index", config.judge_index, team) or team[-1]
    competitors = [member for member in team if member is not judge]
    outputs = [each.output for each in await ask(workflow, [member.question(task) for member in competitors])]
    require_any(outputs)
    left, matches = [output for output in outputs if output.succeeded], list[AgentOutput]()
    while len(left) > 1:
        pairs, byes = paired(left)
        asked = [_match(judge, task, pair, len(matches) + number) for number, pair in enumerate(pairs, start=1)]
        judged = [decided(pair, reply) for pair, reply in zip(pairs, await ask(workflow, asked), strict=True)]
        left = [winner for winner, _ in judged] + byes
        matches += [match for _, match in judged]
    outputs += matches
    if matches and not any(match.succeeded for match in matches):
        raise failed(KIND, f"the judge {judge.name!r} decided no match: {matches[-1].error}", outputs)
    return PatternOutput(outputs=tuple(outputs), final_answer=left[0].answer)


def paired(left: Sequence[AgentOutput]) -> tuple[list[Pair], list[AgentOutput]]:
    """Neighbours as pairs, and the odd one out, if there is one."""
    pairs = [(left[position], left[position + 1]) for position in range(0, len(left) - 1, 2)]
    return pairs, list(left[2 * len(pairs) :])


def decided(pair: Pair, reply: Reply) -> tuple[AgentOutput, AgentOutput]:
    """Who goes on, and the judge's output, which says so."""
    one, other = pair
    chose = {one.name: one, other.name: other}.get(chosen(reply, "winner") or "")
    winner = chose or one
    outcome = {"winner": winner.name, "by": "judge" if chose else "order"}
    return winner, reply.output.model_copy(update={"outcome": outcome})


def _match(judge: Member, task: str, pair: Pair, number: int) -> Question:
    one, other = pair
    return judge.question(
        prompts.match(task, one, other),
        name=f"{judge.name}_match_{number}",
        schema=only_choice("winner", [one.name, other.name]),
    )
