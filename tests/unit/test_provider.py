"""The scripted provider does what its scripts say, and counts it, as seen by the OpenAI client and by bare sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from tests.provider import (
    CONTEXT_TOO_LONG,
    OVERLOADED,
    WRONG_KEY,
    Answer,
    Call,
    Cut,
    Hang,
    Ledger,
    Provider,
    ProviderProcess,
    Rubbish,
    Script,
    Tokens,
    ToolCall,
    always,
    by_turn,
    call_tool,
    echo,
    first,
    metered,
    provider_process,
    retry_after,
    slowly,
    structured,
)
from tests.support import wait_until

HELLO: Any = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def talking(script: Script, **options: Any) -> AsyncIterator[tuple[Provider, AsyncOpenAI]]:
    async with (
        Provider.serve(script) as provider,
        AsyncOpenAI(base_url=provider.url("me"), api_key="sk-secret", max_retries=0, **options) as client,
    ):
        yield provider, client


async def ask(client: AsyncOpenAI, messages: Any = HELLO, **options: Any) -> Any:
    return await client.chat.completions.create(model="scripted", messages=messages, **options)


def ends(provider: Provider) -> list[tuple[str, int]]:
    return [(call.end, call.billed) for call in provider.ledger.calls()]


async def settled(provider: Provider | ProviderProcess) -> None:
    """Wait until no call is open."""

    async def holds() -> bool:
        return all(call.end != "open" for call in provider.ledger.calls())

    await wait_until("every call has ended", holds)


async def test_provider_answers_and_bills_by_label() -> None:
    """A fixed answer is told with its usage, and the ledger knows who asked for how much."""
    async with talking(always(Answer("hi", tokens=Tokens(7, 2)))) as (provider, client):
        answer = await ask(client)
        assert answer.choices[0].message.content == "hi"
        assert answer.choices[0].finish_reason == "stop"
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 2, 9)
        assert provider.ledger.billed("me") == 9
        assert provider.ledger.billed("you") == 0
        assert [model.id async for model in client.models.list()] == ["scripted", "scripted-2"]
        assert ends(provider) == [("answered", 9)]


async def test_provider_streams_the_same_answer() -> None:
    """A streamed answer is the same text, with its usage in the last event where it is asked for."""
    text = "a text of more than one piece, so that several events carry it"
    async with talking(always(Answer(text, tokens=Tokens(7, 2)))) as (provider, client):
        stream = await ask(client, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
        assert chunks[-1].usage.total_tokens == 9
        assert ends(provider) == [("answered", 9)]


async def test_call_tool_goes_by_the_conversation() -> None:
    """A conversation that is taken up in the middle goes on where it was, with the same ids."""
    async with talking(call_tool("look", 2, {"at": "page {turn}"}, then="seen")) as (provider, client):
        messages = list(HELLO)
        asked = []
        while (answer := (await ask(client, messages)).choices[0]).finish_reason == "tool_calls":
            call = answer.message.tool_calls[0]
            asked.append((call.function.name, json.loads(call.function.arguments)))
            messages += [
                answer.message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": "x"},
            ]
        assert asked == [("look", {"at": "page 1"}), ("look", {"at": "page 2"})]
        assert answer.message.content == "seen"
        assert provider.ledger.answered_twice() == {}
        again = (await ask(client, messages[:3])).choices[0].message.tool_calls[0]
        assert again.id == messages[3]["tool_calls"][0]["id"]
        assert list(provider.ledger.answered_twice().values()) == [2]


async def test_provider_insists_on_results_for_every_call() -> None:
    """A request that forgets a tool's result is refused, as the real API does."""
    called = {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "look"}}]}
    async with talking(echo) as (provider, client):
        with pytest.raises(openai.BadRequestError, match=r"The calls \['call_1'\] of tools are not followed"):
            await ask(client, [*HELLO, called, {"role": "user", "content": "well?"}])
        with pytest.raises(openai.BadRequestError, match="No call of a tool has the id 'call_2'"):
            await ask(client, [*HELLO, called, {"role": "tool", "tool_call_id": "call_2", "content": "x"}])
        assert ends(provider) == [("refused", 0), ("refused", 0)]


