"""The model executor: what a provider's failures mean for the step."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from activities.executors.model.faults import LONGEST_WAIT
from tests.model_steps import ModelSteps, model_steps
from tests.provider import (
    CONTEXT_TOO_LONG,
    OVERLOADED,
    TOO_MANY,
    UNKNOWN_MODEL,
    WRONG_KEY,
    Answer,
    Cut,
    Hang,
    Refusal,
    Reply,
    Request,
    Rubbish,
    Tokens,
    ToolCall,
    always,
    first,
    retry_after,
)
from workflows.steps import StepOutcome, Usage


@pytest.fixture
async def steps(tmp_path: Path) -> AsyncIterator[ModelSteps]:
    async with model_steps(tmp_path) as steps:
        yield steps


async def _failure(steps: ModelSteps, reply: Reply, **options: Any) -> ApplicationError:
    with pytest.raises(ApplicationError) as failed:
        await steps.run(always(reply), **options)
    return failed.value


def _text(outcome: StepOutcome) -> str:
    assert (outcome.status, outcome.output) == ("failed", f"Task failed: {outcome.error}")
    return outcome.error or ""


@pytest.mark.parametrize(
    ("reply", "kind", "text", "seconds"),
    [
        (TOO_MANY, "ServiceBusy", "answered 429: Rate limit reached for requests.", 1),
        (OVERLOADED, "ServiceBusy", "answered 503: The engine is currently overloaded.", 1),
        (Refusal(503, "Later."), "ServiceBusy", "answered 503: Later.", None),
        (Refusal(529, "Overloaded."), "ServiceBusy", "answered 529: Overloaded.", None),
        (Refusal(529, "Overloaded.", {"Retry-After": "4"}), "ServiceBusy", "answered 529: Overloaded.", 4),
        (retry_after("Fri, 22 Nov 2999 00:00:00 GMT"), "ServiceBusy", "answered 429: Rate limit reached for requests.",
         LONGEST_WAIT.total_seconds()),
        (retry_after("86400"), "ServiceBusy", "answered 429: Rate limit reached for requests.",
         LONGEST_WAIT.total_seconds()),
        (Refusal(500, "Boom."), "RetryableStepError", "answered 500: Boom.", None),
        (Refusal(502, "Bad gateway.", {"Retry-After": "3"}), "RetryableStepError", "answered 502: Bad gateway.", 3),
        (Refusal(408, "Too slow."), "RetryableStepError", "answered 408: Too slow.", None),
        (Rubbish(), "RetryableStepError", "answered what is no JSON: <html>upstream is thinking</html>", None),
        (Rubbish(b""), "RetryableStepError", "answered what is no JSON: nothing", None),
        (Rubbish(b'{"choices": 3}'), "RetryableStepError",
         "answered what cannot be read: TypeError: 'int' object is not subscriptable", None),
        (Rubbish(b'{"choices": []}'), "RetryableStepError", "answered what cannot be read: the answer holds no choice",
         None),
        (Rubbish(b'{"object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop", "message": null}]}'),
         "RetryableStepError", "answered what cannot be read: choices.0.message: Input should be a valid dictionary or "
         "instance of _ChatCompletionMessage", None),
        (Rubbish(b'{"error": {"message": "Upstream died.", "code": 502}}'), "RetryableStepError",
         "answered 502: Upstream died.", None),
        (Rubbish(b'{"error": {"message": "Slow down.", "code": 429}}'), "ServiceBusy", "answered 429: Slow down.",
         None),
        (Rubbish(b'{"error": {"message": "Odd.", "code": "odd"}}'), "RetryableStepError",
         "answered what cannot be read: an error: Odd.", None),
        (retry_after("0"), "ServiceBusy", "answered 429: Rate limit reached for requests.", None),
        (retry_after("-5"), "ServiceBusy", "answered 429: Rate limit reached for requests.", None),
        (retry_after("Fri, 22 Nov 1999 00:00:00 GMT"), "ServiceBusy", "answered 429: Rate limit reached for requests.",
         None),
        (Cut(Answer("word " * 20)), "RetryableStepError",
         "cannot be reached: RemoteProtocolError: peer closed connection without sending complete message body "
         "(received 210 bytes, expected 420)", None),
        (Hang(), "RetryableStepError", "did not answer within 0.5 s ('request_timeout_seconds')", None),
    ],
    ids=["429", "503", "no date", "529", "529 dated", "far", "a day", "500", "502", "408", "html", "nothing", "numbers",
         "no choice", "no text", "502 in 200", "429 in 200", "error in 200", "now", "before now", "past", "cut",
         "hang"],
)  # fmt: skip
async def test_model_failures_that_are_tried_again(
    steps: ModelSteps, reply: Reply, kind: str, text: str, seconds: float | None
) -> None:
    """What may pass is tried again, as late as the service asks for, within reason."""
    failure = await _failure(steps, reply, agent={"request_timeout_seconds": 0.5})
    assert (failure.type, failure.message) == (kind, f"agent 'a': model 'scripted' {text}")
    if seconds is not None:
        assert failure.next_retry_delay == timedelta(seconds=seconds)
    elif kind == "ServiceBusy":
        assert failure.next_retry_delay is not None
        assert timedelta(seconds=2) <= failure.next_retry_delay <= timedelta(seconds=2.5)
    assert len(steps.provider.requests) == 1


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (WRONG_KEY, "answered 401: Incorrect API key provided: [secret]."),
        (Refusal(403, "No."), "answered 403: No."),
        (UNKNOWN_MODEL, "answered 404: The model does not exist or you do not have access to it."),
        (Refusal(400, "Bad."), "answered 400: Bad."),
        (Refusal(422, "Odd."), "answered 422: Odd."),
        (Refusal(413, "Large."), "answered 413: Large."),
        (
            CONTEXT_TOO_LONG,
            "answered 400: This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 "
            "tokens.",
        ),
        (
            Refusal(429, "You exceeded your current quota.", code="insufficient_quota"),
            "answered 429: You exceeded your current quota.",
        ),
        (Refusal(400, "x" * 3_000), f"answered 400: {'x' * 786}… (3,014 characters)"),
    ],
    ids=["401", "403", "404", "400", "422", "413", "context", "quota", "long"],
)
async def test_model_failures_that_are_final(
    steps: ModelSteps, monkeypatch: pytest.MonkeyPatch, reply: Reply, text: str
) -> None:
    """What the same request would bring again fails at once, in the provider's words, and never with the key."""
    monkeypatch.setenv("MY_SERVICE", "sk-very-private")
    outcome = await steps.run(always(reply), agent={"api_key_env": "MY_SERVICE"})
    assert _text(outcome) == f"agent 'a': model 'scripted' {text}"
    assert steps.provider.headers[0]["authorization"] == "Bearer sk-very-private"


