"""`run_agent_step`: what each end of an agent means for its step, and what its step has spent."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from activities.context import StepContext
from tests.agent_steps import Steps, failed, outcome_of, raising, returning
from workflows.errors import RetryableStepError
from workflows.steps import AgentSpec, AgentStepSpec, Grant, Resume, StepOutcome, TokensNeeded, Usage


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path / "blobs")


def nested(levels: int) -> dict[str, Any]:
    """JSON of so many levels."""
    value: Any = []
    for _ in range(levels - 2):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("text", outcome_of(output="text")),
        ({"a": [1, "é"]}, outcome_of(output='{"a":[1,"é"]}', structured={"a": [1, "é"]})),
        ({"success": False}, outcome_of(output='{"success":false}', structured={"success": False})),
        (nested(191), failed("the agent returned JSON of more than 190 levels. Return a flatter result.")),
        ("", failed("child agent returned no final output")),
        (" \n", failed("child agent returned no final output")),
        (None, failed("child agent returned no final output")),
        (3, failed("the agent returned 'int'; an agent returns str, dict or StepOutcome")),
        ({"a": {1}}, failed("the agent returned a dict that is not JSON: at 'a': input was not a valid JSON value")),
        (
            outcome_of(task_id="x", session_id="y", agent="z", output="mine", usage=Usage(input_tokens=4), attempts=9),
            outcome_of(output="mine", usage=Usage(input_tokens=4)),
        ),
        (
            outcome_of(task_id="x", session_id="y", agent="z", output="mine", success=False),
            outcome_of(output="mine", success=False, status="failed", error="mine"),
        ),
        ("half a \ud800 pair", None),
    ],
)  # fmt: skip
async def test_step_takes_what_its_agent_returned(steps: Steps, returned: Any, expected: StepOutcome | None) -> None:
    """A text, a dict, an outcome; the step's own names and usage stand, and nothing else passes as an answer."""
    outcome = await steps.run(returning(returned))
    if expected is None:
        assert outcome.output.startswith("Task failed: what the agent returned cannot be stored as JSON: ")
    else:
        assert outcome == expected
    assert steps.beats == []


async def test_step_of_an_unknown_agent_fails(steps: Steps) -> None:
    """An agent that agents.toml lacks is named, and an inline one says what is missing."""
    assert await steps.run(returning("x"), spec={"agent": "nobody"}) == failed(
        "Unknown agent type: 'nobody'", agent="nobody"
    )
    inline = AgentSpec(name="writer", system_prompt="You write.")
    assert await steps.run(returning("x"), spec={"agent": "writer", "profile": inline}) == failed(
        "agent 'writer' names no model, and the worker has no default one. Set its 'model', 'default_model' in "
        "agents.toml, or PERDURE_MODEL",
        agent="writer",
    )
    known = await steps.run(returning("x"), spec={"agent": "other", "profile": AgentSpec(name="a")})
    assert known == outcome_of(output="x", agent="other")


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    "answer", [{"n": 1}, '{"n": 1}', 'Sure:\n```json\n{"n": 1}\n```\nDone.', 'I {think} {"n": 1} fits']
)
async def test_step_with_a_schema_returns_its_object(steps: Steps, answer: Any) -> None:
    """The dict, or the JSON object in the text, is checked and put into `structured`."""
    outcome = await steps.run(returning(answer), spec={"output_schema": SCHEMA})
    assert (outcome.success, outcome.structured) == (True, {"n": 1})