async def test_structured_follows_the_request() -> None:
    """The object comes as text for a response format, else by the output tool; one value for each turn."""
    tool = {"type": "function", "function": {"name": "final_result", "parameters": {"type": "object"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    async with talking(structured("no JSON", {"n": 1})) as (_, client):
        assert (await ask(client, response_format=wanted)).choices[0].message.content == "no JSON"
        repaired = [*HELLO, {"role": "assistant", "content": "no JSON"}, *HELLO]
        assert (await ask(client, repaired, response_format=wanted)).choices[0].message.content == '{"n": 1}'
        called = (await ask(client, repaired, tools=[tool])).choices[0].message.tool_calls[0].function
        assert (called.name, called.arguments) == ("final_result", '{"n": 1}')


async def test_provider_obeys_the_token_limit() -> None:
    """An answer longer than the request allows is cut, says so, and costs the limit; so is a call of a tool."""
    script = by_turn(Answer("word " * 100, tokens=Tokens(5, 100)), Answer(calls=(ToolCall("look", {"at": "x" * 90}),)))
    async with talking(script) as (provider, client):
        short = await ask(client, max_completion_tokens=10)
        assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 10)
        assert short.choices[0].message.content == "word " * 10
        called = await ask(client, [*HELLO, {"role": "assistant", "content": "x"}, *HELLO], max_tokens=5)
        assert called.choices[0].finish_reason == "length"
        with pytest.raises(json.JSONDecodeError):
            json.loads(called.choices[0].message.tool_calls[0].function.arguments)
        assert [call.output_tokens for call in provider.ledger.calls()] == [10, 5]


async def test_metered_bills_the_same_for_the_same_conversation() -> None:
    """Random usage stands between its bounds, and is no other when a request is repeated."""
    async with talking(metered(echo, seed=7, input=(10, 90), output=(1, 9))) as (provider, client):
        for text in ("a", "b", "a"):
            await ask(client, [{"role": "user", "content": text}])
        a, b, again = provider.ledger.calls()
        assert (a.input_tokens, a.output_tokens) == (again.input_tokens, again.output_tokens)
        assert all(10 <= call.input_tokens <= 90 and 1 <= call.output_tokens <= 9 for call in (a, b, again))


async def test_provider_leaves_usage_out() -> None:
    """Usage that the answer does not tell is billed all the same."""
    async with talking(always(Answer("hi", tokens=Tokens(7, 2), tells_usage=False))) as (provider, client):
        assert (await ask(client)).usage is None
        assert provider.ledger.billed() == 9


@pytest.mark.parametrize(
    ("fault", "status", "headers", "text"),
    [
        (retry_after("3"), 429, {"retry-after": "3"}, "Rate limit reached for requests."),
        (
            retry_after("Wed, 21 Oct 2026 07:28:00 GMT"),
            429,
            {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"},
            "Rate limit reached for requests.",
        ),
        (OVERLOADED, 503, {"retry-after": "1"}, "The engine is currently overloaded."),
        (WRONG_KEY, 401, {}, "Incorrect API key provided: sk-secret."),
        (CONTEXT_TOO_LONG, 400, {}, CONTEXT_TOO_LONG.message),
    ],
    ids=["429 in seconds", "429 until a date", "503", "401 that quotes the key", "context"],
)
async def test_provider_refuses(fault: Any, status: int, headers: dict[str, str], text: str) -> None:
    """A refusal has its status, headers and text, costs nothing, and the next call is answered."""
    async with talking(first([fault], echo)) as (provider, client):
        with pytest.raises(openai.APIStatusError) as refused:
            await ask(client)
        assert refused.value.status_code == status
        assert headers.items() <= dict(refused.value.response.headers).items()
        assert refused.value.response.json()["error"]["message"] == text
        assert (await ask(client)).choices[0].message.content == "hello"
        assert [call.end for call in provider.ledger.calls()] == ["refused", "answered"]
        assert provider.ledger.calls()[0].billed == 0


async def test_provider_hangs() -> None:
    """A request that is never answered ends when its client gives up, and costs nothing."""
    async with talking(always(Hang()), timeout=0.3) as (provider, client):
        with pytest.raises(openai.APITimeoutError):
            await ask(client)
        await settled(provider)
        assert ends(provider) == [("left", 0)]


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", [Cut, Hang], ids=["cut", "stalled"])
async def test_provider_breaks_off_in_the_middle(fault: Any, is_stream: bool) -> None:
    """An answer that stops half-way was billed, and was not had."""
    async with talking(always(fault(Answer("word " * 50, tokens=Tokens(5, 50)))), timeout=0.5) as (provider, client):
        with pytest.raises((openai.APIError, httpx2.TransportError)):
            await _read_whole(client, is_stream=is_stream)
        await settled(provider)
        assert ends(provider) == [("broken" if fault is Cut else "left", 55)]
        assert [call.billed for call in provider.ledger.unanswered()] == [55]


async def _read_whole(client: AsyncOpenAI, *, is_stream: bool) -> None:
    answer = await ask(client, stream=is_stream)
    if is_stream:
        [chunk async for chunk in answer]


async def test_provider_talks_rubbish() -> None:
    """A body that is no JSON comes with status 200."""
    async with talking(always(Rubbish())) as (provider, client):
        with pytest.raises(json.JSONDecodeError):
            await ask(client)
        assert ends(provider) == [("broken", 0)]


async def test_provider_notices_that_the_client_left() -> None:
    """A slow answer that nobody waited for is billed, and counted as not had."""
    async with talking(slowly(always(Answer("hi", tokens=Tokens(7, 2))), 60)) as (provider, client):
        asking = asyncio.create_task(ask(client))
        await wait_until("the call has come", lambda: _has_calls(provider))
        asking.cancel()
        await settled(provider)
        assert ends(provider) == [("left", 9)]


async def _has_calls(provider: Provider) -> list[Call]:
    return provider.ledger.calls()


async def test_provider_process_counts_in_a_file(tmp_path: Path) -> None:
    """As a process of its own it runs a script from a file, and its ledger outlives it."""
    script = "from tests.provider import Answer, Tokens, always\nscript = always(Answer('hi', tokens=Tokens(7, 2)))\n"
    async with (
        provider_process(script, tmp_path) as provider,
        AsyncOpenAI(base_url=provider.url("w1"), api_key="none", max_retries=0) as client,
    ):
        await ask(client)
        await settled(provider)  # the process is killed, and it notes an answer after it was sent
        assert provider.ledger.billed("w1") == 9
    left = Ledger(tmp_path / "provider.sqlite")
    assert [(call.end, call.label, call.billed) for call in left.calls()] == [("answered", "w1", 9)]
    left.close()
