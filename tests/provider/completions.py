"""The chat completions format: what a request must look like, and an answer as one body or as a stream of events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.provider.replies import CHARACTERS_PER_TOKEN, Answer, Refusal, Tokens
from tests.provider.scripts import Request, digest

PIECE_CHARACTERS = 16
# What one event of a stream carries of a text.


def fault_of(request: Any) -> Refusal | None:
    """Why the API would not take a request; it insists that each call of a tool is followed by its result."""
    messages = request.get("messages") if isinstance(request, dict) else None
    if not isinstance(messages, list) or not messages:
        return Refusal(400, "'messages' must be a list of at least one message.")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        return Refusal(400, "Each message must be an object with a 'role'.")
    pending: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in pending:
                return Refusal(400, f"No call of a tool has the id {message.get('tool_call_id')!r}.")
            pending.discard(message["tool_call_id"])
        elif pending:
            break
        pending |= {call["id"] for call in message.get("tool_calls") or ()}
    if pending:
        return Refusal(400, f"The calls {sorted(pending)} of tools are not followed by their results.")
    return None


def token_limit(request: Request) -> int | None:
    """What a request lets the answer cost."""
    limit = request.get("max_completion_tokens", request.get("max_tokens"))
    return limit if isinstance(limit, int) else None


@dataclass(frozen=True)
class Completion:
    """An answer as it leaves: held to the request's token limit."""

    id: str
    model: str
    text: str | None
    calls: tuple[dict[str, Any], ...]
    finish_reason: str
    tokens: Tokens
    tells_usage: bool
    is_usage_asked_for: bool
    """Whether a stream should end with it."""

    @classmethod
    def of(cls, answer: Answer, request: Request) -> Completion:
        """The answer to a request. Ids follow from the conversation, so that it can be repeated."""
        name = digest(request["messages"])
        written = [answer.text or "", *(call.written for call in answer.calls)]
        tokens = answer.tokens or Tokens(_count(json.dumps(request["messages"])), _count("".join(written)))
        limit = token_limit(request)
        is_cut = limit is not None and tokens.output > limit
        if limit is not None and is_cut:
            written = _shortened(written, limit / tokens.output)
            tokens = Tokens(tokens.input, limit)
        calls = tuple(
            {"id": f"call_{name}_{index}", "type": "function", "function": {"name": call.name, "arguments": arguments}}
            for index, (call, arguments) in enumerate(zip(answer.calls, written[1:], strict=True))
        )
        return cls(
            id=f"chatcmpl-{name}",
            model=str(request.get("model")),
            text=None if answer.text is None else written[0],
            calls=calls,
            finish_reason="length" if is_cut else "tool_calls" if calls else "stop",
            tokens=tokens,
            tells_usage=answer.tells_usage,
            is_usage_asked_for=bool((request.get("stream_options") or {}).get("include_usage")),
        )

    def body(self) -> bytes:
        """The answer in one piece."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None}
        if self.calls:
            message["tool_calls"] = list(self.calls)
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason, "logprobs": None}
        usage = {"usage": self._usage()} if self.tells_usage else {}
        return json.dumps({**self._head("chat.completion"), "choices": [choice], **usage}).encode()

    def events(self) -> Iterator[bytes]:
        """The answer as server-sent events."""
        yield self._delta({"role": "assistant", "content": ""})
        for start in range(0, len(self.text or ""), PIECE_CHARACTERS):
            yield self._delta({"content": (self.text or "")[start : start + PIECE_CHARACTERS]})
        for index, call in enumerate(self.calls):
            arguments = call["function"]["arguments"]
            half = len(arguments) // 2
            begun = {**call, "index": index, "function": {"name": call["function"]["name"], "arguments": ""}}
            yield self._delta({"tool_calls": [begun]})
            for piece in (arguments[:half], arguments[half:]):
                yield self._delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield self._delta({}, self.finish_reason)
        if self.tells_usage and self.is_usage_asked_for:
            yield _event({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": int(time.time()), "model": self.model}

    def _usage(self) -> dict[str, int]:
        tokens = self.tokens
        return {"prompt_tokens": tokens.input, "completion_tokens": tokens.output, "total_tokens": tokens.total}


def _count(text: str) -> int:
    return max(1, len(text) // CHARACTERS_PER_TOKEN)


def _shortened(written: list[str], share: float) -> list[str]:
    """The first part of what would have been written, text before calls."""
    left = int(sum(map(len, written)) * share)
    kept: list[str] = []
    for part in written:
        kept.append(part[:left])
        left -= len(kept[-1])
    return kept


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
