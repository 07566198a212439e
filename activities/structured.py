"""Structured output: the JSON object that a step's `output_schema` asks for, found and checked.

JSON Schema, Draft 2020-12. References to other documents are not followed: a schema comes with a run's input, and
must not make the worker fetch addresses.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from pydantic import JsonValue
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from workflows.errors import cut

FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL | re.IGNORECASE)
TRIED_BRACES = 1_000
# Prose holds few. A cut-off answer that nests deeply would be read to its end once for each of them.
QUOTED_CHARACTERS = 500
# A validation message quotes the value that is wrong.


class StructuredOutputFailed(Exception):
    """The answer does not hold what its schema asks for, or the schema asks for nothing that can be."""


def refuse_invalid(schema: dict[str, JsonValue]) -> None:
    """Raise `StructuredOutputFailed` where a schema is none, before anybody is asked for what fits it."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise StructuredOutputFailed(f"output_schema is not a valid JSON Schema: {_told(error)}") from None


def checked(structured: JsonValue, text: str, schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The object of an answer: what it gave as structured, else the JSON object in its text.

    Raises `StructuredOutputFailed`, naming the place.
    """
    refuse_invalid(schema)
    found = _object_in(text) if structured is None else structured
    if not isinstance(found, dict):
        raise StructuredOutputFailed("the answer holds no JSON object")
    try:
        fault = best_match(Draft202012Validator(schema, registry=EMPTY_REGISTRY).iter_errors(found))
    except Unresolvable as error:
        raise StructuredOutputFailed(f"output_schema refers to {error.ref!r}, which is not in it") from None
    except RecursionError:
        raise StructuredOutputFailed("output_schema refers to itself without end") from None
    if fault is not None:
        raise StructuredOutputFailed(_told(fault))
    return found


def _told(fault: ValidationError | SchemaError) -> str:
    return f"at {fault.json_path}: {cut(fault.message, QUOTED_CHARACTERS)}"


def _object_in(text: str) -> Any:
    """The whole text as JSON, else its first fenced object, else the first object that stands in it."""
    for candidate in (text, *(block[1] for block in FENCED.finditer(text))):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return _first_object(text)


def _first_object(text: str) -> Any:
    decoder = json.JSONDecoder()
    for brace in islice(re.finditer(r"\{", text), TRIED_BRACES):
        try:
            return decoder.raw_decode(text, brace.start())[0]
        except (ValueError, RecursionError):
            continue
    return None
