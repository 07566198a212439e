"""Workers answer, a supervisor approves or sends them back with its feedback, a few rounds at most.

Source: car-multi, Supervisor. It approves wherever the word stands in the reply; here the reply must start with it,
for "NOT APPROVED" is no approval.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from workflows.graph.pace import Pace
from workflows.graph.results import AgentOutput, PatternOutput
from workflows.patterns import prompts
from workflows.patterns.asking import Agents, Member, ask, ask_one, failed, members, next_round, require_any
from workflows.patterns.configs import DEFAULT_SUPERVISION_ROUNDS, SupervisorConfig, checked, picked

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

KIND: Final = "supervisor"

APPROVAL = re.compile(rf"\s*{prompts.APPROVED}\b[:.,!]?\s*(.*)", re.DOTALL)
"""A reply that approves, and what follows the word."""


async def supervisor(
    workflow: AgentWorkflow,
    agents: Agents,
    task: str,
    max_rounds: int = DEFAULT_SUPERVISION_ROUNDS,
    supervisor_index: int | None = None,
) -> PatternOutput:
    """What the supervisor let follow its APPROVED; the workers' answers where that was nothing.

    Without an approval in `max_rounds`, its last feedback behind `[max supervision rounds reached]`. The supervisor
    is the last agent unless an index is given; all others work. Raises `PatternFailed` where no worker ever answered,
    or the supervisor never judged.
    """
    config = checked(KIND, SupervisorConfig, {"max_rounds": max_rounds, "supervisor_index": supervisor_index})
    team = members(KIND, agents)
    judge = picked(KIND, "supervisor_index", config.supervisor_index, team) or team[-1]
    workers = [member for member in team if member is not judge]
    outputs: list[AgentOutput] = []
    feedback, pace = "", Pace()
    for number in range(1, config.max_rounds + 1):
        await next_round(KIND, pace, len(team), outputs)
        answers = await _work(workflow, workers, prompts.revision(task, feedback), number)
        outputs += answers
        if not any(answer.succeeded for answer in answers):
            continue  # nothing to judge
        verdict = await _judgement(workflow, judge, prompts.supervision(task, answers), number)
        outputs.append(verdict)
        approved = approval(verdict.answer) if verdict.succeeded else None
        if approved is not None:
            return PatternOutput(outputs=tuple(outputs), final_answer=approved or plain(answers))
        feedback = verdict.answer if verdict.succeeded else feedback
    require_any(outputs)
    if not feedback:
        raise failed(KIND, _never_judged(judge, outputs), outputs)
    return PatternOutput(outputs=tuple(outputs), final_answer=f"{prompts.ROUNDS_REACHED} {feedback}")


def approval(reply: str) -> str | None:
    """What follows the APPROVED that a reply starts with; None where it does not approve."""
    found = APPROVAL.fullmatch(reply)
    return None if found is None else found[1].rstrip()


def plain(answers: Sequence[AgentOutput]) -> str:
    """One worker's answer as it is; those of several under their names."""
    succeeded = [answer for answer in answers if answer.succeeded]
    return succeeded[0].answer if len(succeeded) == 1 else prompts.named(succeeded)


async def _work(workflow: AgentWorkflow, workers: Sequence[Member], prompt: str, number: int) -> list[AgentOutput]:
    asked = [worker.question(prompt, task_id=f"{worker.name}_round_{number}") for worker in workers]
    return [each.output for each in await ask(workflow, asked)]


async def _judgement(workflow: AgentWorkflow, judge: Member, prompt: str, number: int) -> AgentOutput:
    return (await ask_one(workflow, judge.question(prompt, task_id=f"{judge.name}_round_{number}"))).output


def _never_judged(judge: Member, outputs: Sequence[AgentOutput]) -> str:
    errors = [output.error or "its reply is empty" for output in outputs if output.name == judge.name]
    return f"the supervisor {judge.name!r} judged no round: {errors[-1]}"
