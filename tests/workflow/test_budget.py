"""The budget of a run: grants, denials, raises, top-ups, and what people are told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

from tests import programs
from tests.programs import step, steps
from tests.support import World, event_types, events_of, served, wait_until


@pytest.fixture(scope="module")
async def world(client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    blobs: Path = tmp_path_factory.mktemp("blobs")
    async with served(client, programs.FanOut, programs.Sequence, programs.Rolling, blobs=blobs) as world:
        yield world


async def waits_for_tokens(handle: WorkflowHandle[Any, Any]) -> None:
    async def waits() -> bool:
        return "step_waiting" in await event_types(handle)

    await wait_until("a step waits for tokens", waits)


async def test_budget_denies_what_it_cannot_pay(world: World) -> None:
    """Steps beyond the limit fail as data with a3s's text; nothing was spent beyond it."""
    handle = await world.start("Sequence", steps(4, "greedy"), budget_tokens=2_000)
    outcomes = await handle.result()
    reason = "workflow token budget exhausted (2000 / 2000 tokens)"
    assert [outcome["output"] for outcome in outcomes] == ["s0", "s1", *[f"Task failed: {reason}"] * 2]
    assert [outcome.get("status") for outcome in outcomes[2:]] == ["budget_exceeded"] * 2
    assert await handle.query("budget") == {
        "consumed_tokens": 2_000,
        "limit_tokens": 2_000,
        "granted_tokens": 0,
        "remaining_tokens": 0,
        "consumed_usd": 0.0,
        "limit_usd": None,
    }


async def test_budget_of_zero_denies_everything(world: World) -> None:
    """A limit of 0 is exhausted at once."""
    [outcome] = await world.run("FanOut", [step("a")], budget_tokens=0)
    assert outcome["output"] == "Task failed: workflow token budget exhausted (0 / 0 tokens)"


async def test_budget_holds_across_parallel_steps(world: World) -> None:
    """Steps that run side by side never pass the limit together; a step short of tokens is topped up and goes on."""
    # A turn takes 100 tokens and a step 500. Twelve that all stop before their last turn would take 4,800.
    handle = await world.start("FanOut", steps(12, "metered"), budget_tokens=4_900, max_concurrency=12)
    outcomes = await handle.result()
    budget = await handle.query("budget")
    assert budget["consumed_tokens"] == sum(
        outcome["usage"]["total_tokens"] for outcome in outcomes if "usage" in outcome
    )
    assert budget["consumed_tokens"] <= 4_900
    assert budget["granted_tokens"] == 0
    done = [outcome for outcome in outcomes if outcome["success"]]
    assert done
    assert all(outcome["usage"]["requests"] == 5 for outcome in done)  # no turn was paid twice
    assert "step_resumed" in await event_types(handle)


async def test_step_goes_on_from_its_checkpoint_after_a_top_up(world: World) -> None:
    """What a step spent before it was suspended is not spent again."""
    handle = await world.start("Sequence", [step("a", "metered")], budget_tokens=100_000)
    [outcome] = await handle.result()
    assert outcome["usage"] == {"input_tokens": 500, "total_tokens": 500, "requests": 5}


async def test_max_tokens_caps_a_step(world: World) -> None:
    """A step may not spend more than its own max_tokens, whatever the run has left."""
    [outcome] = await world.run("Sequence", [step("a", "metered", max_tokens=250)])
    assert outcome["output"] == "Task failed: step token limit reached (200 / 250 tokens)"
    assert (outcome["status"], outcome["usage"]["total_tokens"]) == ("budget_exceeded", 200)


async def test_raised_limit_lets_waiting_steps_go_on(world: World) -> None:
    """A run that is told to wait keeps its steps until somebody raises the budget."""
    handle = await world.start("Sequence", steps(3, "greedy"), budget_tokens=1_000, on_exhausted="wait")
    await waits_for_tokens(handle)
    await handle.signal("set_budget", {"limit_tokens": 10_000})
    assert [outcome["output"] for outcome in await handle.result()] == ["s0", "s1", "s2"]
    assert (await handle.query("budget"))["consumed_tokens"] == 3_000


