"""What a step is given, what it brings back, and how both are stored.

Law: these shapes are in recorded histories. A new field arrives with a default; none is renamed or removed.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from workflows.errors import cut
from workflows.wire import Stored

DEFAULT_MAX_CONCURRENCY = 8
DEFAULT_MAX_TURNS = 10
AGENT_MAX_STEPS = 50
# How many tool rounds an agent may take when its step sets no `max_steps`.

MAX_CONCURRENCY = 1_000
# Temporal fails the workflow tasks of a run that has more than 2,000 activities pending, and starting more at once
# keeps an activation busy for longer than half a second.

Seconds = Annotated[float, Field(gt=0, le=10 * 365 * 86_400, allow_inf_nan=False)]
# Ten years: Temporal holds durations in 64 bits of nanoseconds, and a longer one keeps a workflow task failing.
Attempts = Annotated[int, Field(gt=0, le=10_000)]
# Temporal holds it in 32 bits; at the slowest retry ten thousand take more than three days.


def _at_least_one(turns: int) -> int:
    return max(1, turns)


Turns = Annotated[NonNegativeInt, AfterValidator(_at_least_one)]
# car accepts 0 and leaves its meaning to the caller's own model loop. An agent that is never asked has no answer, so
# here it counts as 1; verify warns of it.


def _not_reserved(name: str) -> str:
    if name.startswith("/_sys/"):
        raise ValueError("'/_sys/' begins the names of Temporal's own task queues")
    return name


TaskQueueName = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_not_reserved)]
# What the server takes; another name would keep a workflow task failing.

LABEL_CHARACTERS = 40
# Of a task id in heartbeat details, which hold 4 KB; with its length behind it, where it is cut.

FAIRNESS_KEY_BYTES = 64
# The server refuses a longer one, and with it the command that schedules a step.


def _short_enough(key: str) -> str:
    if len(key.encode()) > FAIRNESS_KEY_BYTES:
        raise ValueError(f"it takes {len(key.encode())} bytes, and Temporal takes {FAIRNESS_KEY_BYTES}")
    return key


PriorityLevel = Annotated[int, Field(ge=1, le=5)]
# The levels that a Temporal server has by default; a higher number would be taken for its lowest.
FairnessKey = Annotated[str, Field(min_length=1), AfterValidator(_short_enough)]
FairnessWeight = Annotated[float, Field(ge=0.001, le=1_000, allow_inf_nan=False)]
# The server takes whatever lies outside for these ends.

StepStatus = Literal["ok", "failed", "timed_out", "cancelled", "budget_exceeded", "suspended"]


class Usage(Stored):
    """What was spent: tokens, model requests, tool calls, and dollars where the price is known."""

    input_tokens: NonNegativeInt = 0
    output_tokens: NonNegativeInt = 0
    total_tokens: NonNegativeInt = 0
    """Never less than input and output together; a provider may count more (reasoning, caching)."""
    requests: NonNegativeInt = 0
    tool_calls: NonNegativeInt = 0
    cost_usd: NonNegativeFloat | None = None
    """Dollars; None where no price is known, which is not the same as free."""

    @model_validator(mode="after")
    def _total_covers_its_parts(self) -> Self:
        total = max(self.input_tokens + self.output_tokens, self.total_tokens)
        self.__dict__["total_tokens"] = total  # frozen for everybody else
        return self

    def __add__(self, other: Usage) -> Usage:
        if not other.__pydantic_fields_set__:
            return self  # nothing was spent: most settlements of agents without a model
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            requests=self.requests + other.requests,
            tool_calls=self.tool_calls + other.tool_calls,
            cost_usd=_sum_of_prices(self, other),
        )


def _sum_of_prices(one: Usage, other: Usage) -> float | None:
    """Dollars of both together; None where either spent tokens that nobody priced."""
    if any(usage.cost_usd is None and usage.total_tokens for usage in (one, other)):
        return None
    if one.cost_usd is None and other.cost_usd is None:
        return None
    return (one.cost_usd or 0.0) + (other.cost_usd or 0.0)


class AgentSpec(Stored):
    """An agent written out where it is used, instead of in agents.toml."""

    name: str
    system_prompt: str = ""
    tools: tuple[str, ...] = ()
    max_turns: Turns = DEFAULT_MAX_TURNS
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    """May carry `model`, `provider`, `temperature`, `task`."""
    cache_control: bool = False


class AgentStepSpec(Stored):
    """One unit of agent work. Only `task_id`, `agent` and `prompt` are required."""

    task_id: str = Field(min_length=1)
    """Stable id of the step, unlike any other in the same call."""
    agent: str = Field(min_length=1)
    """Which agent runs it: a key of agents.toml, or the name of `profile`."""
    prompt: str
    description: str = ""
    """Short label for people: the step's summary in the Temporal UI."""
    max_steps: PositiveInt | None = None
    """Cap on the agent's tool rounds; unset, the agent's own (50)."""
    parent_session_id: str | None = None
    output_schema: dict[str, JsonValue] | None = None
    """JSON Schema; when set, the step must return a valid object in `structured`."""
    profile: AgentSpec | None = None
    timeout_seconds: Seconds | None = None
    """Limit on the step's own time, over all its attempts; waiting for tokens does not count."""
    max_attempts: Attempts | None = None
    max_tokens: PositiveInt | None = None
    """What the step may spend at most, over all its attempts."""
    task_queue: TaskQueueName | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    specialists: tuple[AgentSpec, ...] = ()
    """Agents that a model agent may hand subtasks to, by its tool `delegate`."""


