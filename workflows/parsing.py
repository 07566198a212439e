"""Plain JSON from a caller -> our models, or a rejection in our words.

Workflows take `Any` and parse here, because an input that the data converter refuses never fails a run: its workflow
task is tried again for ever.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from workflows.errors import PerdureError, cut

Model = TypeVar("Model", bound=BaseModel)

MOST_PROBLEMS = 5
# In one message; the caller mends these and learns of the rest.


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
    found = cut(repr(mistake["input"]))
    reason = mistake["msg"][:1].lower() + mistake["msg"][1:]
    return f"{where}: {path!r} is {found}; {reason}." if path else f"{where} is {found}; {reason}."


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the known name which was probably meant, or lists them; starts with a space."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known are {', '.join(repr(other) for other in names)}." if names else ""
