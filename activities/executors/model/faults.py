"""What the failure of a request means: another attempt, after how long, or the end.

Law: decided by type and status, never by text; and no message holds a key.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError
from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelAPIError,
    ModelConnectionError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
    ModelUnavailableError,
    UnexpectedModelBehavior,
    UserError,
)

from activities.executors import ServiceBusy
from activities.executors.model.naming import ModelSource
from activities.secrets import without_secrets, without_values
from workflows.errors import RetryableStepError, StepFailed, cut

LONGEST_WAIT = timedelta(minutes=10)
# A service may ask for hours, and be back in minutes: a step that asks again soon enough costs it one request.
FIRST_WAIT_SECONDS = 2.0
LONGEST_OWN_WAIT_SECONDS = 60.0
# Where the service does not say how long to wait: doubled from the first on.
BELIEVED_ATTEMPTS = 5
# A service that says "in a second" for an hour would use up a step's 100 attempts in two minutes, so from here on it is
# left alone for as long as if it said nothing.
SPREAD = 0.25
# Many steps are refused in the same moment; they should not all come back in one.
WORTH_ANOTHER_TRY = frozenset({408, 409, 425})
# Statuses of the client's kind that mean "not now".
SAID_CHARACTERS = 800
# The service's own words. The whole failure is cut at 2,000 characters.

Failure = StepFailed | RetryableStepError


def failure(error: Exception, source: ModelSource, attempt: int) -> Failure:
    """What a request's error means for its step."""
    said_so = " ".join(without_secrets(_told(error), (source.api_key_env,)).split())
    text = f"model {cut(source.model)!r} {cut(said_so, SAID_CHARACTERS)}"
    if isinstance(error, (ModelRateLimitError, ModelUnavailableError)):
        return ServiceBusy(text, after=_wait(error.retry_after, attempt))
    if isinstance(error, (ModelQuotaExceededError, ModelRequestRejectedError, ContentFilterError, UserError)):
        return StepFailed(text)
    if isinstance(error, ModelHTTPError) and not isinstance(error, ModelServerError):
        is_final = 400 <= error.status_code < 500 and error.status_code not in WORTH_ANOTHER_TRY
        return StepFailed(text) if is_final else RetryableStepError(text, after=_asked(error.retry_after))
    return RetryableStepError(text, after=_asked(error.retry_after if isinstance(error, ModelAPIError) else None))


def of_all(agent: str, failures: Sequence[Failure]) -> Failure:
    """The failure of every model that an agent has: worth another attempt if one of them is."""
    text = f"agent {agent!r}: {'; '.join(said(failed) for failed in failures)}"
    waits = [failed for failed in failures if isinstance(failed, RetryableStepError)]
    if not waits:
        return StepFailed(text)
    soonest = min((failed.after for failed in waits if failed.after is not None), default=None)
    if all(isinstance(failed, ServiceBusy) for failed in waits):
        return ServiceBusy(text, after=soonest)
    return RetryableStepError(text, after=soonest)


def said(failed: Failure) -> str:
    """A failure's text."""
    return failed.message if isinstance(failed, StepFailed) else str(failed)


def _wait(retry_after: float | None, attempt: int) -> timedelta:
    """How long a service is left alone: as long as it asks for, else longer each time."""
    seconds = min(FIRST_WAIT_SECONDS * 2 ** min(attempt - 1, 10), LONGEST_OWN_WAIT_SECONDS)
    own = timedelta(seconds=seconds * (1 + SPREAD * random.random()))  # noqa: S311 - nobody guesses it for gain
    asked = _asked(retry_after)
    if asked is None:
        return own
    return asked if attempt <= BELIEVED_ATTEMPTS else max(asked, own)


def _asked(retry_after: float | None) -> timedelta | None:
    """What a service asks for; None where it says nothing, or "now", which is no wait."""
    if not retry_after:
        return None
    return timedelta(seconds=min(retry_after, LONGEST_WAIT.total_seconds()))


def _told(error: Exception) -> str:
    """The end of a sentence that starts with the model; secrets are still in it."""
    if isinstance(error, ModelHTTPError):
        return f"answered {error.status_code}: {_message(error.body) or 'nothing more'}"
    if isinstance(error, ModelConnectionError):
        cause = error.__cause__.__cause__ if error.__cause__ else None
        return f"cannot be reached: {f'{type(cause).__name__}: {cause}' if cause else error.message}"
    if isinstance(error, UserError):
        return f"cannot be asked so: {error}"
    if isinstance(error.__cause__, json.JSONDecodeError):
        return f"answered what is no JSON: {error.__cause__.doc or 'nothing'}"
    if isinstance(unread := error.__cause__ or error, ValidationError):
        return f"answered what cannot be read: {without_values(unread)}"
    if isinstance(error, (ModelAPIError, UnexpectedModelBehavior)):
        return f"answered what cannot be read: {error.message}"
    return f"answered what cannot be read: {type(error).__name__}: {error}"


def _message(body: Any) -> str:
    """The service's own words, wherever in its answer they stand."""
    if not isinstance(body, dict):
        return "" if body is None else str(body)
    for found in (body.get("message"), body.get("error"), body.get("detail")):
        if isinstance(found, str) and found:
            return found
        if isinstance(found, dict):
            return _message(found)
    return str(body)
