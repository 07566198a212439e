"""What the scripted provider may do with a request: answer it, or fail in one of the ways in which providers fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHARACTERS_PER_TOKEN = 4
# What these providers bill where a script names no tokens; about right for English.


@dataclass(frozen=True)
class Tokens:
    """What an answer is billed."""

    input: int
    output: int

    @property
    def total(self) -> int:
        return self.input + self.output


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool. Arguments given as text are sent as they are, malformed or not."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)

    @property
    def written(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class Answer:
    """An answer of a model, billed as soon as it is begun."""

    text: str | None = None
    calls: tuple[ToolCall, ...] = ()
    tokens: Tokens | None = None
    """Unset: counted from the characters of the request and the answer. Output is held to the request's limit."""
    tells_usage: bool = True
    delay_seconds: float = 0.0
    """Waited before the first byte."""
    pause_seconds: float = 0.0
    """Waited between the pieces of a streamed answer."""


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error, and costs nothing. `{key}` in the message becomes the API key of the request."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "invalid_request_error"
    code: str | None = None


@dataclass(frozen=True)
class Rubbish:
    """Status 200 with a body that is no answer."""

    body: bytes = b"<html>upstream is thinking</html>"
    content_type: str = "application/json"


@dataclass(frozen=True)
class Hang:
    """Accepts the request and never says another word; with an answer: after half of it, which is billed."""

    midway: Answer | None = None


@dataclass(frozen=True)
class Cut:
    """Cuts the connection after half of an answer, which is billed."""

    answer: Answer


Reply = Answer | Refusal | Rubbish | Hang | Cut

TOO_MANY = Refusal(429, "Rate limit reached for requests.", {"Retry-After": "1"}, "requests", "rate_limit_exceeded")
OVERLOADED = Refusal(503, "The engine is currently overloaded.", {"Retry-After": "1"}, "server_error")
WRONG_KEY = Refusal(401, "Incorrect API key provided: {key}.", code="invalid_api_key")
UNKNOWN_MODEL = Refusal(404, "The model does not exist or you do not have access to it.", code="model_not_found")
CONTEXT_TOO_LONG = Refusal(
    400,
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
    code="context_length_exceeded",
)


def retry_after(when: str) -> Refusal:
    """A 429 that says when to come back: seconds, or an HTTP date."""
    return Refusal(429, TOO_MANY.message, {"Retry-After": when}, TOO_MANY.kind, TOO_MANY.code)
