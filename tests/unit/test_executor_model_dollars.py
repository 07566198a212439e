"""The model executor: what an answer costs, and a limit in dollars."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.model_steps import ModelSteps, model_steps
from tests.provider import Answer, Refusal, Tokens, ToolCall, always, by_turn
from workflows.steps import Resume, StepOutcome, Usage

PRICED = {"model": "gpt-4o-mini", "tools": ()}
IN, OUT = 0.15e-6, 0.60e-6
"""What gpt-4o-mini costs by the token. A price list knows it by its name, wherever it is served."""


@pytest.fixture
async def steps(tmp_path: Path) -> AsyncIterator[ModelSteps]:
    async with model_steps(tmp_path) as steps:
        yield steps


def _granted(usd: float, outcome: StepOutcome | None = None, tokens: int | None = None) -> dict[str, Any]:
    resume = Resume(transcript=outcome.transcript, usage=outcome.usage) if outcome else None
    return {"grant": {"usd": usd, "tokens": tokens}, "resume": resume}


@pytest.mark.parametrize(
    ("granted", "tokens", "own", "most"),
    [
        (0.001, None, None, int((0.001 - 9 * IN) / OUT)),
        (0.001, 1_000, None, 1_000 - 9),
        (0.001, None, 500, 500),
        (0.001, 100_000, 5_000, int((0.001 - 9 * IN) / OUT)),
        (100.0, None, None, 16_384),
    ],
    ids=["dollars", "tokens are less", "the agent's own is less", "dollars are the least", "much"],
)
async def test_model_request_is_cut_to_what_the_dollars_pay(
    steps: ModelSteps, granted: float, tokens: int | None, own: int | None, most: int
) -> None:
    """A request's max_tokens is the least of what its grants leave and its agent allows, after the prompt."""
    outcome = await steps.run(
        always(Answer("end", tokens=Tokens(9, 10))),
        agent={**PRICED, "max_output_tokens": own},
        call=_granted(granted, tokens=tokens),
    )
    assert [call.max_tokens for call in steps.provider.ledger.calls()] == [most]
    assert outcome.usage.model_dump() == {
        "input_tokens": 9,
        "output_tokens": 10,
        "total_tokens": 19,
        "requests": 1,
        "cost_usd": pytest.approx(9 * IN + 10 * OUT),
    }


async def test_model_short_of_dollars_is_suspended_and_goes_on(steps: ModelSteps) -> None:
    """Too little left for another answer ends the attempt before it costs; with more the step goes on."""
    looking = Answer(calls=(ToolCall("look", {"place": "cellar"}),), tokens=Tokens(100, 50))
    script = by_turn(looking, Answer("empty", tokens=Tokens(220, 3)))
    granted = 100 * IN + 50 * OUT + 0.00015
    short = await steps.run(script, agent=PRICED, call=_granted(granted))
    told = len("There is no tool 'look'. No tool can be called.")
    prompt = 150 + 8 + -(-told // 3) + -(-len("look") // 3)
    assert short.status == "suspended"
    assert short.needs is not None
    assert short.needs.model_dump() == {"type": "tokens", "at_least_usd": pytest.approx(prompt * IN + 256 * OUT)}
    assert short.error == (
        "step 't' has used 0.0000 of the 0.0002 dollars granted to it, and the next model call is estimated at 0.0002"
    )
    outcome = await steps.run(agent=PRICED, call=_granted(0.001, short))
    assert (outcome.output, outcome.usage.requests) == ("empty", 2)
    assert outcome.usage.cost_usd == pytest.approx(320 * IN + 53 * OUT)
    assert steps.provider.ledger.asked_twice() == {}


async def test_model_answer_that_the_dollars_cut_is_none(steps: ModelSteps) -> None:
    """It is paid for once, and the step asks for the dollars of one twice as long."""
    cap = int((0.0003 - 9 * IN) / OUT)
    cut = await steps.run(
        always(Answer("word " * 800, tokens=Tokens(9, 600))), agent=PRICED, call=_granted(0.0003, tokens=50_000)
    )
    assert (cut.status, cut.success, await steps.pieces()) == ("suspended", False, [{"cut": cap}])
    assert cut.needs is not None
    assert cut.needs.model_dump() == {"type": "tokens", "at_least_usd": pytest.approx(9 * IN + 2 * cap * OUT)}
    outcome = await steps.run(agent=PRICED, call=_granted(0.01, cut))
    assert outcome.success
    assert outcome.usage.cost_usd == pytest.approx(18 * IN + (cap + 600) * OUT)


async def test_model_without_a_price_is_unpriced_and_says_so(steps: ModelSteps) -> None:
    """No price is not the price 0: the cost stays unknown, and the limit in dollars is told not to hold."""
    outcome = await steps.run(always(Answer("end", tokens=Tokens(9, 10))), agent={"tools": ()}, call=_granted(0.000001))
    assert outcome.usage == Usage(input_tokens=9, output_tokens=10, requests=1, cost_usd=None)
    assert outcome.warnings == ("Model 'scripted' has no known price, so the step's limit in dollars cannot be held.",)
    unlimited = await steps.run(agent={"tools": ()})
    assert (unlimited.usage.cost_usd, unlimited.warnings) == (None, ())


async def test_model_dollars_are_those_of_the_model_that_answers(steps: ModelSteps) -> None:
    """In a chain each model is held to its own price."""
    steps.provider.script = lambda request, number: (
        Refusal(404, "Gone.") if request["model"] == "gpt-4o" else Answer("end", tokens=Tokens(9, 10))
    )
    await steps.run(agent={"model": ("gpt-4o", "gpt-4o-mini"), "tools": ()}, call=_granted(0.005))
    dear, cheap = (call.max_tokens for call in steps.provider.ledger.calls())
    assert (dear, cheap) == (int((0.005 - 9 * 2.5e-6) / 10e-6), int((0.005 - 9 * IN) / OUT))


async def test_model_that_tells_no_usage_is_priced_by_estimate(steps: ModelSteps) -> None:
    """What its answer is taken to be costs what such an answer costs."""
    outcome = await steps.run(always(Answer("end", tells_usage=False)), agent=PRICED)
    assert outcome.usage.cost_usd == pytest.approx(outcome.usage.input_tokens * IN + outcome.usage.output_tokens * OUT)
    assert outcome.usage.total_tokens
