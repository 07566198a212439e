"""How agents answer: one executor for each kind of entry in agents.toml.

An executor turns a StepCall into what the agent returned. What that means for the step is decided in `agents.py` alone.
"""

from __future__ import annotations

import concurrent.futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from activities.context import StepContext
from activities.deputy import Deputy
from activities.entries import AgentEntry, CommandAgent, EchoAgent, FunctionAgent, ModelAgent
from activities.pacing import Muster, Paces, Turns
from activities.registry import Registry
from activities.tracing import Tracing
from workflows.errors import RetryableStepError
from workflows.steps import StepCall

if TYPE_CHECKING:
    from pydantic_ai.models import Model


class ServiceBusy(RetryableStepError):
    """The service behind an agent asks to be left alone for a while (a rate limit, an overload).

    Another attempt after that, which does not count among those that an error may take.
    """


class Executor(Protocol):
    """Code that makes an agent answer."""

    async def run(self, call: StepCall, context: StepContext) -> Any:
        """What the agent returned: str, dict, StepOutcome or None.

        Raises whatever the agent raised. Cancelled, it ends what it started before it lets the cancellation pass.
        """


@dataclass(frozen=True, slots=True)
class Resources:
    """What the worker lends its executors."""

    threads: concurrent.futures.Executor
    """Where `def` agents run."""
    workspace: Path | None = None
    """The folder that commands run in; None: the worker's own."""
    deputy: Deputy = field(default_factory=Deputy)
    """Who beats for their steps while the event loop stands still."""
    registry: Registry = field(default_factory=Registry.empty)
    """Whose tools, policies and default model the model agents use."""
    paces: Paces = field(default_factory=Paces)
    muster: Muster = field(default_factory=Muster)
    turns: Turns = field(default_factory=Turns)
    tracing: Tracing | None = None
    """How their model calls and tools are traced; None: they are not."""
    models: dict[Any, Model] = field(default_factory=dict)
    """The models in use: their steps share connections."""

    async def close(self) -> None:
        """Let go of what the executors have opened."""
        models = list(self.models.values())
        self.models.clear()
        for model in models:
            await model.__aexit__(None, None, None)


def executor_for(entry: AgentEntry, resources: Resources) -> Executor:
    """The executor of an agent, loaded when it is first used."""
    match entry:
        case CommandAgent():
            from activities.executors.command import CommandExecutor

            return CommandExecutor(entry, resources)
        case FunctionAgent():
            from activities.executors.function import FunctionExecutor

            return FunctionExecutor(entry, resources)
        case EchoAgent():
            from activities.executors.echo import EchoExecutor

            return EchoExecutor(entry)
        case ModelAgent():
            from activities.executors.model import ModelExecutor

            return ModelExecutor(entry, resources)
        case _:
            assert_never(entry)
