"""Asking the agents of a pattern: an agent becomes a step, and its outcome an AgentOutput.

Law: an agent that fails is an AgentOutput with its error. A pattern fails only where nothing is left to answer with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from workflows import wire
from workflows.errors import PatternFailed
from workflows.graph.definition import PatternKind
from workflows.graph.pace import Pace
from workflows.graph.results import AgentOutput, AgentTokens
from workflows.history import refuses_stages
from workflows.patterns.configs import LEAST_AGENTS
from workflows.steps import DEFAULT_MAX_TURNS, AgentSpec, AgentStepSpec, StepOutcome

if TYPE_CHECKING:
    from workflows.verbs import AgentWorkflow

Agents = Sequence[AgentSpec | str]
"""Agents written out where they are used, or names of agents.toml."""

Schema = dict[str, JsonValue]

NO_OUTPUT = "agent error: no agents produced output"

MALFORMED = "structured output failed: "
# How a step says that its agent answered, and that the answer is not what the schema asks for. It has no status of
# its own for that, so its error's first words tell.


_subject: ContextVar[str] = ContextVar("perdure_subject", default="")


@contextmanager
def asking_about(subject: str) -> Iterator[None]:
    """The questions inside say in the Temporal UI what they are about, where a pattern runs once for each of many."""
    before = _subject.get()
    _subject.set(subject)
    try:
        yield
    finally:
        _subject.set(before)  # not by its token: a coroutine that is evicted is closed in another context


@dataclass(frozen=True, slots=True)
class Question:
    """One step to be run, and the name that its output carries."""

    name: str
    spec: AgentStepSpec


@dataclass(frozen=True, slots=True)
class Reply:
    """An agent's output, and what the pattern reads in it."""

    output: AgentOutput
    structured: JsonValue
    text: str
    """The agent's own words, also where they are not what was asked for."""
    is_timed_out: bool
    is_malformed: bool
    """Whether the agent answered, but not in the form that it was asked for."""


@dataclass(frozen=True, slots=True)
class Member:
    """One agent of a pattern, under a name that no other agent of the pattern has."""

    name: str
    agent: AgentSpec | str

    @property
    def max_turns(self) -> int:
        """How often the agent may be asked in one conversation."""
        return self.agent.max_turns if isinstance(self.agent, AgentSpec) else DEFAULT_MAX_TURNS

    def question(
        self,
        prompt: str,
        *,
        name: str | None = None,
        task_id: str | None = None,
        schema: Schema | None = None,
        timeout_seconds: float | None = None,
        specialists: tuple[AgentSpec, ...] = (),
    ) -> Question:
        """The step that asks this agent. Its output carries the member's name, its id the output's, unless given."""
        name, subject = name or self.name, _subject.get()
        profile = self.agent if isinstance(self.agent, AgentSpec) else None
        spec = AgentStepSpec(
            task_id=task_id or name,
            description=f"{task_id or name}, {subject}" if subject else "",
            agent=_name_of(self.agent),
            prompt=prompt,
            profile=profile,
            output_schema=schema,
            timeout_seconds=timeout_seconds,
            specialists=specialists,
        )
        return Question(name, spec)


def members(kind: PatternKind, agents: Agents) -> list[Member]:
    """The agents of a pattern, each under a name of its own: the second `a` is `a_2`.

    Raises `PatternFailed` where a role has no agent, or an agent no name.
    """
    least = LEAST_AGENTS[kind]
    if least.roles and len(agents) < least.count:
        noun = "agent" if least.count == 1 else "agents"
        raise failed(kind, f"requires at least {least.count} {noun} ({least.roles})")
    for position, agent in enumerate(agents):
        if not _name_of(agent):
            raise failed(kind, f"agent {position} has no name. Give it one.")
    names = _unique([_name_of(agent) for agent in agents])
    return [Member(name, agent) for name, agent in zip(names, agents, strict=True)]


def _name_of(agent: AgentSpec | str) -> str:
    return agent if isinstance(agent, str) else agent.name


