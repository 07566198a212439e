"""A person's answer to an approval: from options, or asked for on a terminal, field by field.

Law: a value has the type that its field declares; where the field offers options, it is one of them.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from pydantic import JsonValue

from runtime.commands.inputs import parse_json
from runtime.commands.options import Fault
from runtime.questions import described, offered, told_fields
from workflows.approvals import ApprovalRequest
from workflows.errors import cut
from workflows.graph import reading
from workflows.graph.conditions import as_text
from workflows.graph.definition import ApprovalField
from workflows.graph.reading import Unreadable

APPROVED = "approved"
"""What the answer to an approval without fields says."""

YES = ("yes", "y", "true", "1", "approve", "approved", "ok")
NO = ("no", "n", "false", "0", "deny", "denied", "reject", "rejected", "decline", "declined")
"""Words for the options that decide, and for the values of a boolean field."""

Answer = dict[str, JsonValue]


def given_answer(
    run: str, asked: ApprovalRequest, fields: Sequence[str], response: str | None, *, is_denied: bool
) -> JsonValue:
    """The answer that the options make. On a terminal, what they leave out is asked for."""
    if response is not None:
        if fields or is_denied:
            raise Fault("--response is the whole answer. Leave --field, --message and --deny out, or --response.")
        found: JsonValue = parse_json(response, "--response")
        return found
    if not asked.fields:
        if fields:
            raise Fault(f"Approval {asked.id!r} of run {run!r} has no fields. Leave --field out, or use --response.")
        return {APPROVED: not is_denied}
    answer = {**(_denial(run, asked) if is_denied else {}), **_named(run, asked, fields)}
    if _is_terminal():
        return {**answer, **_asked_for(asked, answer)}
    if not answer:
        told = "\n".join(f"  {line}" for line in told_fields(asked))
        raise Fault(
            f"Approval {asked.id!r} of run {run!r} takes these fields:\n{told}\n"
            "Give each with --field NAME=VALUE, or all with --response JSON."
        )
    return answer


def _named(run: str, asked: ApprovalRequest, given: Sequence[str]) -> Answer:
    """The values that `--field` names."""
    known = {field.name: field for field in asked.fields}
    answer: Answer = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise Fault(f"--field is {cut(text)!r}, and takes NAME=VALUE.")
        if name not in known:
            names = ", ".join(repr(other) for other in known)
            raise Fault(f"--field names {cut(name)!r}, and the fields of approval {asked.id!r} are {names}.")
        if name in answer:
            raise Fault(f"--field names {name!r} twice. Give each field once.")
        answer[name] = value_of(known[name], value)
    return answer


def value_of(field: ApprovalField, text: str) -> JsonValue:
    """The value that a text stands for. Raises `Fault` where it is none that the field takes."""
    if field.options:
        for option in field.options:
            if as_text(option) == text:
                return option
        raise Fault(f"Field {field.name!r} is {cut(text)!r}, and takes {offered(field)}.")
    read = READERS.get(field.field_type)
    return text if read is None else read(field, text)


def _number(field: ApprovalField, text: str) -> JsonValue:
    try:
        found = reading.parse_json(text)
    except Unreadable:
        found = None
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise Fault(f"Field {field.name!r} is {cut(text)!r}, and takes a number.")
    return found


def _boolean(field: ApprovalField, text: str) -> JsonValue:
    word = text.strip().lower()
    if word not in (*YES, *NO):
        raise Fault(f"Field {field.name!r} is {cut(text)!r}, and takes 'yes' or 'no'.")
    return word in YES


READERS: dict[str, Callable[[ApprovalField, str], JsonValue]] = {
    "boolean": _boolean,
    "bool": _boolean,
    "checkbox": _boolean,
    "number": _number,
    "integer": _number,
    "json": lambda field, text: parse_json(text, f"field {field.name!r}"),
}
"""How a text is read, by field type; as it is for every other type."""


def _denial(run: str, asked: ApprovalRequest) -> Answer:
    """The field that decides, saying no."""
    refusals: list[tuple[str, JsonValue]] = []
    for field in asked.fields:
        if field.options:
            refusals += [(field.name, option) for option in field.options if as_text(option).lower() in NO]
        elif READERS.get(field.field_type) is _boolean:
            refusals.append((field.name, False))
    if len(refusals) != 1:
        told = "no field says no" if not refusals else "more than one field or option says no"
        raise Fault(f"Approval {asked.id!r} of run {run!r} cannot be denied by --deny: {told}. Use --field.")
    return dict(refusals)


def _is_terminal() -> bool:
    """Whether somebody can be asked: they type on stdin and read stderr."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _asked_for(asked: ApprovalRequest, given: Answer) -> Answer:
    """What a person types: every field where none was given, else those that are required and missing."""
    missing = [field for field in asked.fields if field.name not in given and (field.required or not given)]
    if missing:
        click.echo(asked.prompt, err=True)
    with _interruptible():
        answers = {field.name: _ask(field) for field in missing}
    return {name: value for name, value in answers.items() if value is not None}


def _ask(field: ApprovalField) -> JsonValue:
    """The value of one field; None where it is left out."""
    question = f"{field.name}{described(field)}"
    while True:
        text: Any = click.prompt(question, default="", show_default=False, err=True)
        if not text and not field.required:
            return None
        try:
            return value_of(field, text) if text else _refuse_empty(field)
        except Fault as fault:
            click.echo(fault.message, err=True)


def _refuse_empty(field: ApprovalField) -> JsonValue:
    raise Fault(f"Field {field.name!r} is required.")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a question: the event loop's own handler waits for the loop, which waits for the person here."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
