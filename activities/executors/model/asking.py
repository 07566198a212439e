"""One request: the limits that it is sent under, what it cost, and which model answered.

Law: a request's max_tokens and the estimate of its prompt are within what the step's grant leaves, in tokens and, where
the model's price is known, in dollars; what an answer cost is counted before anything else is done with it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic_ai.exceptions import AgentRunError, UserError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RequestUsage

from activities.context import StepContext
from activities.entries import ModelAgent
from activities.executors import Resources, ServiceBusy
from activities.executors.model import faults
from activities.executors.model.bodies import is_light
from activities.executors.model.estimate import answer_tokens, prompt_tokens
from activities.executors.model.naming import ModelSource, is_own_model, model_of, sources_of
from activities.executors.model.output import Form
from activities.executors.model.prices import cost_of, price_of
from activities.executors.model.spans import traced
from workflows.errors import RetryableStepError, StepFailed, cut
from workflows.steps import Usage

LEAST_ANSWER_TOKENS = 256
# With less than this left it is not worth paying for the prompt: the answer would be cut.
LARGEST_FIRST_CAP = 16_384
# A grant may leave more than a model can answer, and some services refuse a max_tokens beyond that. The large models of
# today take this much; an answer that it cuts is asked for again with twice as much.

COUNTED = "A model has answered."
"""In the log, at level debug, with what its prompt was taken for and what was counted: a limit holds as well as the
estimate does."""


@dataclass(frozen=True, slots=True)
class Cap:
    """What an answer may take."""

    tokens: int | None
    is_from_grant: bool
    """Whether the grant set it, not the agent."""

    def within(self, granted: int) -> Cap:
        """This cap, or what the grant leaves where that is less."""
        return self if self.tokens is not None and self.tokens <= granted else Cap(granted, is_from_grant=True)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request says, and how many tokens that is taken to be."""

    messages: list[ModelMessage]
    tools: list[ToolDefinition]
    form: Form
    tokens: int
    cut_at: int | None
    """The cap that cut the answer to it before."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and the cap that cut it where the grant set one."""

    response: ModelResponse
    cut_at: int | None = None


@dataclass(slots=True)
class Alive:
    """The idle limit of an agent: each piece of an answer, and each result of a tool, begins it anew."""

    limit_seconds: float | None
    _deadline: asyncio.Timeout | None = None

    def watch(self, deadline: asyncio.Timeout) -> None:
        """Keep a deadline away for as long as there is progress."""
        self._deadline = deadline

    def touch(self) -> None:
        """There was progress."""
        if self._deadline is not None and self.limit_seconds is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time() + self.limit_seconds)


