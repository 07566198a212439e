"""How many tokens a request will take, before anybody has counted them.

An estimate by the bytes of the text, on the high side: providers count by tokenizers of their own, some only over the
network. From the second request on, what the provider has counted of the conversation so far stands, and only what came
after it is estimated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse
from pydantic_ai.tools import ToolDefinition

from activities.blobs import plain_json

BYTES_PER_TOKEN = 3
# English prose has four and more, code and JSON about three, and scripts whose characters take three bytes about one
# token for each. Only long numbers and encoded data have fewer.
MESSAGE_TOKENS = 8
# What separates messages, and names the role of each.


def tokens_of(text: str) -> int:
    """Tokens of a text, on the high side."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def prompt_tokens(messages: Sequence[ModelMessage], texts: Iterable[str], tools: Iterable[ToolDefinition]) -> int:
    """Tokens that a request will take on its way in: its messages, other texts that go with them, and its tools."""
    for position in range(len(messages) - 1, -1, -1):
        counted = messages[position]
        if isinstance(counted, ModelResponse) and counted.usage.input_tokens:
            known = counted.usage.input_tokens + counted.usage.output_tokens
            return known + sum(map(_message_tokens, messages[position + 1 :]))
    described = sum(_tool_tokens(tool) for tool in tools)
    return sum(map(tokens_of, texts)) + described + sum(map(_message_tokens, messages))


def answer_tokens(answer: ModelResponse) -> int:
    """Tokens of an answer whose provider did not count them."""
    return _message_tokens(answer)


def _tool_tokens(tool: ToolDefinition) -> int:
    return MESSAGE_TOKENS + tokens_of(f"{tool.name}{tool.description}{plain_json(tool.parameters_json_schema)}")


def _message_tokens(message: ModelMessage) -> int:
    return MESSAGE_TOKENS + sum(tokens_of(text) for text in _texts(message))


def _texts(message: ModelRequest | ModelResponse) -> Iterable[str]:
    """What of a message goes to the model."""
    for part in message.parts:
        for name in ("tool_name", "content", "args"):
            value = getattr(part, name, None)
            if value is not None:
                yield value if isinstance(value, str) else str(value)
