"""The spans of a conversation: model calls as pydantic-ai's own instrumentation tells them, and calls of tools.

Law: without `Tracing` nothing is done. What people and models say is in a span only where the operator asks for it, and
a key never.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Any

from opentelemetry.trace import Span, StatusCode, TracerProvider, get_tracer, get_tracer_provider
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.instrumented import InstrumentationSettings, InstrumentedModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from activities.blobs import plain_json
from activities.executors.model.toolset import Asked
from activities.executors.model.transcript import Result
from activities.tracing import Tracing

SCOPE = "perdure"
"""The instrumentation scope of perdure's own spans."""

Translate = Callable[[Exception], Exception]
"""What a model's error becomes before anybody is told of it."""


def traced(model: Model, tracing: Tracing | None, translate: Translate) -> Model:
    """The model, each of whose requests is a span `chat <model>` where steps are traced."""
    if tracing is None:
        return model
    return InstrumentedModel(_Translating(model, translate), _settings(tracing, get_tracer_provider()))


@lru_cache(maxsize=4)
def _settings(tracing: Tracing, provider: TracerProvider) -> InstrumentationSettings:
    """Made once: each has instruments of its own, which are never let go."""
    return InstrumentationSettings(
        tracer_provider=provider,
        include_content=tracing.shows_content,
        include_binary_content=False,
        include_model_request_parameters=tracing.shows_content,
    )


class _Translating(WrapperModel):
    """A model whose errors are ours before the span takes them down: some services quote the key that they refuse."""

    def __init__(self, wrapped: Model, translate: Translate) -> None:
        super().__init__(wrapped)
        self._translate = translate

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        try:
            return await self.wrapped.request(messages, model_settings, model_request_parameters)
        except Exception as error:
            told = self._translate(error)
            if told is error:
                raise
            raise told from None

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: Any = None,
    ) -> AsyncGenerator[StreamedResponse]:
        try:
            async with self.wrapped.request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as streamed:
                yield streamed
        except Exception as error:
            told = self._translate(error)
            if told is error:
                raise
            raise told from None


@contextmanager
def tool_span(call: ToolCallPart, asked: Asked, tracing: Tracing | None) -> Iterator[Callable[[Result], None]]:
    """A span `execute_tool <tool>` around the call of a tool; it takes the result."""
    if tracing is None:
        yield lambda result: None
        return
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.tool_name,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": call.tool_call_id,
    }
    if tracing.shows_content:
        attributes["gen_ai.tool.call.arguments"] = plain_json(asked.arguments)
    name = f"execute_tool {call.tool_name}"
    # An error that leaves a tool is none of the model's; its text may hold what the tool was called with.
    with get_tracer(SCOPE).start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        yield lambda result: _end(span, result, tracing)


def _end(span: Span, result: Result, tracing: Tracing) -> None:
    if tracing.shows_content:
        span.set_attribute("gen_ai.tool.call.result", result.text)
    if result.ending != "success":
        span.set_attribute("error.type", result.ending)
        span.set_status(StatusCode.ERROR)