async def test_model_that_nobody_serves_is_tried_again(steps: ModelSteps) -> None:
    """A refused connection is another attempt's."""
    failure = await _failure(steps, Hang(), agent={"base_url": "http://127.0.0.1:9"})
    assert failure.message == (
        "agent 'a': model 'scripted' cannot be reached: ConnectError: All connection attempts failed"
    )


async def test_model_waits_are_no_faults(steps: ModelSteps) -> None:
    """However often a service asks to wait, the attempts that an error may take are still there."""
    policy = RetryPolicy(maximum_attempts=100)
    beats: list[Any] = []
    for attempt in range(1, 31):
        await _failure(steps, TOO_MANY, attempt=attempt, heartbeat_details=beats, retry_policy=policy)
        beats = [steps.beats[-1]]
    assert beats[0]["waits"] == 30
    for attempt in range(31, 35):
        await _failure(steps, Refusal(500, "Boom."), attempt=attempt, heartbeat_details=beats, retry_policy=policy)
    last = await steps.run(attempt=35, heartbeat_details=beats, retry_policy=policy)
    assert _text(last) == "agent 'a': model 'scripted' answered 500: Boom."
    busy = await steps.run(always(TOO_MANY), attempt=100, heartbeat_details=beats, retry_policy=policy)
    assert _text(busy) == "agent 'a': model 'scripted' answered 429: Rate limit reached for requests."


