"""A script in the place of a model, so that the example runs offline: `PERDURE_MODEL=python:…:answer`.

Law: what is answered follows from the messages alone, so that a conversation which another attempt takes up goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo

DANGERS = {
    "eval(": "whoever sets it runs their own code in the service",
    "TOKEN =": "a credential in the source is known to all who read it",
}


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """The next answer of whichever agent has these tools."""
    offered = {tool.name for tool in info.function_tools}
    if "delegate" in offered:
        return _review(messages)
    if "post_review" in offered:
        return _post(messages)
    return _said(_dangers(_prompt(messages)))


def _review(messages: Sequence[ModelMessage]) -> ModelResponse:
    """Reads the patch, asks the specialist, and reviews."""
    results = _results(messages)
    if not results:
        return _called("read_file", path=_prompt(messages).rpartition(" ")[2])
    if len(results) == 1:
        added = [line for line in results[0].splitlines() if line.startswith("+") and not line.startswith("+++")]
        return _called("delegate", specialist="security", subtask="\n".join(added))
    return _said(f"# Review\n\n{results[1]}\n- no test comes with it")


def _post(messages: Sequence[ModelMessage]) -> ModelResponse:
    """Posts what it was given, and says how that ended."""
    results = _results(messages)
    return _said(results[0]) if results else _called("post_review", review=_prompt(messages))


def _dangers(lines: str) -> str:
    found = [
        f"- `{line[1:].strip()}`: {why}" for line in lines.splitlines() for sign, why in DANGERS.items() if sign in line
    ]
    return "\n".join(found) or "- nothing endangers the service"


def _prompt(messages: Sequence[ModelMessage]) -> str:
    """The step's prompt."""
    return next(str(part.content) for part in messages[0].parts if isinstance(part, UserPromptPart))


def _results(messages: Sequence[ModelMessage]) -> list[str]:
    """What the tools have answered so far."""
    requests = [message for message in messages if isinstance(message, ModelRequest)]
    return [str(part.content) for request in requests for part in request.parts if isinstance(part, ToolReturnPart)]


def _called(tool: str, **arguments: str) -> ModelResponse:
    return ModelResponse(parts=[ToolCallPart(tool, dict(arguments))])


def _said(text: str) -> ModelResponse:
    return ModelResponse(parts=[TextPart(text)])
