"""What `perdure doctor` finds out about models, without a token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from activities.executors.model.probing import Probe, probe
from activities.registry import ModelAgent, Registry
from tests.provider import Answer, Provider, always
from tests.workers import free_address


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider.serve(always(Answer("never asked"))) as provider:
        yield provider
        assert provider.ledger.calls() == []


async def _probed(**agent: Any) -> Probe:
    """What is found of the only model of the only agent."""
    (found,) = await probe(Registry([ModelAgent(name="a", **agent), ModelAgent(name="b", **agent)]))
    return found


async def test_model_that_is_served_is_found(provider: Provider) -> None:
    """A server on loopback lists the model: all is well, and what two agents share is told once."""
    found = await _probed(model="scripted", base_url=provider.url())
    assert found == Probe("ok", f"'scripted' is served at {provider.url()}")


async def test_model_that_is_not_served_is_told(provider: Provider) -> None:
    """A name that the server does not list is told with those that it does."""
    found = await _probed(model="qwen3:8b", base_url=provider.url())
    assert found == Probe(
        "warn",
        f"'qwen3:8b' is not in the list of {provider.url()}",
        "Name one that it has: 'scripted', 'scripted-2'.",
    )


async def test_model_whose_server_lists_nothing_may_answer(provider: Provider) -> None:
    """A server that answers and has no list may serve the model; more likely its address lacks the end."""
    address = provider.url().removesuffix("/v1")
    found = await _probed(model="scripted", base_url=address)
    assert found == Probe(
        "warn",
        f"'scripted' has a server at {address} that answers, and lists no models there (404)",
        "Look at 'base_url' (or OPENAI_BASE_URL): for most servers it ends in '/v1'.",
    )


async def test_model_whose_server_is_away_fails() -> None:
    """A server that does not answer is named, with what to mend."""
    address = f"http://{free_address()}/v1"
    found = await _probed(model="scripted", base_url=address)
    assert found == Probe(
        "fail",
        f"'scripted' does not answer at {address} (APIConnectionError: Connection error.)",
        "Start its server. Look at 'base_url' (or OPENAI_BASE_URL): for most servers it ends in '/v1'.",
    )


async def test_model_is_told_without_what_its_address_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name, a password or a key in an address is nobody's to read."""
    address = free_address()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://ann:open-sesame@{address}/v1/?api_key=hidden")
    found = await _probed(model="openai:scripted")
    assert found.found == (
        f"'openai:scripted' does not answer at http://{address}/v1 (APIConnectionError: Connection error.)"
    )


async def test_model_whose_key_is_refused_fails(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the server refuses is told by the name of its variable."""
    monkeypatch.setenv("MY_KEY", "sk-nobody-may-see-this")
    provider.key = "sk-another"
    found = await _probed(model="scripted", base_url=provider.url(), api_key_env="MY_KEY")
    assert found == Probe(
        "fail",
        f"the key of 'scripted' is refused at {provider.url()} (401)",
        "Put the right key into the environment variable 'MY_KEY'.",
    )


@pytest.mark.parametrize(
    ("agent", "found"),
    [
        (
            {"model": "openai:gpt-5-mini"},
            "'openai:gpt-5-mini' needs an API key: set the environment variable 'OPENAI_API_KEY' where the worker "
            "runs, or name another one by 'api_key_env'",
        ),
        (
            {"model": "openai:gpt-5-mini", "api_key_env": "MY_KEY"},
            "'openai:gpt-5-mini' needs the key of the environment variable 'MY_KEY', which 'api_key_env' names and "
            "which is not set where the worker runs",
        ),
        (
            {"model": "anthropic:claude-sonnet-4-5"},
            "'anthropic:claude-sonnet-4-5' needs a package that is not installed: pip install 'perdure[anthropic]'",
        ),
    ],
    ids=["no key", "no key of its own", "no package"],
)
async def test_model_that_cannot_be_made_fails(
    agent: dict[str, Any], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing here is told as the step would tell it."""
    monkeypatch.delenv("MY_KEY", raising=False)
    assert await _probed(**agent) == Probe("fail", found, "Steps that ask it fail until then.")


async def test_scripted_model_needs_nothing() -> None:
    """A model of the testing kit is no service."""
    assert await _probed(model="test") == Probe("ok", "'test' answers by a script, in the worker itself")