class TokensNeeded(Stored):
    """The step ran out of its grant and goes on from its checkpoint when it gets more."""

    type: Literal["tokens"] = "tokens"
    at_least: NonNegativeInt = 0
    """Tokens that the next model call needs; 0 when unknown."""
    at_least_usd: NonNegativeFloat = 0.0
    """The same in dollars, where they are what it is short of."""


class Delegation(Stored):
    """A subtask that an agent hands to a specialist by its tool `delegate`."""

    call_id: str
    """The model's own id of the call: the answer comes back under it."""
    specialist: str
    subtask: str


class ToolRequest(Stored):
    """A tool call that a person decides about before it is made."""

    call_id: str
    tool: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    timeout_seconds: Seconds | None = None
    """How long the person may take; after it the call is denied. Unset: for ever."""


class AnswersNeeded(Stored):
    """The step goes on when others have answered: specialists their subtasks, a person the tool calls.

    One need for both, because one turn of a model may ask for both, and providers take no next request until every
    call of the turn has its result.
    """

    type: Literal["answers"] = "answers"
    delegations: tuple[Delegation, ...] = ()
    approvals: tuple[ToolRequest, ...] = ()


Needs = Annotated[TokensNeeded | AnswersNeeded, Field(discriminator="type")]


class ToolDecision(Stored):
    """A person's answer to a `ToolRequest`."""

    decision: Literal["approve", "deny", "edit"]
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """What the tool is called with instead, where the decision is `edit`."""
    message: str = ""
    """Told to the model where the call is denied."""


class StepOutcome(Stored):
    """What a step brought. A failed step is data: `success` is false and `output` holds the failure text."""

    task_id: str
    session_id: str = Field(default_factory=lambda outcome: f"task-run-{outcome['task_id']}")
    agent: str
    output: str
    success: bool
    structured: JsonValue = None
    status: StepStatus = "ok"
    error: str | None = None
    usage: Usage = Usage()
    """Over all attempts of the step."""
    duration_ms: NonNegativeInt = 0
    """Milliseconds from the first attempt's schedule to the end, as the workflow saw it."""
    attempts: PositiveInt = 1
    needs: Needs | None = None
    """What a suspended step waits for."""
    transcript: str | None = None
    """Reference to what the step left in the blob store."""
    warnings: tuple[str, ...] = ()
    """What the worker has to say about this step; each becomes an event of the run."""


class Grant(Stored):
    """What a step may spend until it asks again. None: no limit on that resource."""

    tokens: NonNegativeInt | None = None
    usd: NonNegativeFloat | None = None


class Resume(Stored):
    """How a suspended step goes on: from its transcript, with the answers to what it asked."""

    transcript: str | None = None
    answers: dict[str, JsonValue] = Field(default_factory=dict)
    """Answer by call id: to a delegation the text that the model reads, to a tool request a `ToolDecision`."""
    usage: Usage = Usage()
    """What earlier schedulings of this step have spent and the ledger has settled."""


class StepCall(Stored):
    """The argument of `run_agent_step`."""

    spec: AgentStepSpec
    key: str
    """Idempotency key: the same over attempts and top-ups of the step, new after a rewind."""
    grant: Grant | None = None
    resume: Resume | None = None
    max_attempts: Attempts | None = None
    """The run's own limit, where the step sets none; both unset, the agent's error decides."""


class RunOptions(Stored):
    """How a run is to be run: the memo `perdure_options` of its start. Visible to all: nothing secret goes here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget_tokens: NonNegativeInt | None = None
    budget_usd: NonNegativeFloat | None = None
    on_exhausted: Literal["deny", "wait"] = "deny"
    """What happens to a step that the budget cannot pay: denied as data, or kept waiting for `set_budget`."""
    max_concurrency: int = Field(default=DEFAULT_MAX_CONCURRENCY, ge=0, le=MAX_CONCURRENCY)
    """Steps of this run in flight at once; 0 counts as 1."""
    task_queues: dict[str, TaskQueueName] = Field(default_factory=dict)
    """Task queue by agent, for workers of their own."""
    step_timeout_seconds: Seconds | None = None
    max_attempts: Attempts | None = None
    priority: PriorityLevel | None = None
    """1 goes first, 5 last, unset is Temporal's 3: whose steps are taken where more wait than workers can take."""
    fairness_key: FairnessKey | None = None
    """Whose run this is: steps of one priority are taken from the keys in turn, as many from each."""
    fairness_weight: FairnessWeight | None = None
    """How many times the share of a key without a weight this key gets."""

    @field_validator("fairness_weight")
    @classmethod
    def _weighs_a_key(cls, weight: float | None, info: ValidationInfo) -> float | None:
        if weight is not None and info.data.get("fairness_key") is None:
            raise ValueError("it is the weight of a fairness_key, and there is none")
        return weight

    @property
    def window(self) -> int:
        """How many steps run at once."""
        return max(1, self.max_concurrency)


def task_label(task_id: str) -> str:
    """A task id as heartbeats name it, so that whoever reads them knows the step: printable, and cut."""
    return cut("".join(letter if letter.isprintable() else " " for letter in task_id), LABEL_CHARACTERS)