@dataclass(slots=True)
class Asking:
    """Asks the models of one agent, for one step."""

    entry: ModelAgent
    resources: Resources
    context: StepContext
    alive: Alive
    _first: int = 0
    """The place of the model that answered last: those before it have failed in this attempt."""

    async def ask(
        self, messages: list[ModelMessage], tools: list[ToolDefinition], form: Form, cut_at: int | None
    ) -> Answer:
        """The model's answer. Raises `BudgetExceeded`, `StepFailed` or `RetryableStepError`."""
        estimate = prompt_tokens(messages, [self.entry.instructions, form.written], tools)
        prompt = Prompt(messages, tools, form, estimate, cut_at)
        source, response, cap = await self._from_one_of_them(prompt, self._cap(prompt))
        response = _readable(response)
        self._count(source, response, estimate)
        self.alive.touch()
        return self._judged(source, response, cap)

    def _least(self, prompt: Prompt) -> int:
        """Tokens of an answer that make the prompt worth its price."""
        least = LEAST_ANSWER_TOKENS if prompt.cut_at is None else 2 * prompt.cut_at
        own = self.entry.max_output_tokens
        return least if own is None else min(least, own)

    def _cap(self, prompt: Prompt) -> Cap:
        """What the answer may take. Raises `BudgetExceeded` where that is too little to be worth the prompt."""
        self.context.check_before_llm(prompt.tokens + self._least(prompt))
        own, left = Cap(self.entry.max_output_tokens, is_from_grant=False), self.context.remaining_tokens
        return own if left is None else own.within(min(left - prompt.tokens, _largest(prompt)))

    def _affordable(self, source: ModelSource, model: Model, prompt: Prompt, cap: Cap) -> Cap:
        """The cap, held to the dollars that the grant leaves. Raises `BudgetExceeded` where they are too few."""
        left = self.context.remaining_usd
        if left is None:
            return cap
        price = price_of(model, prompt.tokens)
        if price is None:
            self.context.warn(
                f"Model {cut(source.model)!r} has no known price, so the step's limit in dollars cannot be held."
            )
            return cap
        self.context.check_before_llm(usd=price.dollars(self._least(prompt)))
        payable = price.answer_tokens(left)
        return cap if payable is None else cap.within(min(payable, _largest(prompt)))

    async def _from_one_of_them(self, prompt: Prompt, cap: Cap) -> tuple[ModelSource, ModelResponse, Cap]:
        """The answer of the first model that gives one, and the cap that it was given under."""
        sources = sources_of(self.entry, self.resources.registry.default_model)
        failures: list[faults.Failure] = []
        for place in range(self._first, len(sources)):
            source = sources[place]
            try:
                model = await model_of(source, self.resources)
                payable = self._affordable(source, model, prompt, cap)
                await self._turn(source)
                response = await self._request(source, model, prompt, payable)
            except (StepFailed, RetryableStepError) as error:
                if isinstance(error, ServiceBusy) and error.after is not None:
                    self.resources.paces.hold(_service(source), error.after)
                failures.append(error)
                for following in sources[place + 1 : place + 2]:
                    self.context.warn(f"{cut(following.model)!r} was asked instead: {faults.said(error)}")
                continue
            self._first = place
            return source, response, payable
        raise faults.of_all(self.entry.name, failures)

    async def _turn(self, source: ModelSource) -> None:
        """Wait until the rates of the agent and of the model let a request out, and no other is being prepared."""
        paces, touch = self.resources.paces, self.alive.touch
        if self.entry.requests_per_second is not None:
            await paces.turn(f"agent {self.entry.name}", self.entry.requests_per_second, touch)
        await paces.turn(_service(source), self.resources.registry.rates.get(source.model), touch)
        await self.resources.turns.take()

    async def _request(self, source: ModelSource, model: Model, prompt: Prompt, cap: Cap) -> ModelResponse:
        self.alive.touch()  # what took time was to load it
        parameters = prompt.form.parameters(prompt.tools, model)
        limit = self.entry.request_timeout_seconds
        try:
            async with asyncio.timeout(limit) as deadline:
                prepared = model.prepare_messages(prompt.messages, parameters)
                settings = _settings(self.entry, model, cap)
                asked = traced(model, self.resources.tracing, lambda error: self._told(error, source))
                if self.alive.limit_seconds is None or not _can_stream(model):
                    return await asked.request(prepared, settings, parameters)
                async with asked.request_stream(prepared, settings, parameters) as streamed:
                    async for _ in streamed:
                        self.alive.touch()
                    return streamed.get()
        except TimeoutError as error:
            if deadline.expired():
                raise RetryableStepError(
                    f"model {cut(source.model)!r} did not answer within {limit:g} s ('request_timeout_seconds')"
                ) from None
            raise faults.failure(error, source, self.context.attempt) from None
        except Exception as error:
            told = self._told(error, source)
            if told is error:
                raise
            raise told from None

    def _told(self, error: Exception, source: ModelSource) -> Exception:
        """What an error means; as it is where it is the user's own, or has been told."""
        if isinstance(error, (StepFailed, RetryableStepError)):
            return error
        if is_own_model(source) and not isinstance(error, (AgentRunError, UserError)):
            return error  # the user's own code, and its traceback helps
        # Whatever else leaves a client is about an answer that it could not read.
        return faults.failure(error, source, self.context.attempt)

    def _count(self, source: ModelSource, response: ModelResponse, estimate: int) -> None:
        """Charge an answer, by estimate where its provider counted nothing."""
        counted = response.usage
        if not (counted.input_tokens or counted.output_tokens):
            self.context.warn(
                f"Model {cut(source.model)!r} does not say what it used, so its calls are charged by estimate."
            )
            counted = RequestUsage(input_tokens=estimate, output_tokens=answer_tokens(response))
        self.context.log.debug(
            COUNTED,
            model=source.model,
            estimated_tokens=estimate,
            input_tokens=counted.input_tokens,
            output_tokens=counted.output_tokens,
        )
        self.context.record_after_llm(
            Usage(
                input_tokens=counted.input_tokens,
                output_tokens=counted.output_tokens,
                requests=1,
                cost_usd=cost_of(replace(response, usage=counted)),
            )
        )

    def _judged(self, source: ModelSource, response: ModelResponse, cap: Cap) -> Answer:
        """The answer, unless it was cut or withheld: then it is none, and never comes out as one."""
        subject = f"agent {self.entry.name!r}: model {cut(source.model)!r}"
        if response.finish_reason == "content_filter":
            raise StepFailed(f"{subject} withheld its answer: content filter")
        if response.finish_reason != "length":
            return Answer(response)
        made = response.usage.output_tokens or answer_tokens(response)
        if cap.is_from_grant and cap.tokens is not None and (not response.usage.output_tokens or made >= cap.tokens):
            return Answer(response, cut_at=cap.tokens)
        if cap.tokens is not None and not cap.is_from_grant:
            raise StepFailed(f"{subject} was cut at {made:,} tokens by 'max_output_tokens'. Raise it, or ask for less")
        raise StepFailed(f"{subject} was cut at {made:,} tokens by its own limit. Ask it for less at once")


def _service(source: ModelSource) -> str:
    return f"{source.model} at {source.base_url}"


def _readable(response: ModelResponse) -> ModelResponse:
    """The answer, without a count of tokens that is none: a transcript that holds one cannot be read again."""
    counts = (response.usage.input_tokens, response.usage.output_tokens)
    if all(isinstance(count, int) and count >= 0 for count in counts):
        return response
    return replace(response, usage=RequestUsage())


def _largest(prompt: Prompt) -> int:
    """What an answer may take at most, however much is granted."""
    return LARGEST_FIRST_CAP if prompt.cut_at is None else max(LARGEST_FIRST_CAP, 2 * prompt.cut_at)


def _settings(entry: ModelAgent, model: Model, cap: Cap) -> ModelSettings:
    """How a request is to be answered. Temporal retries, so the service's client does not."""
    ours: dict[str, Any] = {
        "max_retries": 0,
        "timeout": entry.request_timeout_seconds,
        "temperature": entry.temperature,
        "max_tokens": cap.tokens,
    }
    taken = {
        name: value for name, value in ours.items() if value is not None and name not in model.unsupported_settings
    }
    settings = {**entry.settings, **taken}
    if is_light(model):
        del settings["max_retries"]
    return cast(ModelSettings, settings)


def _can_stream(model: Model) -> bool:
    return not isinstance(model, FunctionModel) or model.stream_function is not None
