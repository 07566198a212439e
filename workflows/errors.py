"""The error tree, and what is worth another attempt.

    PerdureError                 final: Temporal never retries it, its type is the class name
      InputRejected              a run's input is not what its workflow takes        the caller acts
      OptionsRejected            a run option is unknown or wrong                    the caller acts
      ApprovalRejected           an answer to an approval cannot be taken            the person acts
      GraphRejected              a stage graph cannot run                            the author acts
      DuplicateTaskIds           two steps of one call share an id                   the caller acts
      StoreFull                  a dedup store has no room for more (graphs)         reported as data
      FanOutTooLarge             a pipeline that only its own history could hold     the author acts
      NotInitialised             a subclass's __init__ forgot super().__init__()     the author acts
      PayloadTooLarge            a value is too large for a history                  the author acts
      AgentsRejected             agents.toml is wrong                                the operator acts
      SettingsRejected           a setting or a variable is wrong                    the operator acts
      ServerUnreachable          Temporal does not answer                            the operator acts
      LocalServerFailed          the embedded server cannot be used                  the operator acts
      PatternFailed              a pattern came to no answer                         reported as data, or caught
      StepFailed                 an agent's step failed for good                     reported as data
      PayloadMissing             a payload is not in the blob store (activities)     the operator acts
    PayloadLocked                a payload is encrypted with a key that is not here  the operator acts
      PayloadOutOfReach          the blob store does not answer (activities)         the operator acts
    RetryableStepError           raised by an agent: this step is worth another attempt
      ServiceBusy                its service asks to be left alone (activities)      tried again, uncounted
      StoreUnavailable           the blob store cannot be used (activities)          tried again
    BudgetExceeded               raised in an agent by `check_before_llm`; the executor reports it as data
    StepCancelled                raised in a `def` agent whose step was cancelled

Law: whether an error is retried is decided here, by type, never by its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from temporalio.exceptions import ApplicationError

QUOTED_LENGTH = 200
NAMED_IDS = 5
# What a message quotes is cut here: a message is read in one line of the UI.
PAYLOAD_BYTES_OF_TEMPORAL = 2 * 1024 * 1024
# What its server takes. A limit above that is a blob store's.


class PerdureError(ApplicationError):
    """A failure that another attempt cannot mend; fails the run or the step that raised it."""

    def __init__(self, message: str, *details: Any) -> None:
        super().__init__(message, *details, type=type(self).__name__, non_retryable=True)


class InputRejected(PerdureError):
    """The input of a run is not what its workflow takes; nothing was scheduled."""


class OptionsRejected(PerdureError):
    """The memo `perdure_options` holds an unknown or wrong option; nothing was scheduled."""


class ApprovalRejected(PerdureError):
    """An answer to an approval cannot be taken; the run keeps waiting."""


class GraphRejected(PerdureError):
    """A stage graph cannot run; nothing was scheduled."""


class DuplicateTaskIds(PerdureError):
    """Steps of one call share a `task_id`; nothing was scheduled."""

    def __init__(self, verb: str, task_ids: Sequence[str]) -> None:
        named = ", ".join(repr(task_id) for task_id in task_ids[:NAMED_IDS])
        more = f" and {len(task_ids) - NAMED_IDS:,} more" if len(task_ids) > NAMED_IDS else ""
        super().__init__(
            f"{verb}: task_id {named}{more} is used by more than one step. Give each step of a call its own."
        )


class FanOutTooLarge(PerdureError):
    """A pipeline that children cannot carry has more steps than one history holds; nothing was scheduled."""

    def __init__(self, items: int, stages: int, limit: int, why: str) -> None:
        super().__init__(
            f"pipeline: {items:,} items through {stages} stages are more than the {limit:,} steps that one history "
            f"holds, and children cannot carry it: {why}. Make each stage a function of a module, "
            "`def stage(previous, item)`, and each item plain JSON."
        )


class NotInitialised(PerdureError):
    """A subclass of AgentWorkflow has an `__init__` that does not call `super().__init__()`."""

    def __init__(self, workflow: type) -> None:
        super().__init__(f"{workflow.__name__}.__init__ does not call super().__init__(). Call it on its first line.")


class PayloadTooLarge(PerdureError):
    """A value is larger than one payload may be: in a history, or in a blob store."""

    def __init__(self, *, owner: str, field: str, size: int, limit: int) -> None:
        told = f"{owner}: {field} is {size / 1e6:.1f} MB and the limit is {limit / 1e6:.1f} MB"
        if limit < PAYLOAD_BYTES_OF_TEMPORAL:
            remedy = "Shorten it, pass a reference to it, or give the workers a blob store (PERDURE_BLOBS)."
        else:
            remedy = "Shorten it, or pass a reference to it."
        super().__init__(f"{told}. {remedy}")


class AgentsRejected(PerdureError):
    """agents.toml cannot be served."""


class SettingsRejected(PerdureError):
    """A setting, an environment variable or a command-line option cannot be used."""


class ServerUnreachable(PerdureError):
    """Temporal does not answer where it was looked for."""


class LocalServerFailed(PerdureError):
    """The embedded server of `--local` does not start, or cannot be joined."""


class PatternFailed(PerdureError):
    """A pattern came to no answer; `outputs` holds what its agents had brought until then."""

    def __init__(self, message: str, outputs: Sequence[Any] = (), *details: Any) -> None:
        super().__init__(message, *details)
        self.outputs = tuple(outputs)


class StepFailed(PerdureError):
    """A step failed for good: another attempt would fail alike. The message is the step's failure text."""


class PayloadLocked(ApplicationError):
    """A payload is encrypted with a key that this process does not have, or was altered.

    Not final: a worker that has the key can still do what this one could not read.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, type=type(self).__name__)


class RetryableStepError(Exception):
    """Raise it from an agent when another attempt may succeed (a lost connection, a rate limit).

    `after` is the least time until the next attempt; without it the step's backoff decides.
    """

    def __init__(self, message: str, *, after: timedelta | None = None) -> None:
        super().__init__(message)
        self.after = after


class BudgetExceeded(Exception):
    """The step may not spend what it asked for. Let it pass: the step then gets more tokens, or is denied."""

    def __init__(self, message: str, *, needed: int = 0, needed_usd: float = 0.0) -> None:
        super().__init__(message)
        self.needed, self.needed_usd = needed, needed_usd


class StepCancelled(Exception):
    """The step of a `def` agent was cancelled. Let it pass after cleaning up."""


RETRYABLE: tuple[type[Exception], ...] = (RetryableStepError, ConnectionError, TimeoutError)
# Everything else an agent raises is a fault that the same input brings again.


def is_retryable(error: BaseException) -> bool:
    """Whether another attempt of the step that raised this may succeed."""
    return isinstance(error, RETRYABLE)


def cut(value: str, length: int = QUOTED_LENGTH) -> str:
    """A long text cut for a message, with its length."""
    return value if len(value) <= length else f"{value[:length]}… ({len(value):,} characters)"
