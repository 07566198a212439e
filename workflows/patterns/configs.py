"""What the `config` of each pattern may hold, and how many agents a pattern needs.

Law: a value of the wrong type or range is a `PatternFailed` that names its key, before anything is scheduled.
Pure: verify reads these models too. An unknown key is ignored here and reported there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from workflows.errors import PatternFailed, cut
from workflows.graph.definition import PatternKind
from workflows.steps import Seconds

DEFAULT_SUPERVISION_ROUNDS = 3
DEFAULT_DEBATE_ROUNDS = 2
DEFAULT_MAP_CONCURRENCY = 5
# The three are car-multi's.

INDEX = "the index of an agent, counted from 0"
COUNT = "a whole number from 1"

Choice = Annotated[str, Field(min_length=1)]


class PatternConfig(BaseModel):
    """Keys of a pattern's `config`. A field's description says what it takes, in messages too."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class NoConfig(PatternConfig):
    """A pattern without settings."""


class SwarmParallelConfig(PatternConfig):
    """Settings of `swarm_parallel`."""

    synthesizer_index: int | None = Field(default=None, ge=0, description=INDEX)


class SwarmDebateConfig(PatternConfig):
    """Settings of `swarm_debate`."""

    synthesizer_index: int | None = Field(default=None, ge=0, description=INDEX)
    rounds: int = Field(default=DEFAULT_DEBATE_ROUNDS, ge=1, description=COUNT)


class SupervisorConfig(PatternConfig):
    """Settings of `supervisor`."""

    max_rounds: int = Field(default=DEFAULT_SUPERVISION_ROUNDS, ge=1, description=COUNT)
    supervisor_index: int | None = Field(default=None, ge=0, description=INDEX)


class MapReduceConfig(PatternConfig):
    """Settings of `map_reduce`."""

    items: list[JsonValue] = Field(default_factory=list, description="a list")
    max_concurrent: int = Field(default=DEFAULT_MAP_CONCURRENCY, ge=1, description=COUNT)


class VoteConfig(PatternConfig):
    """Settings of `vote`."""

    synthesizer_index: int | None = Field(default=None, ge=0, description=INDEX)
    quorum: float | None = Field(default=None, gt=0, le=1, description="a number above 0 and at most 1")
    choices: list[Choice] | None = Field(default=None, min_length=1, description="a list of texts, none of them empty")


class FleetConfig(PatternConfig):
    """Settings of `fleet`."""

    timeout_secs: Seconds | None = Field(default=None, description="a number of seconds above 0, ten years at most")


class AdversarialReviewConfig(PatternConfig):
    """Settings of `adversarial_review`."""

    criteria: str | list[str] = Field(default_factory=list, description="a text, or a list of texts")
    review_key: str = Field(min_length=1, description="the state key that holds the work")


class TournamentConfig(PatternConfig):
    """Settings of `tournament`."""

    judge_index: int | None = Field(default=None, ge=0, description=INDEX)


CONFIG_MODELS: dict[PatternKind, type[PatternConfig]] = {
    "swarm_parallel": SwarmParallelConfig,
    "swarm_sequential": NoConfig,
    "swarm_debate": SwarmDebateConfig,
    "pipeline": NoConfig,
    "supervisor": SupervisorConfig,
    "delegator": NoConfig,
    "map_reduce": MapReduceConfig,
    "vote": VoteConfig,
    "fleet": FleetConfig,
    "adversarial_review": AdversarialReviewConfig,
    "tournament": TournamentConfig,
}


@dataclass(frozen=True, slots=True)
class LeastAgents:
    """How many agents a pattern needs. Where it needs them for roles, it is refused without them."""

    count: int = 1
    roles: str | None = None


LEAST_AGENTS: dict[PatternKind, LeastAgents] = {
    "swarm_parallel": LeastAgents(),
    "swarm_sequential": LeastAgents(),
    "swarm_debate": LeastAgents(),
    "pipeline": LeastAgents(),
    "supervisor": LeastAgents(2, "worker + supervisor"),
    "delegator": LeastAgents(1, "main agent"),
    "map_reduce": LeastAgents(2, "mapper + reducer"),
    "vote": LeastAgents(),
    "fleet": LeastAgents(),
    "adversarial_review": LeastAgents(1, "reviewer"),
    "tournament": LeastAgents(2, "competitor + judge"),
}

Config = TypeVar("Config", bound=PatternConfig)
Agent = TypeVar("Agent")


def checked(kind: PatternKind, model: type[Config], given: Mapping[str, Any]) -> Config:
    """The settings of a pattern; raises `PatternFailed`, naming each key that is wrong."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        keys = dict.fromkeys(str(mistake["loc"][0]) for mistake in error.errors(include_url=False))
        told = "; ".join(_told(model, key, given) for key in keys)
        raise PatternFailed(f"stage '{kind}' failed: {told}.") from None


def _told(model: type[PatternConfig], key: str, given: Mapping[str, Any]) -> str:
    takes = model.model_fields[key].description
    found = f"is {cut(repr(given[key]))}" if key in given else "is missing"
    return f"config key {key!r} {found}, and it takes {takes}"


def picked(kind: PatternKind, key: str, index: int | None, agents: Sequence[Agent]) -> Agent | None:
    """The agent at an index; None where there is no index. Raises `PatternFailed` where no agent has it."""
    if index is None or index < len(agents):
        return None if index is None else agents[index]
    there = f"the agents have 0 to {len(agents) - 1}" if agents else "there is no agent"
    raise PatternFailed(f"stage '{kind}' failed: config key {key!r} is {index}, and {there}.")
