"""Budgets of runs whose agents are models: limits that are raised, lowered and given in dollars."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from tests import programs
from tests.provider import Answer, Provider, Tokens, ToolCall, always, by_turn, slowly
from tests.support import World, event_types, events_of, served, wait_until

IN, OUT = 0.15e-6, 0.60e-6
"""What gpt-4o-mini costs by the token. A price list knows it by its name, wherever it is served."""

LOOKING = Answer(calls=(ToolCall("calculate", {"expression": "1 + 1"}),), tokens=Tokens(400, 100))
THREE_TURNS = by_turn(LOOKING, LOOKING, Answer("two", tokens=Tokens(900, 100)))
"""2,000 tokens."""


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[Provider]:
    async with Provider.serve(always(Answer("unscripted"))) as provider:
        yield provider


@pytest.fixture(scope="module")
async def world(client: Client, provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    agents = "".join(
        f"""
        [agents.{name}]
        executor = "model"
        model = "{model}"
        base_url = "{provider.url(name)}"
        tools = ["calculate"]
        """
        for name, model in {"thinker": "scripted", "priced": "gpt-4o-mini"}.items()
    )
    blobs: Path = tmp_path_factory.mktemp("blobs")
    async with served(client, programs.FanOut, programs.Sequence, agents=agents, blobs=blobs) as world:
        yield world


@pytest.fixture(autouse=True)
def billed(provider: Provider) -> dict[str, int]:
    """How many calls each agent's model had before the test."""
    return {name: len(provider.ledger.calls(name)) for name in ("thinker", "priced")}


def _billed(provider: Provider, before: dict[str, int], name: str) -> int:
    return sum(call.billed for call in provider.ledger.calls(name)[before[name] :])


def _steps(prefix: str, count: int, agent: str = "thinker") -> list[dict[str, Any]]:
    """Steps whose prompts nobody else has."""
    return [{"task_id": f"{prefix}-{n}", "agent": agent, "prompt": f"Think of {prefix} {n}."} for n in range(count)]


async def _all_wait(handle: WorkflowHandle[Any, Any]) -> None:
    async def waits() -> bool:
        progress = await handle.query("progress")
        return bool(progress["steps"]) and all(step["status"] != "running" for step in progress["steps"])

    await wait_until("no step goes on", waits)


async def test_model_steps_wait_for_a_raise_and_pay_nothing_twice(
    world: World, provider: Provider, billed: dict[str, int]
) -> None:
    """Stopped midway by the limit, all of them go on from their transcripts once it is raised."""
    provider.script = THREE_TURNS
    handle = await world.start("FanOut", _steps("raise", 6), budget_tokens=7_000, on_exhausted="wait")
    await _all_wait(handle)
    budget = await handle.query("budget")
    assert budget["consumed_tokens"] == _billed(provider, billed, "thinker") <= 7_000
    await handle.signal("set_budget", {"limit_tokens": 60_000})
    outcomes = await handle.result()
    assert [outcome["output"] for outcome in outcomes] == ["two"] * 6
    assert [outcome["usage"]["requests"] for outcome in outcomes] == [3] * 6
    assert (await handle.query("budget"))["consumed_tokens"] == _billed(provider, billed, "thinker") == 12_000
    assert provider.ledger.asked_twice() == {}


async def test_model_steps_under_a_lowered_limit_spend_what_they_were_granted(
    world: World, provider: Provider, billed: dict[str, int]
) -> None:
    """A limit that is lowered takes nothing back: what is in flight keeps its grant, and nothing new is granted."""
    provider.script = slowly(THREE_TURNS, 0.7)
    handle = await world.start("FanOut", _steps("lower", 8), budget_tokens=100_000, max_concurrency=2)

    async def spend() -> bool:
        return len(provider.ledger.calls("thinker")) >= billed["thinker"] + 2

    await wait_until("two steps spend their grants", spend)
    assert (await handle.query("budget"))["granted_tokens"] > 0
    await handle.signal("set_budget", {"limit_tokens": 1_000})
    outcomes = await handle.result()
    budget = await handle.query("budget")
    assert [outcome.get("status", "ok") for outcome in outcomes] == ["ok"] * 2 + ["budget_exceeded"] * 6
    assert budget == {
        "consumed_tokens": _billed(provider, billed, "thinker"),
        "limit_tokens": 1_000,
        "granted_tokens": 0,
        "remaining_tokens": 0,
        "consumed_usd": 0.0,
        "limit_usd": None,
    }
    assert budget["consumed_tokens"] == 4_000
    reasons = {outcome["error"] for outcome in outcomes[2:]}
    assert reasons <= {f"workflow token budget exhausted ({used} / 1000 tokens)" for used in (2_000, 4_000)}


async def test_model_steps_are_held_to_dollars(world: World, provider: Provider, billed: dict[str, int]) -> None:
    """Where the price is known, a limit in dollars holds as one in tokens does, and stops before it is passed."""
    provider.script = THREE_TURNS
    each = 1_700 * IN + 300 * OUT
    handle = await world.start("FanOut", _steps("dollars", 6, "priced"), budget_usd=3.5 * each, max_concurrency=6)
    outcomes = await handle.result()
    budget = await handle.query("budget")
    calls = [call for call in provider.ledger.calls("priced")[billed["priced"] :] if call.billed]
    cost = sum(call.input_tokens * IN + call.output_tokens * OUT for call in calls)
    assert budget["consumed_usd"] == pytest.approx(cost)
    assert cost <= 3.5 * each
    statuses = {outcome.get("status", "ok") for outcome in outcomes}
    assert "budget_exceeded" in statuses <= {"ok", "budget_exceeded"}
    assert provider.ledger.asked_twice() == {}


async def test_model_step_short_of_dollars_waits_for_dollars_alone(world: World, provider: Provider) -> None:
    """With both limits, a raise of the one that is short is enough."""
    provider.script = THREE_TURNS
    handle = await world.start(
        "FanOut", _steps("both", 1, "priced"), budget_usd=0.0001, budget_tokens=40_000, on_exhausted="wait"
    )
    await _all_wait(handle)
    await handle.signal("set_budget", {"limit_usd": 1.0})
    [outcome] = await handle.result()
    assert (outcome["output"], outcome["usage"]["requests"]) == ("two", 3)


async def test_model_step_without_a_price_is_told_of(world: World, provider: Provider) -> None:
    """A limit in dollars that cannot hold is an event, and the cost stays unknown."""
    provider.script = always(Answer("end", tokens=Tokens(9, 10)))
    handle = await world.start("FanOut", _steps("unpriced", 1), budget_usd=0.000001)
    [outcome] = await handle.result()
    assert outcome["usage"] == {"input_tokens": 9, "output_tokens": 10, "total_tokens": 19, "requests": 1}
    warnings = await events_of(handle, "step_warning")
    assert [event["message"] for event in warnings] == [
        "Model 'scripted' has no known price, so the step's limit in dollars cannot be held."
    ]
    assert "budget_exhausted" not in await event_types(handle)
