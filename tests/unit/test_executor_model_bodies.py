"""What is sent to OpenAI's API: the same bytes, without the detour through the types of their parameters."""

from __future__ import annotations

import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ThinkingPart, ToolCallPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from activities.executors.model.bodies import is_light, lighten
from activities.executors.model.output import Form
from activities.executors.model.transcript import Result, Transcript

TOOLS = [ToolDefinition(name="page", description="A page.", parameters_json_schema={"type": "object"})]
SETTINGS: ModelSettings = {"max_tokens": 99, "extra_body": {"seed": 7}}


def conversation() -> Transcript:
    """Two turns, with all that a transcript can hold."""
    transcript = Transcript("Read — all of it.", "Be brief.")
    for number in range(2):
        call = ToolCallPart("page", {"number": number}, f"call-{number}")
        turn, _ = transcript.answered(ModelResponse(parts=[ThinkingPart("Well."), TextPart("So."), call]))
        turn.results[f"call-{number}"] = Result(f"call-{number}", "ü" * 100, "success" if number else "failed")
        turn.reply = "Go on."
    return transcript


async def sent(
    kind: type[OpenAIChatModel | OpenAIResponsesModel], *, is_lightened: bool, streams: bool = False
) -> list[tuple[str, bytes]]:
    """The requests that a model makes of the conversation, each refused for good."""
    requests: list[tuple[str, bytes]] = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        requests.append((request.url.path, request.read()))
        return httpx2.Response(500 if is_lightened else 400, json={"error": {"message": "No."}})

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(refuse))
    client = AsyncOpenAI(api_key="sk-none", base_url="http://localhost/v1", http_client=http)
    model = kind("m", provider=OpenAIProvider(openai_client=client))
    if is_lightened:
        lighten(model)
    parameters = Form().parameters(TOOLS, model)
    messages = model.prepare_messages(conversation().messages(), parameters)
    asked = _streamed(model, messages, parameters) if streams else model.request(messages, SETTINGS, parameters)
    with pytest.raises(ModelHTTPError):
        await asked
    await http.aclose()
    return requests


async def _streamed(model: Model, messages: list[ModelMessage], parameters: ModelRequestParameters) -> None:
    async with model.request_stream(messages, SETTINGS, parameters):
        pass


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])
async def test_lightened_model_sends_the_same_bytes(
    kind: type[OpenAIChatModel | OpenAIResponsesModel], streams: bool
) -> None:
    """The conversation is where it was, beside what else is in the body; and a failed request is sent once."""
    [usual] = await sent(kind, is_lightened=False, streams=streams)
    assert await sent(kind, is_lightened=True, streams=streams) == [usual]
    assert "ü" * 100 in usual[1].decode()
    assert '"seed":7' in usual[1].decode()


def test_model_of_another_kind_is_left_as_it_is() -> None:
    """What does not ask through OpenAI's client is nobody's to lighten."""
    from pydantic_ai.models.test import TestModel

    model = TestModel()
    lighten(model)
    assert not is_light(model)