async def test_model_believes_a_short_wait_for_a_while(steps: ModelSteps) -> None:
    """A service that says "in a second" for an hour does not use up the step's attempts in two minutes."""
    believed = await _failure(steps, TOO_MANY, attempt=5)
    assert believed.next_retry_delay == timedelta(seconds=1)
    doubted = await _failure(steps, TOO_MANY, attempt=6)
    assert doubted.next_retry_delay is not None
    assert timedelta(seconds=60) <= doubted.next_retry_delay <= timedelta(seconds=75)


async def test_model_waits_count_where_a_limit_is_set(steps: ModelSteps) -> None:
    """A step's own limit counts all attempts, whatever ended them."""
    outcome = await steps.run(always(TOO_MANY), attempt=2, spec={"max_attempts": 2})
    assert _text(outcome) == "agent 'a': model 'scripted' answered 429: Rate limit reached for requests."


def _by_model(**replies: Reply) -> Any:
    def script(request: Request, number: int) -> Reply:
        return replies[request["model"]]

    return script


async def test_model_chain_asks_the_next_one(steps: ModelSteps) -> None:
    """Where a model fails, the next one is asked in the same attempt, and for the rest of it; the run is told."""
    looking = Answer(calls=(ToolCall("nothing"),))
    script = _by_model(one=Refusal(500, "Boom."), two=WRONG_KEY, three=looking)
    outcome = await steps.run(script, agent={"model": ["one", "two", "three"]}, spec={"max_steps": 1})
    assert [request["model"] for request in steps.provider.requests] == ["one", "two", "three", "three"]
    assert outcome.warnings == (
        "'two' was asked instead: model 'one' answered 500: Boom.",
        "'three' was asked instead: model 'two' answered 401: Incorrect API key provided: api-key-not-set.",
    )


async def test_model_chain_fails_with_all_that_it_met(steps: ModelSteps) -> None:
    """Another attempt may help if it may help one of them."""
    agent = {"model": ["one", "two"]}
    with pytest.raises(ApplicationError) as failed:
        await steps.run(_by_model(one=Refusal(400, "Bad."), two=TOO_MANY), agent=agent)
    assert failed.value.message == (
        "agent 'a': model 'one' answered 400: Bad.; model 'two' answered 429: Rate limit reached for requests."
    )
    assert failed.value.next_retry_delay == timedelta(seconds=1)
    outcome = await steps.run(_by_model(one=Refusal(400, "Bad."), two=Refusal(404, "Gone.")), agent=agent)
    assert _text(outcome) == "agent 'a': model 'one' answered 400: Bad.; model 'two' answered 404: Gone."


