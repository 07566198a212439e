"""What an answer costs in dollars, and how long an answer a sum of dollars pays for.

Law: a price that nobody knows is None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic_ai.messages import ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.usage import RequestUsage

SAMPLE_TOKENS = 1_000
# Prices are by the million tokens, and what a prompt's length changes in them holds for the whole answer.


@dataclass(frozen=True, slots=True)
class Price:
    """What the next request to a model costs: its prompt, and each token of its answer."""

    prompt_usd: float
    answer_token_usd: float

    def dollars(self, answer_tokens: int) -> float:
        """What the request costs with an answer of so many tokens."""
        return self.prompt_usd + answer_tokens * self.answer_token_usd

    def answer_tokens(self, dollars: float) -> int | None:
        """How many tokens of an answer these dollars pay for, beside the prompt; None where answers are free."""
        if not self.answer_token_usd:
            return None
        return max(0, int((dollars - self.prompt_usd) / self.answer_token_usd))


def price_of(model: Model, prompt_tokens: int) -> Price | None:
    """The price of a request to a model with a prompt of so many tokens; None where it is not known."""
    asked = ModelResponse(
        parts=[], model_name=model.model_name, provider_name=model.system, provider_url=model.base_url
    )
    prompt = cost_of(replace(asked, usage=RequestUsage(input_tokens=prompt_tokens)))
    whole = cost_of(replace(asked, usage=RequestUsage(input_tokens=prompt_tokens, output_tokens=SAMPLE_TOKENS)))
    if prompt is None or whole is None:
        return None
    return Price(prompt, (whole - prompt) / SAMPLE_TOKENS)


def cost_of(answer: ModelResponse) -> float | None:
    """Dollars of an answer: what its provider says, else what the price list says; None where neither knows."""
    if answer.usage.cost is not None:
        return float(answer.usage.cost)
    if not answer.model_name:
        return None
    try:
        return float(answer.cost().total_price)
    except (LookupError, ValueError):
        return None
