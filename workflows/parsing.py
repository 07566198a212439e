"""Plain JSON from a caller -> our models, or a rejection in our words.

Workflows take `Any` and parse here, because an input that the data converter refuses never fails a run: its workflow
task is tried again for ever.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from workflows.errors import PerdureError, cut

Model = TypeVar("Model", bound=BaseModel)

MOST_PROBLEMS = 5
# In one message; the caller mends these and learns of the rest.

WRITTEN_AS = {
    **dict.fromkeys(("tuple_type", "list_type", "set_type", "frozen_set_type", "iterable_type"), "a list"),
    **dict.fromkeys(
        ("dict_type", "model_type", "model_attributes_type", "mapping_type", "dataclass_type"), "an object"
    ),
    **dict.fromkeys(("string_type", "string_sub_type", "string_unicode"), "a text"),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "none_required": "null",
    "invalid-json-value": "JSON",
}
"""What a person writes, by the fault that pydantic has in its own words, which are Python's."""

LENGTHS = {"String should": "text should", "Tuple should": "list should", "Dictionary should": "object should"}
"""Beginnings of what pydantic says of a length."""


def parse(model: type[Model], value: Any, where: str, rejection: type[PerdureError]) -> Model:
    """The value as a model; raises `rejection`, naming each field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise rejection(" ".join(problems(error, model.model_fields, where))) from None


def problems(error: ValidationError, known: Iterable[str], where: str) -> list[str]:
    """Each mistake that pydantic found as a sentence of ours."""
    found = error.errors(include_url=False, include_context=False)
    told = [_problem(mistake, list(known), where) for mistake in found[:MOST_PROBLEMS]]
    if len(found) > MOST_PROBLEMS:
        told.append(f"and {len(found) - MOST_PROBLEMS} more.")
    return told


def _problem(mistake: Any, known: Sequence[str], where: str) -> str:
    path = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        return f"{where}: {path!r} is not known.{nearest(path, known)}"
    if mistake["type"] == "missing":
        return f"{where}: {path!r} is missing."
    found, reason = told(mistake["input"]), reason_of(mistake)
    return f"{where}: {path!r} is {found}; {reason}." if path else f"{where} is {found}; {reason}."


def reason_of(mistake: Any) -> str:
    """What a value should have been, in the words of who wrote it as JSON, YAML or TOML."""
    if mistake["type"] in WRITTEN_AS:
        return f"input should be {WRITTEN_AS[mistake['type']]}"
    message: str = mistake["msg"].removeprefix("Value error, ").replace(" after validation", "")
    for python, written in LENGTHS.items():
        message = message.replace(python, written)
    return message[:1].lower() + message[1:]


def told(found: Any) -> str:
    """What was found: a text or a number as it is written, of anything larger what it is."""
    if isinstance(found, (dict, list, tuple)):
        return "an object" if isinstance(found, dict) else "a list"
    return cut(repr(found) if isinstance(found, str) else json.dumps(found, default=repr))


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the known name which was probably meant, or lists them; starts with a space."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known are {', '.join(repr(other) for other in names)}." if names else ""