@pytest.mark.parametrize(
    ("answer", "schema", "told"),
    [
        ('{"n": "x"}', SCHEMA, "at $.n: 'x' is not of type 'integer'"),
        ("none", SCHEMA, "the answer holds no JSON object"),
        ("[1]", {"type": "array"}, "the answer holds no JSON object"),
        (
            '{"n": 1}',
            {"type": "objekt"},
            "output_schema is not a valid JSON Schema: at $.type: 'objekt' is not valid under any of the given schemas",
        ),
        ('{"n": 1}', {"$ref": "http://x:1/"}, "output_schema refers to 'http://x:1/', which is not in it"),
        ('{"n": 1}', {"$ref": "#"}, "output_schema refers to itself without end"),
    ],
    ids=["wrong", "none", "array", "invalid", "remote", "endless"],
)  # fmt: skip
async def test_step_without_its_structured_output_is_demoted(
    steps: Steps, answer: str, schema: dict[str, Any], told: str
) -> None:
    """The answer stays, the step fails, and the reason stands behind the answer."""
    assert await steps.run(returning(answer), spec={"output_schema": schema}) == outcome_of(
        output=f"{answer}\n\n[structured output failed: {told}]",
        success=False,
        status="failed",
        error=f"structured output failed: {told}",
    )


async def test_step_that_fails_is_data(steps: Steps) -> None:
    """An error is the step's failure text; its traceback is in the worker's log only."""
    with capture_logs() as logs:
        outcome = await steps.run(raising(ValueError("bad input")))
    assert outcome == failed("ValueError: bad input", usage=Usage(input_tokens=10))
    [entry] = logs
    assert (entry["event"], entry["agent"], entry["error"]) == ("An agent failed.", "a", "ValueError: bad input")
    assert entry["traceback"].endswith("ValueError: bad input\n")
    with capture_logs():
        long = await steps.run(raising(ValueError("x" * 5_000)))
    assert long.output == f"Task failed: ValueError: {'x' * 1_988}… (5,012 characters)"


@pytest.mark.parametrize("error", [RetryableStepError("busy", after=timedelta(seconds=7)), ConnectionError("busy")])
async def test_step_worth_another_attempt_is_raised_with_its_usage(steps: Steps, error: Exception) -> None:
    """A retryable failure goes to Temporal, with the outcome so far, and a last heartbeat for the next attempt."""
    with pytest.raises(ApplicationError) as raised:
        await steps.run(raising(error))
    text = "busy" if isinstance(error, RetryableStepError) else "ConnectionError: busy"
    failure = raised.value
    assert (failure.type, failure.message, failure.non_retryable) == (type(error).__name__, "busy", False)
    assert failure.next_retry_delay == (timedelta(seconds=7) if isinstance(error, RetryableStepError) else None)
    assert failure.details == (failed(text, usage=Usage(input_tokens=10)),)
    assert steps.beats == [{"task": "t", "usage": {"input_tokens": 10, "total_tokens": 10}}]


@pytest.mark.parametrize(
    ("attempt", "limits"),
    [
        (5, {}),
        (2, {"spec": {"max_attempts": 2}, "call": {"max_attempts": 9}}),
        (3, {"call": {"max_attempts": 3}}),
        (4, {"retry_policy": RetryPolicy(maximum_attempts=4)}),
    ],
    ids=["default", "step", "run", "policy"],
)
async def test_step_that_used_its_last_attempt_is_data(steps: Steps, attempt: int, limits: dict[str, Any]) -> None:
    """On the last attempt that is allowed a retryable failure is returned like any other."""
    outcome = await steps.run(raising(RetryableStepError("busy")), attempt=attempt, **limits)
    assert outcome == failed("busy", usage=Usage(input_tokens=10), attempts=attempt)


async def test_step_counts_usage_once_over_attempts(steps: Steps) -> None:
    """The next attempt starts from the larger of checkpoint and heartbeat, and goes on from the checkpoint."""

    async def first(step: AgentStepSpec, context: StepContext) -> str:
        context.record_after_llm(Usage(input_tokens=100, requests=1))
        await context.checkpoint({"turn": 1})
        context.record_after_llm(Usage(input_tokens=30, requests=1))
        raise ConnectionError

    seen: list[Any] = []

    async def second(step: AgentStepSpec, context: StepContext) -> str:
        seen.append((context.attempt, context.idempotency_key, context.restored, context.usage.total_tokens))
        context.record_after_llm(Usage(input_tokens=30, requests=1))
        return "done"

    with pytest.raises(ApplicationError):
        await steps.run(first)
    told = [beat["usage"]["total_tokens"] for beat in steps.beats]
    assert (told[0], told[-1]) == (100, 130)
    spent = Usage(input_tokens=160, requests=3)
    assert await steps.run(second, attempt=2, heartbeat_details=steps.beats[-1:]) == outcome_of(
        output="done", usage=spent, attempts=2
    )
    without_beat = await steps.run(second, attempt=2)
    assert without_beat.usage == Usage(input_tokens=130, requests=2)
    assert seen == [(2, "k", {"turn": 1}, 130), (2, "k", {"turn": 1}, 100)]


