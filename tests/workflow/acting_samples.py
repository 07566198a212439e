"""The program and the tools of test_proposals.py."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from temporalio import workflow

from activities.tools import ToolContext, ToolFailed
from workflows import AgentWorkflow, Saga
from workflows.deadline import TimedOut, within
from workflows.graph.acting import run_proposal
from workflows.graph.definition import ActionProposal
from workflows.graph.policies import policies_of
from workflows.graph.proposal import Course, failure
from workflows.graph.results import ProposalResult


@workflow.defn
class Acting(AgentWorkflow):
    """Runs proposals one after the other, as the stages of a graph do."""

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Each result, the state afterwards, and the failure that ended the run."""
        state: dict[str, JsonValue] = dict(plan.get("state", {}))
        policies = policies_of(plan, "plan")
        cache: dict[str, JsonValue] = {}
        results: list[ProposalResult] = []
        for written in plan["proposals"]:
            proposal = ActionProposal.model_validate(_grown(written, plan.get("grow", 0)))
            result = await run_proposal(self.perdure, proposal, state, cache=cache, policies=policies)
            results.append(result)
            if not result.is_success:
                return {"results": results, "state": state, "failure": failure(result)}
            for ended in result.results:
                state.update(ended.state_changes)
        return {"results": results, "state": state}


def _grown(proposal: dict[str, Any], characters: int) -> dict[str, Any]:
    """The proposal with a text for each `{large}`, as a template makes one that no caller could send."""
    actions = [
        {
            **action,
            "parameters": {name: "x" * characters if value == "{large}" else value for name, value in given.items()},
        }
        for action in proposal["actions"]
        for given in [action.get("parameters", {})]
    ]
    return {**proposal, "actions": actions}


@workflow.defn
class Stopped(AgentWorkflow):
    """A proposal that is stopped, by a deadline or by a cancel, and undone."""

    @workflow.run
    async def run(self, plan: dict[str, Any]) -> dict[str, Any]:
        """What the stopped proposal had done, and what undid it."""
        proposal = ActionProposal.model_validate(plan["proposal"])
        course = Course(proposal, {})
        saga = Saga(self)
        saga.push("undo", self._undo, ActionProposal.model_validate(plan["undo"]))
        limit = timedelta(seconds=plan["seconds"]) if "seconds" in plan else None
        ended = None
        with suppress(asyncio.CancelledError):
            ended = await within(run_proposal(self.perdure, proposal, {}, cache={}, course=course), limit)
        undone = await saga.compensate()
        return {
            "timed_out": isinstance(ended, TimedOut),
            "left": course.result(duration_ms=0),
            "undone": [one.status for one in undone],
        }

    async def _undo(self, proposal: ActionProposal) -> None:
        result = await run_proposal(self.perdure, proposal, {}, cache={})
        if not result.is_success:
            raise RuntimeError(failure(result))


def note(text: str, context: ToolContext) -> str:
    """Write a line, outside the product, that says that it ran."""
    with (context.workspace / "notes").open("a") as file:
        file.write(f"{text} {context.idempotency_key} {context.attempt}\n")
    return text


def notes(workspace: Path) -> list[list[str]]:
    """What `note` wrote."""
    return [line.split() for line in (workspace / "notes").read_text().splitlines()]


def meet(names: int, context: ToolContext) -> str:
    """Return when so many calls of it are there at once."""
    with (context.workspace / "meeting").open("a") as file:
        file.write("x")
    limit = time.monotonic() + 20
    while (context.workspace / "meeting").stat().st_size < names:
        if time.monotonic() > limit:
            raise ToolFailed("nobody came")
        time.sleep(0.02)
    return "met"


def flaky(fails: int, context: ToolContext) -> str:
    """Fail so many attempts."""
    note("flaky", context)
    if context.attempt <= fails:
        raise ToolFailed(f"attempt {context.attempt} failed")
    return "done"


async def hang() -> None:
    """Never return."""
    await asyncio.Event().wait()


def large(megabytes: int) -> str:
    """Return a large text."""
    return "x" * (megabytes * 1_000_000)
