"""Running `run_agent_step` in tests: an agent of the test's own, on an activity environment for each attempt."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities.agents import AgentActivities
from activities.blobs import FolderStore
from activities.context import StepContext
from activities.registry import FunctionAgent, Registry
from workflows.steps import AgentStepSpec, StepCall, StepOutcome, Usage

Agent = Callable[[AgentStepSpec, StepContext], Any]
AGENT: list[Agent] = []
"""What the agent of the running test does."""


async def scripted(step: AgentStepSpec, context: StepContext) -> Any:
    """The agent that the registry of a test has."""
    return await AGENT[-1](step, context)


class Steps:
    """Runs one step after another on an activity environment each, as attempts of one step."""

    def __init__(self, folder: Path) -> None:
        self.store = FolderStore(folder)
        self.beats: list[dict[str, Any]] = []
        self.environment = ActivityEnvironment()

    async def run(
        self,
        agent: Agent,
        *,
        spec: dict[str, Any] | None = None,
        call: dict[str, Any] | None = None,
        with_store: bool = True,
        limit: float | None = None,
        **info: Any,
    ) -> StepOutcome:
        """One attempt with this agent; raises what the activity raises."""
        AGENT.append(agent)
        self.environment = ActivityEnvironment()
        self.environment.info = replace(self.environment.info, **info)
        self.environment.on_heartbeat = self.beats.append
        entry = FunctionAgent(name="a", function=f"{__name__}:scripted", timeout_seconds=limit)
        full = {"task_id": "t", "agent": "a", "prompt": "p", **(spec or {})}
        step = StepCall(spec=AgentStepSpec.model_validate(full), key="k", **(call or {}))
        with ThreadPoolExecutor(1) as threads:
            activities = AgentActivities(Registry([entry]), self.store if with_store else None, threads=threads)
            return await self.environment.run(activities.run_agent_step, step)


def outcome_of(**fields: Any) -> StepOutcome:
    """The outcome of the step that all these tests run."""
    named = {"task_id": "t", "session_id": "task-run-t", "agent": "a"}
    return StepOutcome.model_validate({"output": "", "success": True, **named, **fields})


def failed(text: str, **fields: Any) -> StepOutcome:
    """Its outcome where it failed."""
    return outcome_of(
        **{"output": f"Task failed: {text}", "success": False, "status": "failed", "error": text, **fields}
    )


def returning(value: Any) -> Agent:
    """An agent that returns this."""

    async def agent(step: AgentStepSpec, context: StepContext) -> Any:
        return value

    return agent


def raising(error: BaseException) -> Agent:
    """An agent that raises this, after it has spent something."""

    async def agent(step: AgentStepSpec, context: StepContext) -> Any:
        context.record_after_llm(Usage(input_tokens=10))
        raise error

    return agent
