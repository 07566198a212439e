"""Agents with tasks of their own, side by side; none of them fails the others.

Source: car-multi, Fleet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workflows.errors import cut
from workflows.graph.results import AgentOutput, PatternOutput
from workflows.patterns.asking import Agents, Member, Reply, ask, failed, members
from workflows.patterns.configs import FleetConfig, checked
from workflows.steps import AgentSpec

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

KIND: Final = "fleet"
TIMEOUT = "timeout"


async def fleet(workflow: AgentWorkflow, agents: Agents, task: str, timeout_secs: float | None = None) -> PatternOutput:
    """`<s> succeeded, <f> failed`. Each agent gets the task in its `metadata.task`, else the common one.

    An agent past `timeout_secs`, counted from its own start, has the error `timeout`. Never fails for its agents.
    """
    config = checked(KIND, FleetConfig, {"timeout_secs": timeout_secs})
    # A step's own limit is the kernel's `within`: it counts from the start of the step, not while it waits its turn.
    asked = [
        member.question(_task_of(member, task), timeout_seconds=config.timeout_secs) for member in members(KIND, agents)
    ]
    replies = await ask(workflow, asked)
    outputs = [_in_time(reply) if config.timeout_secs is not None else reply.output for reply in replies]
    succeeded = sum(output.succeeded for output in outputs)
    final_answer = f"{succeeded} succeeded, {len(outputs) - succeeded} failed"
    return PatternOutput(outputs=tuple(outputs), final_answer=final_answer)


def _task_of(member: Member, task: str) -> str:
    own = member.agent.metadata.get("task") if isinstance(member.agent, AgentSpec) else None
    if own is None:
        return task
    if not isinstance(own, str):
        raise failed(KIND, f"agent {member.name!r} has the metadata.task {cut(repr(own))}, and it takes a text.")
    return own


def _in_time(reply: Reply) -> AgentOutput:
    return reply.output.model_copy(update={"error": TIMEOUT}) if reply.is_timed_out else reply.output
