"""The command in tests: where it runs, how it ended, and the command as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import starter
from runtime.connect import connect
from runtime.settings import Settings

T = TypeVar("T")

STARTER = Path(starter.__file__)
COMMAND_SECONDS = 60.0
# Far more than a command takes here; a test that needs it is a test that fails.

SERVED, LONELY = "served", "lonely"
"""Task queues: of the place's worker, and of none."""

AGENTS = """
[agents.echo]
executor = "echo"
[agents.bad]
executor = "echo"
fail = "it broke"
[agents.slow]
executor = "echo"
turns = 10
delay_seconds = 0.3
tokens = 100
[agents.patient]
executor = "echo"
turns = 10
delay_seconds = 0.8
tokens = 100
[agents.endless]
executor = "echo"
turns = 200
delay_seconds = 0.3
[agents.brief]
executor = "echo"
delay_seconds = 0.6
"""

MODULE = """
from temporalio import workflow

from workflows import AgentStepSpec, AgentWorkflow


@workflow.defn
class Greet(AgentWorkflow):
    @workflow.run
    async def run(self, name: str) -> str:
        agent = "patient" if name == "snail" else "echo"
        outcome = await self.agent(AgentStepSpec(task_id="greet", agent=agent, prompt=f"hello {name}"))
        return outcome.output
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """What it wrote, as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Place:
    """A folder where commands run, and its server."""

    folder: Path
    address: str


Perdure = Callable[..., Ran]
"""The command, called with its arguments."""


def unset() -> dict[str, str]:
    """This process's environment without what tells perdure or Temporal anything."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "TEMPORAL_"))}


def command_process(place: Place, *arguments: str, **changes: Any) -> subprocess.Popen[str]:
    """The command as a process, in a place; changes are those of `Popen`, `env` of its environment."""
    environ = {**unset(), "PYTHONUNBUFFERED": "1", **changes.pop("env", {})}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **changes}
    return subprocess.Popen(
        [sys.executable, str(STARTER), *arguments], cwd=place.folder, env=environ, text=True, **streams
    )


def until(look: Callable[[], T]) -> T:
    """The first truthy answer of a look, for tests whose commands take the event loop; fails with the last one."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, found
    return found


def phases(*steps: tuple[str, str]) -> str:
    """One phase of (task id, agent) steps, as JSON."""
    specs = [{"task_id": task, "agent": agent, "prompt": f"do {task}"} for task, agent in steps]
    return json.dumps([{"name": "only", "steps": specs}])


def plan(place: Place, *steps: tuple[str, str]) -> str:
    """The name of a file with one phase, where commands run."""
    (place.folder / "plan.json").write_text(phases(*steps))
    return "plan.json"


def types(events: list[dict[str, Any]]) -> list[str]:
    """The types of the events that a command told, in order."""
    return [envelope["event"]["type"] for envelope in events]


async def terminate(address: str, workflow_id: str) -> None:
    """End a run as an operator would."""
    client = await connect(Settings(), address=address)
    await client.get_workflow_handle(workflow_id).terminate(reason="enough")
