"""What a run waits for a person to answer: the first answer wins, a bad one is refused, a deadline may decide instead.

An answer arrives by the update `resolve_approval`. Its validator refuses a bad answer before it enters the history, so
the run keeps waiting as if nobody had spoken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field, JsonValue

from workflows.errors import ApprovalRejected, cut
from workflows.graph.conditions import same
from workflows.graph.definition import ApprovalField
from workflows.parsing import parse
from workflows.wire import Stored, measure

MAX_ANSWER_BYTES = 400_000
# As JSON. What was taken, what is told back and what goes on with it leave in one message, and Temporal ends a run
# whose message is over 4 MB; measured: one answer of 1.5 MB did.


class ApprovalRequest(Stored):
    """A question to a person: one entry of the query `approvals`."""

    id: str
    stage: str
    """The stage that asks; empty outside graphs."""
    prompt: str
    fields: tuple[ApprovalField, ...] = ()
    asked: str
    """RFC 3339."""
    deadline: str | None = None
    step: str | None = None
    """The step whose agent asks, where it is not the stage itself."""


class ApprovalAnswer(Stored):
    """Payload of the update `resolve_approval`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    response: JsonValue
    """An object with a value for each field; for an approval without fields, anything."""
    answered_by: str | None = Field(default=None, max_length=200)


Check = Callable[[ApprovalAnswer], None]
"""Refuses an answer by raising `ApprovalRejected`, where its fields alone do not tell."""


@dataclass(frozen=True)
class _Open:
    request: ApprovalRequest
    answer: asyncio.Future[ApprovalAnswer]
    check: Check | None


class Approvals:
    """The open questions of a run."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._answered: dict[str, str | None] = {}

    def requests(self) -> list[ApprovalRequest]:
        """What is waiting for an answer, oldest first."""
        return [waiting.request for waiting in self._open.values()]

    @contextmanager
    def open(self, request: ApprovalRequest, check: Check | None = None) -> Iterator[asyncio.Future[ApprovalAnswer]]:
        """Where the person's answer arrives. The question can be answered from here to the end of the block."""
        answer: asyncio.Future[ApprovalAnswer] = asyncio.get_running_loop().create_future()
        self._open[request.id] = _Open(request, answer, check)
        try:
            yield answer
        finally:
            self._open.pop(request.id, None)

    def read(self, payload: Any) -> ApprovalAnswer:
        """The payload of an update as an answer to an open question. Raises `ApprovalRejected`."""
        answer = parse(ApprovalAnswer, payload, "resolve_approval", ApprovalRejected)
        waiting = self._open.get(answer.id)
        if waiting is None or waiting.answer.done():
            raise ApprovalRejected(self._why_not_open(answer.id))
        refuse_oversized(answer.response)
        _check(answer.response, waiting.request.fields)
        if waiting.check is not None:
            waiting.check(answer)
        return answer

    def resolve(self, answer: ApprovalAnswer) -> None:
        """Give an answer that `read` has accepted to whoever waits for it."""
        self._answered[answer.id] = answer.answered_by
        self._open[answer.id].answer.set_result(answer)

    def _why_not_open(self, name: str) -> str:
        if name in self._answered:
            who = self._answered[name]
            return f"approval {name!r} was answered already{f' by {who!r}' if who else ''}. The first answer counts."
        waiting = ", ".join(repr(other) for other in self._open)
        return f"no approval {name!r} is waiting. {f'Waiting are {waiting}.' if waiting else 'None is waiting.'}"


def refuse_oversized(response: JsonValue) -> None:
    """Raise `ApprovalRejected` where an answer is too large to be taken.

    Whoever sends one asks first: the refusal of an update carries the update, and over 2 MB it cannot leave a worker.
    """
    taken = measure(response)
    if taken > MAX_ANSWER_BYTES:
        raise ApprovalRejected(
            f"the response is {taken:,} bytes and the limit is {MAX_ANSWER_BYTES:,}. Write it to a file and answer "
            "with its name."
        )


def _check(response: JsonValue, fields: Sequence[ApprovalField]) -> None:
    """Refuse an answer that leaves out a required field or picks what is not offered."""
    if not fields:
        return
    if not isinstance(response, Mapping):
        names = ", ".join(repr(field.name) for field in fields)
        raise ApprovalRejected(f"the response is {cut(repr(response))}; expected an object with the fields {names}.")
    for field in fields:
        value = response.get(field.name)
        if value in (None, ""):
            if field.required:
                raise ApprovalRejected(f"field {field.name!r} is required and has no value.")
        elif field.options and not any(same(value, option) for option in field.options):
            offered = ", ".join(repr(option) for option in field.options)
            raise ApprovalRejected(f"field {field.name!r} is {cut(repr(value))}; the options are {offered}.")
