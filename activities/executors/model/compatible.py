"""Chat models of OpenAI-compatible servers, some of which answer in their own way.

Law: an answer that was paid for is not lost for what stands beside it, and an error is one under any status.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from openai.types.chat import ChatCompletion
from openai.types.completion_usage import CompletionUsage
from pydantic import ValidationError
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelHTTPError,
    ModelRateLimitError,
    ModelServerError,
    ModelUnavailableError,
    UnexpectedModelBehavior,
)
from pydantic_ai.models.openai import OpenAIChatModel

CATEGORIES: dict[int, type[ModelRateLimitError | ModelUnavailableError]] = {
    429: ModelRateLimitError,
    503: ModelUnavailableError,
    529: ModelUnavailableError,
}
"""The statuses by which a service asks to wait; pydantic-ai sorts only those that it gets as a status itself."""


class CompatibleChatModel(OpenAIChatModel):
    """A model that is asked over the chat API of anybody's server."""

    def _validate_completion(self, response: ChatCompletion) -> Any:
        """The completion, checked. pydantic-ai calls it for each one that does not come as a stream."""
        if error := (response.model_extra or {}).get("error"):
            raise _reported(error, self.model_name)
        if not response.choices:
            raise UnexpectedModelBehavior("the answer holds no choice")
        return super()._validate_completion(response.model_copy(update=self._mended(response)))

    def _mended(self, response: ChatCompletion) -> dict[str, Any]:
        """What stands beside the answer, where it is not what it should be."""
        told = response.model_dump(warnings=False)
        plain = {"id": "", "model": self.model_name, "created": 0}
        mended = {name: value for name, value in plain.items() if type(told.get(name)) is not type(value)}
        return mended if _is_count(told.get("usage")) else {**mended, "usage": None}


def _is_count(usage: Any) -> bool:
    """Whether a usage says how many tokens; without one that does, the answer is charged by estimate."""
    try:
        counted = CompletionUsage.model_validate(usage)
    except ValidationError:
        return False
    return counted.prompt_tokens >= 0 and counted.completion_tokens >= 0


def _reported(error: Any, model: str) -> ModelAPIError:
    """An error that came with status 200, as gateways hand on the one of the server behind them."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and HTTPStatus.BAD_REQUEST <= code < 600:
        category = CATEGORIES.get(code) or (ModelServerError if code >= HTTPStatus.INTERNAL_SERVER_ERROR else None)
        return ModelHTTPError.for_category(category, status_code=code, model_name=model, body=error)
    said = error.get("message") if isinstance(error, dict) else error
    return ModelAPIError(model_name=model, message=f"an error: {said or error}")
