"""A main agent that hands subtasks to specialists and answers in the end.

Source: car-multi, Delegator. A model agent calls the tool `delegate` as it does there: its step is suspended, the
specialists run as steps of their own, and it goes on with their results. An agent without tools (a function, a command)
ends its step with the structured output `{"delegate": [{"specialist", "subtask"}]}` instead, and a next step of it gets
the results; `requested` and `results_of` are the two ends of that round trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from workflows.errors import cut
from workflows.graph.conditions import as_text
from workflows.graph.results import AgentOutput, PatternOutput
from workflows.patterns import prompts
from workflows.patterns.asking import (
    Agents,
    Member,
    Reply,
    agent_output,
    ask,
    ask_one,
    failed,
    members,
    require,
)
from workflows.steps import AgentSpec
from workflows.suspension import gathering

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

KIND: Final = "delegator"
DELEGATE = "delegate"


@dataclass(frozen=True, slots=True)
class Delegation:
    """One subtask for one specialist; `fault` says why it cannot be run."""

    specialist: str
    subtask: str
    fault: str | None = None


async def delegator(workflow: AgentWorkflow, agents: Agents, task: str) -> PatternOutput:
    """The main agent's answer, `agents[0]`; the others are its specialists.

    It is asked `max_turns` times at most. Raises `PatternFailed` where it fails, or then still delegates.
    """
    main, *others = members(KIND, agents)
    specialists = {member.name: member for member in others}
    outputs: list[AgentOutput] = []
    results: list[str] = []
    for turn in range(1, main.max_turns + 1):
        prompt = prompts.delegation(task, list(specialists), "\n\n".join(results))
        question = main.question(prompt, task_id=f"{main.name}_turn_{turn}", specialists=_profiles(others))
        with gathering() as gathered:
            reply = await ask_one(workflow, question)
        outputs += [agent_output(delegation.specialist, outcome) for delegation, outcome in gathered]
        outputs.append(reply.output)
        require(KIND, "main agent", reply.output, outputs)
        delegations = requested(reply, list(specialists))
        if delegations is None:
            return PatternOutput(outputs=tuple(outputs), final_answer=reply.output.answer)
        if turn < main.max_turns:
            brought, told = await results_of(workflow, delegations, specialists, turn)
            outputs += brought
            results += told
    turns = f"{main.max_turns} {'turn' if main.max_turns == 1 else 'turns'}"
    raise failed(KIND, f"the main agent {main.name!r} still delegates after {turns}, its max_turns.", outputs)


def _profiles(specialists: Sequence[Member]) -> tuple[AgentSpec, ...]:
    """The specialists as the tool `delegate` offers them."""
    return tuple(
        member.agent if isinstance(member.agent, AgentSpec) else AgentSpec(name=member.name) for member in specialists
    )


def requested(reply: Reply, specialists: Sequence[str]) -> list[Delegation] | None:
    """What a reply delegates; None where it is an answer."""
    if not isinstance(reply.structured, dict) or DELEGATE not in reply.structured:
        return None
    given = reply.structured[DELEGATE]
    return [_read(entry, specialists) for entry in (given if isinstance(given, list) else [given])]


def _read(entry: JsonValue, specialists: Sequence[str]) -> Delegation:
    specialist = entry.get("specialist") if isinstance(entry, dict) else None
    subtask = entry.get("subtask") if isinstance(entry, dict) else None
    if not isinstance(specialist, str) or not isinstance(subtask, str):
        shown = cut(as_text(entry))
        return Delegation("?", shown, 'a delegation is an object with the texts "specialist" and "subtask".')
    if specialist not in specialists:
        there = ", ".join(repr(name) for name in specialists) or "none"
        return Delegation(specialist, subtask, f"there is no specialist {cut(specialist)!r}. There are: {there}.")
    return Delegation(specialist, subtask)


async def results_of(
    workflow: AgentWorkflow, delegations: Sequence[Delegation], specialists: dict[str, Member], turn: int
) -> tuple[list[AgentOutput], list[str]]:
    """Run the specialists side by side; their outputs, and one text for each delegation, in its order."""
    runnable = {number: each for number, each in enumerate(delegations) if each.fault is None}
    asked = [
        specialists[each.specialist].question(each.subtask, task_id=f"{each.specialist}_turn_{turn}_{number}")
        for number, each in runnable.items()
    ]
    outputs = [reply.output for reply in await ask(workflow, asked)] if asked else []
    by_number = dict(zip(runnable, outputs, strict=True))
    return outputs, [_told(each, by_number.get(number)) for number, each in enumerate(delegations)]


def _told(delegation: Delegation, output: AgentOutput | None) -> str:
    """What the main agent gets for one delegation."""
    if output is None:
        result = f"Not done: {delegation.fault}"
    elif output.succeeded:
        result = output.answer
    else:
        result = f"Failed: {output.error or 'the answer is empty'}"
    return f"[{delegation.specialist}] {delegation.subtask}\n{result}"