async def test_lifted_limit_lets_waiting_steps_go_on(world: World) -> None:
    """null takes the limit away."""
    handle = await world.start("Sequence", steps(2, "greedy"), budget_tokens=0, on_exhausted="wait")
    await waits_for_tokens(handle)
    await handle.signal("set_budget", {"limit_tokens": None})
    await handle.result()
    assert (await handle.query("budget"))["limit_tokens"] is None


async def test_recorded_usage_counts_once(world: World) -> None:
    """Usage reported from outside is charged; a report that comes twice is charged once."""
    handle = await world.start("Sequence", [step("a", "greedy")], budget_tokens=0, on_exhausted="wait")
    for _ in range(2):
        await handle.signal("record_usage", {"id": "call-1", "input_tokens": 30, "output_tokens": 12, "cost_usd": 0.5})
    await handle.signal("set_budget", {"limit_tokens": None})
    await handle.result()
    budget = await handle.query("budget")
    assert (budget["consumed_tokens"], budget["consumed_usd"]) == (1_042, 0.5)
    assert (await event_types(handle)).count("usage_recorded") == 1


@pytest.mark.parametrize(
    ("signal", "payload", "reason"),
    [
        pytest.param(
            "set_budget",
            {"limit": 5},
            "signal set_budget: 'limit' is not known. Did you mean 'limit_usd'?",
            id="unknown field",
        ),
        pytest.param(
            "set_budget",
            {"limit_tokens": -1},
            "signal set_budget: 'limit_tokens' is -1; input should be greater than or equal to 0.",
            id="negative",
        ),
        pytest.param("record_usage", {"input_tokens": 5}, "signal record_usage: 'id' is missing.", id="no id"),
    ],
)
async def test_wrong_signal_changes_nothing_and_is_told(world: World, signal: str, payload: Any, reason: str) -> None:
    """A signal that cannot be read becomes an event; the run and its budget go on as before."""
    handle = await world.start("Sequence", [step("a", "brief")], budget_tokens=700)
    await handle.signal(signal, payload)
    await handle.result()
    rejected = await events_of(handle, "signal_rejected")
    assert rejected == [{"type": "signal_rejected", "signal": signal, "reason": reason}]
    assert (await handle.query("budget"))["limit_tokens"] == 700


async def test_exhaustion_is_told_at_each_phase_end(world: World) -> None:
    """budget_exhausted follows each phase_end while the limit is reached; the soft limit is told once."""
    phases = [{"name": f"p{n}", "steps": [step(f"s{n}", "greedy")]} for n in range(3)]
    handle = await world.start("Steps", phases, budget_tokens=2_000)
    report = await handle.result()
    assert report["budget"]["consumed_tokens"] == 2_000
    told = [event for event in await events_of(handle) if event["type"].startswith("budget")]
    reason = "workflow token budget exhausted (2000 / 2000 tokens)"
    exhausted = {"type": "budget_exhausted", "resource": "workflow_tokens", "reason": reason}
    assert told == [{"type": "budget_threshold", "resource": "workflow_tokens", "percent": 80}, exhausted, exhausted]


async def test_dollars_are_a_limit_too(world: World) -> None:
    """A limit in dollars denies as one in tokens does."""
    handle = await world.start("Sequence", steps(3, "priced"), budget_usd=0.5)
    outcomes = await handle.result()
    assert [outcome["success"] for outcome in outcomes] == [True, True, False]
    assert outcomes[2]["error"] == "workflow dollar budget exhausted ($0.5000 / $0.5000)"


async def test_budget_and_offsets_survive_continue_as_new(world: World) -> None:
    """A run that continues as new keeps its ledger, phase numbers and event offsets."""
    state = {"done": 0, "rounds": 14, "bytes": 500_000, "runs": 0}
    handle = await world.start("Rolling", state, budget_tokens=1_000_000)
    result = await handle.result()
    assert result["rounds"] == 14
    assert result["runs"] >= 1
    latest = world.client.get_workflow_handle(handle.id)
    budget = await latest.query("budget")
    assert (budget["consumed_tokens"], budget["limit_tokens"]) == (14 * 500, 1_000_000)
    page = await latest.query("events")
    offsets = [envelope["offset"] for envelope in page["events"]]
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
    assert page["events"][-1]["event"] == {
        "type": "phase_end",
        "name": "round 13",
        "index": 13,
        "succeeded": 1,
        "failed": 0,
    }
    assert (await latest.query("progress"))["succeeded"] == 14
