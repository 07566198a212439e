"""Requests whose conversation goes to OpenAI's client as it is.

The client takes each message of a request through the types of its parameters, looking for aliases that none of them
has: a millisecond of the event loop for each tool call of the transcript, and three where the Responses API is spoken,
again in every request. What a request carries as `extra_body` is spared that, and stands in the same place of the body.

Law: the bytes that go out are the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from openai import AsyncOpenAI
from pydantic_ai.models import Model

Create = Callable[..., Awaitable[Any]]


def lighten(model: Model) -> None:
    """Let a model that was built here ask without detours, if it asks through OpenAI's client; its retries are off."""
    client = getattr(model, "client", None)
    if not isinstance(client, AsyncOpenAI):
        return
    chat, responses = client.chat.completions, client.responses
    chat.create = _as_it_is(chat.create, "messages")  # type: ignore[method-assign, assignment]
    responses.create = _as_it_is(responses.create, "input")  # type: ignore[method-assign, assignment]
    client.max_retries = 0


def is_light(model: Model) -> bool:
    """Whether a model's retries are off already.

    A setting that says so again would make a copy of its client for each request, and the copy is not lightened.
    """
    client = getattr(model, "client", None)
    return isinstance(client, AsyncOpenAI) and client.max_retries == 0


def _as_it_is(create: Create, name: str) -> Create:
    async def created(*, extra_body: Any = None, **parameters: Any) -> Any:
        conversation = parameters[name]
        if not isinstance(conversation, list):
            return await create(extra_body=extra_body, **parameters)
        body = {name: conversation, **(extra_body or {})}
        return await create(extra_body=body, **{**parameters, name: []})

    return created
