"""JSON or YAML text -> a plain value, and where each part of it stands.

Law: what is read is JSON and nothing else: no NaN, no key twice, no tags, at most 200 levels deep. Whatever is wrong is
told with its line and column, and no text, however made, ends in a recursion error. Pure: no file is opened here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from workflows.errors import cut
from workflows.graph.depth import is_deeper
from workflows.graph.locating import Lines, Mark, Path, Place, Places, locate

Syntax = Literal["json", "yaml"]

MAX_DEPTH = 200
# Nesting of 32 graphs takes 32 * 4 levels of JSON, the rest is for data; pydantic and the JSON codec end at about 255.

MAX_DIGITS = 4_000
# Python refuses to read integers of more than 4,300 digits.

SUFFIXES: dict[str, Syntax] = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}


class Unreadable(ValueError):
    """A text that is no JSON or YAML document; says what is wrong and where."""

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place


@dataclass(frozen=True)
class Document:
    """What a text says, and the text itself, to find places in."""

    value: Any
    text: str
    syntax: Syntax

    def places(self, paths: list[Path]) -> Places:
        """Where the paths stand; reads the text once more."""
        from workflows.graph.yaml_text import yaml_marks

        return locate(json_marks(self.text) if self.syntax == "json" else yaml_marks(self.text), paths)


def parse_text(text: str, source: str | None = None) -> Document:
    """The value of a JSON or YAML text; raises `Unreadable`.

    The suffix of `source` decides which it is; without one, a text that begins with a bracket is JSON.
    """
    text = text.removeprefix("\ufeff")  # a byte order mark is no part of the document
    syntax = _syntax(text, source)
    if not text.strip():
        raise Unreadable("the document is empty. It takes a stage graph.", Place(1, 1))
    if syntax == "json":
        return Document(parse_json(text), text, syntax)
    from workflows.graph.yaml_text import parse_yaml

    return Document(parse_yaml(text), text, syntax)


def _syntax(text: str, source: str | None) -> Syntax:
    suffix = "." + (source or "").rpartition(".")[2].lower()
    return SUFFIXES.get(suffix) or ("json" if text.lstrip()[:1] in ("{", "[") else "yaml")


def parse_json(text: str) -> Any:
    """The value of a JSON text; raises `Unreadable`."""
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_float=_finite, parse_int=_whole, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as error:
        raise Unreadable(f"this is no JSON ({error.msg}).", Place(error.lineno, error.colno)) from None
    except (_Refused, RecursionError):
        raise _first_fault(text) from None
    if too_deep(value) or (_may_hold_half_characters(text) and _has_half_characters(value)):
        raise _first_fault(text)
    return value


def _may_hold_half_characters(text: str) -> bool:
    return (ESCAPE in text or not text.isascii()) and SURROGATE.search(text) is not None


def _has_half_characters(value: Any) -> bool:
    """Whether a text in the value cannot be written as UTF-8, which is how a history stores it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def too_deep(value: Any) -> bool:
    """Whether a value is nested deeper than `MAX_DEPTH`."""
    return is_deeper(value, MAX_DEPTH)


class _Refused(ValueError):
    """The decoder took something that is refused here; where it stands is found by a second walk."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _Refused
    return made


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _Refused
    return number


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _Refused
    return int(digits)


def _refuse_constant(_: str) -> Any:
    raise _Refused


def _first_fault(text: str) -> Unreadable:
    """What is refused in a text that the decoder took, as far as it read."""
    keys: list[set[str]] = []
    for mark in json_marks(text):
        place = Place(mark.line, mark.column)
        if mark.kind == "close":
            keys.pop()
        elif mark.kind == "key":
            if mark.text in keys[-1]:
                return repeated_key(mark.text, place)
            keys[-1].add(mark.text)
            if _has_half_characters(mark.text):
                return Unreadable(HALF_CHARACTER, place)
        elif mark.kind == "value":
            fault = _string_fault(mark.text) if mark.text.startswith('"') else _number_fault(mark.text)
            if fault is not None:
                return Unreadable(fault, place)
        else:
            keys.append(set())
            if len(keys) > MAX_DEPTH:
                return nested_too_deep(place)
    return Unreadable("this is no JSON that can be used.")


def repeated_key(key: str, place: Place) -> Unreadable:
    """A key stands twice in one object."""
    return Unreadable(f"the key {cut(key)!r} stands twice in one object. Remove one of them.", place)


def nested_too_deep(place: Place) -> Unreadable:
    """The document goes deeper than `MAX_DEPTH`."""
    return Unreadable(f"the document is nested more than {MAX_DEPTH} levels deep. Flatten it.", place)


def _string_fault(token: str) -> str | None:
    return HALF_CHARACTER if _has_half_characters(json.loads(token)) else None


def _number_fault(token: str) -> str | None:
    if token.lstrip("-") in ("NaN", "Infinity"):
        return f"JSON has no {token}."
    if not NUMBER.fullmatch(token):
        return None
    is_whole = token.lstrip("-").isdigit()
    if (is_whole and len(token) > MAX_DIGITS) or (not is_whole and not math.isfinite(float(token))):
        return f"the number {cut(token)} is too large."
    return None


HALF_CHARACTER = "a text holds half a character (a surrogate without its pair). Write the character itself."
ESCAPE = "\\u"
SURROGATE = re.compile("\\\\u[dD][89a-fA-F]|[\ud800-\udfff]")

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+', re.DOTALL)
# Enough for a text that the decoder has taken already: strings, brackets, separators, and everything else.
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")


def json_marks(text: str) -> Iterator[Mark]:
    """What stands where in a text that is JSON."""
    lines = Lines(text)
    is_map: list[bool] = []
    is_key = False
    for found in TOKEN.finditer(text):
        word, place = found[0], lines.place(found.start())
        if word in "{[":
            yield Mark("open_map" if word == "{" else "open_list", place.line, place.column)
            is_map.append(word == "{")
            is_key = is_map[-1]
        elif word in "}]":
            yield Mark("close", place.line, place.column)
            is_map.pop()
        elif word == ",":
            is_key = is_map[-1]
        elif word == ":":
            is_key = False
        elif is_key:
            name = json.loads(word) if "\\" in word else word[1:-1]
            yield Mark("key", place.line, place.column, name)
        else:
            yield Mark("value", place.line, place.column, word)
