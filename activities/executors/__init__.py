"""How agents answer: one executor for each kind of entry in agents.toml.

An executor turns a StepCall into what the agent returned. What that means for the step is decided in `agents.py` alone.
"""

from __future__ import annotations

import concurrent.futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, assert_never

from activities.context import StepContext
from activities.heartbeat import LoopWatch
from activities.registry import AgentEntry, CommandAgent, EchoAgent, FunctionAgent
from workflows.steps import StepCall


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
    watch: LoopWatch = field(default_factory=LoopWatch)


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
        case _:
            assert_never(entry)