async def test_model_without_its_key_fails(steps: ModelSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named; nothing is asked."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    keyless = await steps.run(agent={"base_url": None, "model": "openai:gpt-5-mini"})
    assert _text(keyless) == (
        "agent 'a': model 'openai:gpt-5-mini' needs an API key: set the environment variable 'OPENAI_API_KEY' where "
        "the worker runs, or name another one by 'api_key_env'"
    )
    named = await steps.run(agent={"api_key_env": "NO_SUCH_KEY"})
    assert _text(named) == (
        "agent 'a': model 'scripted' needs the key of the environment variable 'NO_SUCH_KEY', which 'api_key_env' "
        "names and which is not set where the worker runs"
    )


async def test_model_of_a_missing_package_says_how_to_get_it(steps: ModelSteps) -> None:
    """Providers beyond OpenAI's kind are extras."""
    pytest.importorskip("pydantic_ai")
    try:
        import anthropic  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        outcome = await steps.run(agent={"base_url": None, "model": "anthropic:claude-sonnet-4-5"})
        assert _text(outcome) == (
            "agent 'a': model 'anthropic:claude-sonnet-4-5' needs a package that is not installed: "
            "pip install 'perdure[anthropic]'"
        )


async def test_model_usage_that_nobody_told_is_estimated(steps: ModelSteps) -> None:
    """A response without usage is charged by the bytes of what was said, and the run is told."""
    outcome = await steps.run(always(Answer("word " * 60, tells_usage=False)))
    assert outcome.usage == Usage(input_tokens=9, output_tokens=108, requests=1)
    assert outcome.warnings == ("Model 'scripted' does not say what it used, so its calls are charged by estimate.",)


def _completion(**beside: Any) -> Rubbish:
    """An answer, with what stands beside it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Done."}, "finish_reason": "stop"}
    head = {"id": "x", "object": "chat.completion", "created": 1, "model": "scripted"}
    return Rubbish(json.dumps({**head, "choices": [choice], **beside}).encode())


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
        {"prompt_tokens": "many", "completion_tokens": 3, "total_tokens": 3},
        {"prompt_tokens": 5.5, "completion_tokens": 3, "total_tokens": 8},
        {"prompt_tokens": -5, "completion_tokens": -3, "total_tokens": -8},
        {"prompt_tokens": 5},
        [5, 3],
    ],
    ids=["null", "text", "fraction", "negative", "half", "list"],
)
async def test_model_usage_that_is_none_loses_no_answer(steps: ModelSteps, usage: Any) -> None:
    """An answer was paid for, whatever its provider says about tokens: it is taken, and charged by estimate."""
    await _is_estimated(steps, _completion(usage=usage))


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # pydantic-ai's own, about the fraction
async def test_model_usage_that_is_none_loses_no_streamed_answer(steps: ModelSteps) -> None:
    """The same where the answer comes in pieces."""
    usage = {"prompt_tokens": 5.5, "completion_tokens": 3, "total_tokens": 8}
    await _is_estimated(steps, _streamed(usage), agent={"idle_timeout_seconds": 30})


async def _is_estimated(steps: ModelSteps, reply: Reply, **options: Any) -> None:
    outcome = await steps.run(always(reply), **options)
    assert (outcome.output, outcome.usage) == ("Done.", Usage(input_tokens=9, output_tokens=10, requests=1))
    assert outcome.warnings == ("Model 'scripted' does not say what it used, so its calls are charged by estimate.",)
    assert (await steps.run(attempt=2)).output == "Done."
    assert len(steps.provider.requests) == 1


def _streamed(usage: Any) -> Rubbish:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    choice = {"index": 0, "delta": {"role": "assistant", "content": "Done."}, "finish_reason": "stop"}
    chunks = [{**head, "choices": [choice]}, {**head, "choices": [], "usage": usage}]
    return Rubbish(b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), "text/event-stream")


async def test_model_answer_with_an_odd_head_is_taken(steps: ModelSteps) -> None:
    """Ids, names and dates that some servers leave out are not worth an answer."""
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    outcome = await steps.run(always(_completion(id=None, model=None, created="today", usage=usage)))
    assert (outcome.output, outcome.usage) == ("Done.", Usage(input_tokens=5, output_tokens=3, requests=1))


async def test_model_that_says_nothing_more_is_given_up(steps: ModelSteps) -> None:
    """The idle limit counts from the last piece of an answer, however long the whole takes."""
    idle = {"idle_timeout_seconds": 1.5}
    failure = await _failure(steps, Hang(Answer("word " * 20)), agent=idle)
    assert failure.message == (
        "agent 'a' made no progress for 1.5 s ('idle_timeout_seconds'): no answer, and no tool's result"
    )
    slow = Answer("word " * 30, tokens=Tokens(9, 30), pause_seconds=0.25)
    outcome = await steps.run(always(slow), agent=idle)
    assert (outcome.output, outcome.usage) == (
        "word " * 30,
        Usage(input_tokens=9, output_tokens=30, requests=1),
    )


async def test_model_of_the_users_own_shows_its_own_errors(steps: ModelSteps) -> None:
    """What a model that is the user's code raises is told as it is."""
    outcome = await steps.run(agent={"base_url": None, "model": f"python:{__name__}:broken"})
    assert _text(outcome) == "KeyError: 'oops'"


def broken(messages: Any, info: Any) -> Any:
    raise KeyError("oops")


async def test_model_faults_pass(steps: ModelSteps) -> None:
    """After a fault another attempt is answered."""
    script = first([TOO_MANY], always(Answer("At last.")))
    with pytest.raises(ApplicationError):
        await steps.run(script)
    assert (await steps.run(attempt=2)).output == "At last."
