"""All agents answer, and the most common answer wins.

Source: car-multi, Vote. Answers are compared trimmed and in lower case; ties go to the answer that an agent of a lower
index gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workflows.errors import cut
from workflows.graph.results import AgentOutput, PatternOutput
from workflows.patterns import prompts
from workflows.patterns.asking import Agents, Reply, ask, chosen, failed, members, only_choice, require_any
from workflows.patterns.combining import synthesized
from workflows.patterns.configs import VoteConfig, checked, picked

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

KIND: Final = "vote"


@dataclass(frozen=True, slots=True)
class Tally:
    """The winning answer as it was first written, and how many of all voters gave it."""

    answer: str
    votes: int
    voters: int

    @property
    def ratio(self) -> float:
        """Votes by voters; one that failed is a voter too."""
        return self.votes / self.voters


async def vote(
    workflow: AgentWorkflow,
    agents: Agents,
    task: str,
    synthesizer_index: int | None = None,
    quorum: float | None = None,
    choices: list[str] | None = None,
) -> PatternOutput:
    """The synthesizer's answer, else the most common one as it was first written.

    With `choices`, voters are asked for structured output, and a reply that fits none is a failed one. `quorum` is
    the least share of all voters that wins; a synthesizer's answer always has it. Raises `PatternFailed` where no
    agent answered, or no answer has the quorum.
    """
    given = {"synthesizer_index": synthesizer_index, "quorum": quorum, "choices": choices}
    config = checked(KIND, VoteConfig, given)
    team = members(KIND, agents)
    synthesizer = picked(KIND, "synthesizer_index", config.synthesizer_index, team)
    prompt = task if config.choices is None else prompts.ballot(task, config.choices)
    schema = None if config.choices is None else only_choice("choice", config.choices)
    replies = await ask(workflow, [member.question(prompt, schema=schema) for member in team])
    outputs = [reply.output if config.choices is None else _ballot(reply) for reply in replies]
    require_any(outputs)
    tally = counted(outputs)
    answer = await synthesized(workflow, synthesizer, task, outputs)
    if answer is not None:
        workflow.log("info", "vote: the synthesizer decided", {"ratio": 1.0})
        return PatternOutput(outputs=tuple(outputs), final_answer=answer)
    _require_quorum(tally, config.quorum, outputs)
    workflow.log("info", f"vote: {tally.votes} of {tally.voters} voters agree", {"ratio": tally.ratio})
    return PatternOutput(outputs=tuple(outputs), final_answer=tally.answer)


def counted(outputs: Sequence[AgentOutput]) -> Tally:
    """Count the succeeded answers, of which there is at least one."""
    groups: dict[str, list[str]] = {}
    for output in outputs:
        if output.succeeded:
            groups.setdefault(output.answer.strip().lower(), []).append(output.answer)
    winner = max(groups.values(), key=len)  # of equals the first, and groups stand in the order of the agents
    return Tally(answer=winner[0], votes=len(winner), voters=len(outputs))


def _ballot(reply: Reply) -> AgentOutput:
    """A voter's output with its choice as the answer."""
    choice = chosen(reply, "choice")
    return reply.output if choice is None else reply.output.model_copy(update={"answer": choice})


def _require_quorum(tally: Tally, quorum: float | None, outputs: Sequence[AgentOutput]) -> None:
    if quorum is not None and tally.ratio < quorum:
        won = f"{cut(tally.answer)!r} has {tally.votes} of {tally.voters} voters ({tally.ratio:.2f})"
        raise failed(KIND, f"no quorum: {won}, and it takes {quorum:g}.", outputs)
