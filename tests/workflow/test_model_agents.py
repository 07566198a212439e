"""Model agents in real runs: what the history holds, what the provider billed, and what the ledger says."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from tests import programs
from tests.provider import (
    Answer,
    Provider,
    Refusal,
    Tokens,
    ToolCall,
    always,
    by_turn,
    call_tool,
    first,
    metered,
    retry_after,
    slowly,
    structured,
)
from tests.support import World, event_types, served, wait_until


def _agents(provider: Provider, **more: str) -> str:
    agents = [
        f"""
        [agents.{name}]
        executor = "model"
        model = "scripted"
        base_url = "{provider.url(name)}"
        api_key_env = "SCRIPTED_KEY"
        tools = ["calculate"]
        {extra}
        """
        for name, extra in {"thinker": "", **more}.items()
    ]
    return "\n".join(agents)


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Provider]:
    monkeypatch.setenv("SCRIPTED_KEY", "sk-nobody-may-see-this")
    async with Provider.serve(always(Answer("unscripted"))) as provider:
        yield provider


@asynccontextmanager
async def _world(client: Client, provider: Provider, blobs: Path, **more: str) -> AsyncIterator[World]:
    async with served(
        client, programs.FanOut, programs.Sequence, agents=_agents(provider, **more), blobs=blobs
    ) as world:
        yield world


def _step(task_id: str, agent: str = "thinker", **fields: Any) -> dict[str, Any]:
    return {"task_id": task_id, "agent": agent, "prompt": f"Think about {task_id}.", **fields}


async def test_model_step_takes_three_events_however_often_it_asks(
    client: Client, provider: Provider, tmp_path: Path
) -> None:
    """A loop of 60 tool calls is one activity, and its history stays small."""
    provider.script = call_tool("calculate", 60, {"expression": "{turn} * 2"})
    async with _world(client, provider, tmp_path / "blobs", wide="max_steps = 100") as world:
        handle = await world.start("FanOut", [_step("count", "wide")])
        [outcome] = await handle.result()
        history = await handle.fetch_history()
    assert (outcome["output"], outcome["usage"]["requests"], outcome["usage"]["tool_calls"]) == ("done", 61, 60)
    kinds = [event.event_type for event in history.events if event.HasField("activity_task_scheduled_event_attributes")]
    assert len(kinds) == 1
    assert len(history.to_json()) < 40_000
    assert outcome["usage"]["total_tokens"] == provider.ledger.billed()


async def test_model_step_goes_on_on_another_attempt(client: Client, provider: Provider, tmp_path: Path) -> None:
    """A service that asks to wait is left alone that long, and nothing is asked twice."""
    faults = by_turn(Answer(calls=(ToolCall("calculate", {"expression": "6 * 7"}),)), Answer("forty-two"))
    met: list[float] = []

    def script(request: Any, number: int) -> Any:
        if len(request["messages"]) > 1 and not met:
            met.append(asyncio.get_running_loop().time())
            return retry_after("1")
        return faults(request, number)

    provider.script = script
    async with _world(client, provider, tmp_path / "blobs") as world:
        [outcome] = await world.run("FanOut", [_step("sum")])
    assert (outcome["output"], outcome["attempts"], outcome["usage"]["requests"]) == ("forty-two", 2, 2)
    assert outcome["usage"]["total_tokens"] == provider.ledger.billed()
    assert provider.ledger.asked_twice() == {}
    waited = provider.ledger.calls()
    assert waited[2].received - waited[1].received >= 1.0


async def test_model_steps_share_a_budget(client: Client, provider: Provider, tmp_path: Path) -> None:
    """Many steps under a limit that stops some of them: the ledger is what was billed, and within the limit."""
    script = call_tool("calculate", 3, {"expression": "{turn} + 1"})
    provider.script = metered(script, seed=4, input=(60, 120), output=(20, 200))
    limit = 9_000
    async with _world(client, provider, tmp_path / "blobs") as world:
        handle = await world.start("FanOut", [_step(f"s{n}") for n in range(12)], budget_tokens=limit)
        outcomes = await handle.result()
        budget = await handle.query("budget")
    assert budget["consumed_tokens"] == provider.ledger.billed() <= limit
    assert budget["granted_tokens"] == 0
    statuses = {outcome.get("status", "ok") for outcome in outcomes}
    assert statuses == {"ok", "budget_exceeded"}
    assert provider.ledger.asked_twice() == {}


async def test_model_step_short_of_tokens_is_granted_more(client: Client, provider: Provider, tmp_path: Path) -> None:
    """A step whose grant runs short is suspended, granted more, and goes on from its transcript."""
    looking = Answer(calls=(ToolCall("calculate", {"expression": "1 + 1"}),), tokens=Tokens(14_000, 1_000))
    provider.script = by_turn(looking, looking, looking, Answer("two", tokens=Tokens(15_000, 10)))
    async with _world(client, provider, tmp_path / "blobs") as world:
        handle = await world.start("FanOut", [_step("grow")], budget_tokens=400_000)
        [outcome] = await handle.result()
        types = await event_types(handle)
    assert (outcome["output"], outcome["usage"]["requests"]) == ("two", 4)
    assert "step_resumed" in types
    assert outcome["usage"]["total_tokens"] == provider.ledger.billed() == 60_010
    assert provider.ledger.asked_twice() == {}


async def test_model_step_is_cancelled_with_what_it_spent(client: Client, provider: Provider, tmp_path: Path) -> None:
    """A cancelled run ends its requests, and counts what was answered."""
    script = by_turn(Answer(calls=(ToolCall("calculate", {"expression": "1"}),), tokens=Tokens(50, 5)), Answer("late"))
    provider.script = lambda request, number: (script if number == 1 else slowly(script, 60))(request, number)
    async with _world(client, provider, tmp_path / "blobs") as world:
        handle = await world.start("FanOut", [_step("wait")])

        async def waits() -> bool:
            return len(provider.ledger.calls()) == 2

        await wait_until("the second request is out", waits)
        await handle.cancel()

        async def left() -> bool:
            return provider.ledger.calls()[1].end == "left"

        await wait_until("the request is given up", left)

        async def counted() -> bool:
            return bool((await handle.query("budget"))["consumed_tokens"] == 55)

        await wait_until("what was answered is counted", counted)


def _stored(history: Any) -> Iterator[str]:
    """Every text of a history, payloads decoded."""
    match history:
        case str():
            yield history
        case list():
            for item in history:
                yield from _stored(item)
        case {"metadata": dict(), "data": str(data)}:
            yield base64.b64decode(data).decode()
        case dict():
            for item in history.values():
                yield from _stored(item)


async def test_model_key_is_nowhere(client: Client, provider: Provider, tmp_path: Path) -> None:
    """Neither a history nor the store holds the key, not even where the provider says it aloud."""
    provider.script = first(
        [Refusal(500, "Internal error for key {key}.")], always(Refusal(401, "Incorrect API key: {key}."))
    )
    async with _world(client, provider, tmp_path / "blobs") as world:
        handle = await world.start("FanOut", [_step("leak")])
        [outcome] = await handle.result()
        stored = "".join(_stored(json.loads((await handle.fetch_history()).to_json())))
    assert outcome["error"] == "agent 'thinker': model 'scripted' answered 401: Incorrect API key: [secret]."
    key = os.environ["SCRIPTED_KEY"]
    assert provider.headers[0]["authorization"] == f"Bearer {key}"
    assert "Think about leak." in stored
    assert key not in stored
    assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file() and key in path.read_text()]


async def test_model_step_answers_in_a_form(client: Client, provider: Provider, tmp_path: Path) -> None:
    """What a step asks for comes out validated, after a repair."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    provider.script = structured({"n": "seven"}, {"n": 7})
    async with _world(client, provider, tmp_path / "blobs") as world:
        [outcome] = await world.run("FanOut", [_step("form", output_schema=schema)])
    assert (outcome["structured"], outcome["success"], outcome["usage"]["requests"]) == ({"n": 7}, True, 2)


async def test_model_agents_fail_alone(client: Client, provider: Provider, tmp_path: Path) -> None:
    """What is wrong with one agent is its step's failure; the others go on."""
    provider.script = lambda request, number: (
        Refusal(404, "No such model.") if "b." in request["messages"][-1]["content"] else Answer("fine")
    )
    async with _world(client, provider, tmp_path / "blobs") as world:
        outcomes = await world.run("FanOut", [_step("a"), _step("b"), _step("c")])
    assert [outcome["output"] for outcome in outcomes] == [
        "fine",
        "Task failed: agent 'thinker': model 'scripted' answered 404: No such model.",
        "fine",
    ]