async def spends_past_its_checkpoint(step: AgentStepSpec, context: StepContext) -> str:
    context.check_before_llm(50)
    context.record_after_llm(Usage(input_tokens=60))
    context.check_before_llm(50)
    return "never"


async def asks_first(step: AgentStepSpec, context: StepContext) -> str:
    context.check_before_llm(200)
    return "never"


async def test_step_out_of_budget_is_suspended_or_denied(steps: Steps) -> None:
    """Suspended where nothing would be paid twice; denied where something was spent since the last checkpoint."""
    asked = "step 't' has used {} of the 100 tokens granted to it, and the next model call is estimated at {}"
    first = asked.format(0, 200)
    assert await steps.run(asks_first, call={"grant": Grant(tokens=100)}) == failed(
        first, status="suspended", needs=TokensNeeded(at_least=200)
    )
    assert await steps.run(spends_past_its_checkpoint, call={"grant": Grant(tokens=100)}) == failed(
        asked.format(60, 50), status="budget_exceeded", usage=Usage(input_tokens=60)
    )


async def test_step_holds_only_what_this_scheduling_spent_to_its_grant(steps: Steps) -> None:
    """What the workflow has settled does not count again, and the outcome's usage is of all schedulings."""
    resume = Resume(usage=Usage(input_tokens=500))
    outcome = await steps.run(spends_past_its_checkpoint, call={"grant": Grant(tokens=110), "resume": resume})
    assert outcome == outcome_of(output="never", usage=Usage(input_tokens=560))


async def test_step_is_held_to_dollars_where_prices_are_known(steps: Steps) -> None:
    """A grant in dollars stops the step; a call without a price is told, for then nothing can be held."""

    async def spends(step: AgentStepSpec, context: StepContext) -> str:
        context.record_after_llm(Usage(input_tokens=1, cost_usd=float(step.prompt) if step.prompt else None))
        context.check_before_llm()
        return "done"

    grant = {"grant": Grant(usd=0.5)}
    over = await steps.run(spends, spec={"prompt": "0.5"}, call=grant)
    assert (over.status, over.error) == (
        "budget_exceeded",
        "step 't' has used 0.5000 of the 0.5000 dollars granted to it",
    )
    assert (await steps.run(spends, spec={"prompt": "0.25"}, call=grant)).output == "done"
    unpriced = await steps.run(spends, spec={"prompt": ""}, call=grant)
    assert (unpriced.output, unpriced.warnings) == (
        "done",
        ("A model call of this step has no known price, so its limit in dollars cannot be held.",),
    )


async def test_step_that_is_too_large_fails_with_its_usage(steps: Steps) -> None:
    """What a history cannot hold is not sent: the step fails, naming field and size."""

    async def agent(step: AgentStepSpec, context: StepContext) -> Any:
        context.record_after_llm(Usage(input_tokens=1))
        return "x" * 3_100_000 if step.prompt == "text" else {"x": "x" * 1_000_000}

    told = (
        "step 't': {} MB and the limit is 1.9 MB. "
        "Shorten it, pass a reference to it, or give the workers a blob store (PERDURE_BLOBS)."
    )
    assert [await steps.run(agent, spec={"prompt": prompt}) for prompt in ("text", "dict")] == [
        failed(told.format(what), usage=Usage(input_tokens=1))
        for what in ("output is 3.1", "output with structured is 2.0")
    ]
