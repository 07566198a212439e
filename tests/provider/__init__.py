"""A model provider for tests: a real server on loopback that does what a script says and counts what it billed.

In the test's own process:

    async with Provider.serve(call_tool("read_file", 30, {"path": "page-{turn}.txt"})) as provider:
        ...  # agents with OPENAI_BASE_URL=provider.url("worker-1")
    provider.ledger.billed("worker-1")

As a process of its own, that outlives the workers it answers: `python -m tests.provider --script FILE --ledger FILE`,
or `provider_process`.
"""

from tests.provider.ledger import Call, Ledger
from tests.provider.process import ProviderProcess, provider_process
from tests.provider.replies import (
    CONTEXT_TOO_LONG,
    OVERLOADED,
    TOO_MANY,
    UNKNOWN_MODEL,
    WRONG_KEY,
    Answer,
    Cut,
    Hang,
    Refusal,
    Reply,
    Rubbish,
    Tokens,
    ToolCall,
    retry_after,
)
from tests.provider.scripts import (
    Request,
    Script,
    always,
    by_turn,
    call_tool,
    cut_short,
    digest,
    echo,
    every,
    first,
    hangs,
    last_text,
    metered,
    slowly,
    structured,
    turns_taken,
)
from tests.provider.server import Provider

__all__ = [
    "CONTEXT_TOO_LONG",
    "OVERLOADED",
    "TOO_MANY",
    "UNKNOWN_MODEL",
    "WRONG_KEY",
    "Answer",
    "Call",
    "Cut",
    "Hang",
    "Ledger",
    "Provider",
    "ProviderProcess",
    "Refusal",
    "Reply",
    "Request",
    "Rubbish",
    "Script",
    "Tokens",
    "ToolCall",
    "always",
    "by_turn",
    "call_tool",
    "cut_short",
    "digest",
    "echo",
    "every",
    "first",
    "hangs",
    "last_text",
    "metered",
    "provider_process",
    "retry_after",
    "slowly",
    "structured",
    "turns_taken",
]
