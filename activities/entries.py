"""The entries of agents.toml: what each kind of agent is told, and what of it is refused.

Law: an entry that exists can be served, as far as that can be known without running it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from workflows.errors import cut
from workflows.steps import AGENT_MAX_STEPS, Seconds

DEFAULT_MAX_OUTPUT_BYTES = 1_000_000
# Half of what a history takes as one payload, for an output that is JSON is stored twice: as text and structured.
DEFAULT_REQUEST_SECONDS = 600.0
# A model that reasons may think for minutes before it answers. One that has not answered after ten is tried again.


def _without_null(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a null character")
    return text


Word = Annotated[str, AfterValidator(_without_null)]
"""Text that a program can be given."""


class Agent(BaseModel):
    """What every agent has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The entry's own key in `[agents.<name>]`; not written inside it."""
    description: str = ""
    timeout_seconds: PositiveFloat | None = None
    """Limit on one attempt."""


class CommandAgent(Agent):
    """A program: the prompt on its stdin, its answer on stdout, success by exit status."""

    executor: Literal["command"] = "command"
    command: Annotated[tuple[Word, ...], Field(min_length=1)]
    """The program and its arguments; no shell reads them."""
    output: Literal["text", "json"] = "text"
    env: dict[Word, Word] = Field(default_factory=dict)
    """Added to the worker's own environment."""
    cwd: Word | None = None
    """Where it runs, seen from the workspace; unset, the workspace."""
    max_output_bytes: PositiveInt = DEFAULT_MAX_OUTPUT_BYTES
    """A program that writes more to stdout is ended, and its step fails."""


class EchoAgent(Agent):
    """Answers with its prompt, after a script; for tests and demos."""

    executor: Literal["echo"] = "echo"
    answer: str | None = None
    """Answered instead of the prompt."""
    turns: PositiveInt = 1
    """How often it waits and spends; with more than one it leaves a checkpoint after each."""
    delay_seconds: NonNegativeFloat = 0.0
    """Waited in each turn."""
    tokens: NonNegativeInt = 0
    """Spent in each turn."""
    cost_usd: NonNegativeFloat | None = None
    """Spent in each turn."""
    fail: str | None = None
    """Fails for good with this text, instead of answering."""
    fail_attempts: NonNegativeInt = 0
    """How many attempts fail first in a way that is worth another attempt."""


@dataclass(frozen=True, slots=True)
class AgentFunction:
    """A function agent's function, and how to call it."""

    callable: Callable[..., Any]
    is_async: bool
    takes_context: bool


class FunctionAgent(Agent):
    """A Python function: `def` (runs in a thread) or `async def`, taking (step) or (step, context)."""

    executor: Literal["function"] = "function"
    function: str
    """`module:attribute`, importable where the worker runs."""

    def resolve(self) -> AgentFunction:
        """The function. Raises ValueError, saying what it is instead, where it is none that can serve."""
        return _agent_function(found_at(self.function))


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address that starts with http:// or https://")
    if parts.username or parts.password:
        raise ValueError(
            "holds a user name or a password. Put the key into an environment variable, and name that in 'api_key_env'"
        )
    return url


def _variable(name: str) -> str:
    if not VARIABLE.fullmatch(name):
        raise ValueError("must be the name of an environment variable, never the key itself")
    return name


VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
OWN_SETTINGS = {
    "max_tokens": "Use 'max_output_tokens' of the agent",
    "temperature": "Use 'temperature' of the agent",
    "timeout": "Use 'request_timeout_seconds' of the agent",
    "request_timeout": "Use 'request_timeout_seconds' of the agent",
    "first_event_timeout": "Use 'idle_timeout_seconds' of the agent",
    "max_retries": "Temporal retries, and the two would multiply",
    "tool_choice": "The loop decides it",
}
"""Settings of requests that perdure itself makes, and what to do instead."""


class ModelAgent(Agent):
    """A language model with tools: asked, given the results of the tools that it calls, and asked again."""

    executor: Literal["model"] = "model"
    model: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed)] = ()
    """`provider:name`, or several: the next one is asked where one fails. Unset, the registry's default model."""
    base_url: Annotated[str, AfterValidator(_without_password)] | None = None
    """An OpenAI-compatible endpoint; the model's name then needs no provider."""
    api_key_env: Annotated[str, AfterValidator(_variable)] | None = None
    """The environment variable that holds the key; unset, the provider's own."""
    instructions: str = ""
    tools: tuple[str, ...] = ()
    delegates: tuple[str, ...] = ()
    """Agents that it may hand subtasks to, by its tool `delegate`."""
    max_steps: PositiveInt = AGENT_MAX_STEPS
    """Tool rounds."""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    max_output_tokens: PositiveInt | None = None
    """Of one answer, reasoning included."""
    requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Of all its steps on one worker together; `[rates]` limits a model, whichever agents ask it."""
    request_timeout_seconds: PositiveFloat = DEFAULT_REQUEST_SECONDS
    idle_timeout_seconds: PositiveFloat | None = None
    """Without a piece of an answer, or a tool's result; answers are streamed where it is set."""
    tool_timeout_seconds: PositiveFloat | None = None
    """Of a tool that has no limit of its own."""
    approval_timeout_seconds: Seconds | None = None
    """How long a person may take to decide about a tool call; after it the call is denied."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Handed to the provider with each request, as pydantic-ai names them."""

    @model_validator(mode="after")
    def _settings_are_free(self) -> ModelAgent:
        for name, instead in OWN_SETTINGS.items():
            if name in self.settings:
                raise ValueError(f"'settings.{name}' cannot be set. {instead}")
        return self


AgentEntry = CommandAgent | FunctionAgent | EchoAgent | ModelAgent
KINDS: dict[str, type[CommandAgent | FunctionAgent | EchoAgent | ModelAgent]] = {
    "command": CommandAgent,
    "echo": EchoAgent,
    "function": FunctionAgent,
    "model": ModelAgent,
}


def found_at(reference: str) -> Any:
    """What `module:attribute` stands for. Raises ValueError, saying why there is nothing."""
    module, colon, attribute = reference.partition(":")
    if not (module and colon and attribute):
        raise ValueError("is not written as 'module:attribute'")
    found: Any = _imported(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"is missing: module {module!r} has no {attribute!r}")
        found = getattr(found, part)
    return found


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise ValueError(f"cannot be imported: {type(error).__name__}: {cut(str(error))}") from error


def _agent_function(found: Any) -> AgentFunction:
    if inspect.isclass(found) or not callable(found):
        kind = "a class" if inspect.isclass(found) else f"of type {type(found).__name__!r}"
        raise ValueError(f"is {kind}; an agent is a function")
    call = type(found).__call__ if not inspect.isroutine(found) else found
    if any(check(one) for check in (inspect.isgeneratorfunction, inspect.isasyncgenfunction) for one in (found, call)):
        raise ValueError("yields; an agent returns its answer once")
    return AgentFunction(
        callable=found,
        is_async=inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(call),
        takes_context=_takes_context(found),
    )


def _takes_context(function: Callable[..., Any]) -> bool:
    """Whether a function is called with (step, context); a second parameter with a default counts if so named."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False  # some built-ins tell nothing about themselves; the call will
    if _binds(signature, 2) and (not _binds(signature, 1) or "context" in list(signature.parameters)[1:2]):
        return True
    if _binds(signature, 1):
        return False
    raise ValueError(f"takes {signature}; an agent takes (step) or (step, context)")


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
