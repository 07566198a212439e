"""Runs the steps of model agents against the scripted provider, each attempt in an activity environment of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities.agents import AgentActivities
from activities.blobs import Checkpoints, FolderStore
from activities.registry import AgentEntry, ModelAgent, Registry
from activities.tools.registry import Tool, Toolbox
from activities.tools.source import ToolSource
from tests.provider import Provider, Script
from workflows.graph.policies import ToolPolicy
from workflows.steps import AgentStepSpec, StepCall, StepOutcome

KEY = "5t3p"
"""The step's idempotency key."""


class ModelSteps:
    """One step of one agent, attempt after attempt."""

    def __init__(self, provider: Provider, folder: Path) -> None:
        self.provider = provider
        self.folder = folder
        self.store = FolderStore(folder / "blobs")
        self.beats: list[Mapping[str, Any]] = []
        self.environment = ActivityEnvironment()
        self.agent: dict[str, Any] = {"name": "a", "model": "scripted", "base_url": provider.url()}
        self.tools: tuple[Callable[..., Any], ...] = ()
        self.policies: tuple[ToolPolicy, ...] = ()
        self.sources: dict[str, ToolSource] = {}
        self.others: Iterable[AgentEntry] = ()
        self.default_model: str | None = None

    async def run(
        self,
        script: Script | None = None,
        *,
        agent: Mapping[str, Any] | None = None,
        spec: Mapping[str, Any] | None = None,
        call: Mapping[str, Any] | None = None,
        with_store: bool = True,
        **info: Any,
    ) -> StepOutcome:
        """One attempt; raises what the activity raises."""
        if script is not None:
            self.provider.script = script
        self.environment = ActivityEnvironment()
        self.environment.info = replace(self.environment.info, **info)
        self.environment.on_heartbeat = self.beats.append
        step = AgentStepSpec.model_validate({"task_id": "t", "agent": "a", "prompt": "Go.", **(spec or {})})
        with ThreadPoolExecutor(4) as threads:
            activities = AgentActivities(
                self.registry(agent or {}),
                self.store if with_store else None,
                threads=threads,
                workspace=self.folder,
            )
            try:
                return await self.environment.run(activities.run_agent_step, StepCall(spec=step, key=KEY, **call or {}))
            finally:
                await activities.close()

    def registry(self, agent: Mapping[str, Any]) -> Registry:
        """What the worker serves."""
        entry = ModelAgent(**{**self.agent, "tools": tuple(tool.__name__ for tool in self.tools), **agent})
        return Registry(
            [entry, *self.others],
            default_model=self.default_model,
            tools=Toolbox(Tool.of(function) for function in self.tools),
            policies=self.policies,
            sources=self.sources,
        )

    async def pieces(self) -> list[Any]:
        """What the step has left in the store."""
        return [left.value for left in await Checkpoints(self.store, KEY).all()]

    def told(self, number: int = -1) -> list[tuple[str, str]]:
        """Role and text of each message of a request."""
        messages = self.provider.requests[number]["messages"]
        return [(message["role"], _text(message.get("content"))) for message in messages]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


@asynccontextmanager
async def model_steps(folder: Path) -> AsyncIterator[ModelSteps]:
    """A provider that answers nothing yet, and the steps that will ask it."""
    keys = {name: os.environ.pop(name, None) for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL")}
    try:
        async with Provider.serve(lambda request, number: _unscripted()) as provider:
            yield ModelSteps(provider, folder)
    finally:
        os.environ.update({name: value for name, value in keys.items() if value is not None})


def _unscripted() -> Any:
    raise AssertionError("the test gave the provider no script")