def _unique(names: Sequence[str]) -> list[str]:
    """Each name once: a repeated one gets the first number that makes a name which nobody has."""
    taken, seen, unique = set(names), set[str](), []
    for name in names:
        own = name
        if name in seen:
            own = next(each for number in count(2) if (each := f"{name}_{number}") not in taken)
            taken.add(own)
        seen.add(name)
        unique.append(own)
    return unique


async def ask(workflow: AgentWorkflow, questions: Iterable[Question]) -> list[Reply]:
    """Run the steps side by side, in the run's window; replies in the order of the questions."""
    asked = list(questions)
    outcomes = await workflow.parallel([question.spec for question in asked])
    return [reply(question.name, outcome) for question, outcome in zip(asked, outcomes, strict=True)]


async def ask_one(workflow: AgentWorkflow, question: Question) -> Reply:
    """Run one step."""
    return reply(question.name, await workflow.agent(question.spec))


async def next_round(kind: PatternKind, pace: Pace, steps: int, outputs: Sequence[AgentOutput]) -> None:
    """Before each round of a pattern that takes any number of them: steps that are denied wait for nothing.

    Raises `PatternFailed`, with what was brought, where the run's history has no room for another round.
    """
    if full := refuses_stages():
        raise failed(kind, full, outputs)
    await pace.spend(1 + steps)


def reply(name: str, outcome: StepOutcome) -> Reply:
    """What an outcome means to a pattern."""
    output = agent_output(name, outcome)
    return Reply(
        output=output,
        structured=outcome.structured,
        text=outcome.output,
        is_timed_out=outcome.status == "timed_out",
        is_malformed=output.error is not None and output.error.startswith(MALFORMED),
    )


def agent_output(name: str, outcome: StepOutcome) -> AgentOutput:
    """A step's outcome as a pattern reports it."""
    usage, tokens = outcome.usage, None
    if usage.total_tokens or usage.cost_usd is not None:
        tokens = AgentTokens(
            input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cost_usd=usage.cost_usd
        )
    return AgentOutput(
        name=name,
        answer=outcome.output if outcome.success else _left(outcome),
        turns=usage.requests,
        tool_calls=usage.tool_calls,
        duration_ms=outcome.duration_ms,
        error=None if outcome.success else outcome.error or outcome.output or outcome.status,
        tokens=tokens,
    )


def _left(outcome: StepOutcome) -> str:
    """What a failed step produced all the same: its output without the failure's text."""
    error = outcome.error or ""
    return outcome.output.removeprefix("Task failed: ").removeprefix(error).strip()


def only_choice(key: str, choices: Sequence[str]) -> Schema:
    """The schema of a reply that chooses: an object with one of the choices at a key."""
    return {"type": "object", "properties": {key: {"enum": list(choices)}}, "required": [key]}


def chosen(given: Reply, key: str) -> str | None:
    """What a reply chose; None where it did not choose."""
    found = given.structured.get(key) if isinstance(given.structured, dict) else None
    return found if given.output.error is None and isinstance(found, str) else None


def require_any(outputs: Sequence[AgentOutput]) -> None:
    """Raise `PatternFailed` where no agent has answered."""
    if not any(output.succeeded for output in outputs):
        raise _failure(NO_OUTPUT, outputs)


def require(kind: PatternKind, role: str, output: AgentOutput, outputs: Sequence[AgentOutput]) -> None:
    """Raise `PatternFailed` where the agent whose answer is the pattern's has none."""
    require_any(outputs)
    if not output.succeeded:
        why = output.error or "its answer is empty"
        raise failed(kind, f"the {role} {output.name!r} failed: {why}", outputs)


def failed(kind: PatternKind, reason: str, outputs: Sequence[AgentOutput] = ()) -> PatternFailed:
    """The failure of a pattern, with what its agents have brought."""
    return _failure(f"stage '{kind}' failed: {reason}", outputs)


def _failure(message: str, outputs: Sequence[AgentOutput]) -> PatternFailed:
    if not outputs:
        return PatternFailed(message)
    # The details are for a run that lets the failure pass; more than a payload would keep its last task retrying.
    told: Any = list(outputs)
    if not wire.fits(told):
        told = {"left_out": f"{len(outputs):,} outputs of agents: {wire.size(told):,} bytes"}
    return PatternFailed(message, outputs, told)
