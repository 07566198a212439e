"""`{{key}}` in what people write, replaced by what the state holds.

A string goes in raw, anything else as compact JSON; a value that is exactly one reference keeps its type.
`{{{{key}}}}` writes `{{key}}`. Keys of objects are left alone.
Law: what was put in is never read again, so no value of the state can smuggle a reference in. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from workflows.graph.conditions import as_text

REFERENCE = re.compile(r"\{\{\{\{ *(?P<quoted>[\w.-]+) *\}\}\}\}|\{\{ *(?P<key>[\w.-]+) *\}\}")
# Letters, digits, `_`, `.` and `-`; blanks around the key are a habit from other template languages.

SWITCH = "templates"
"""The key of `metadata` that switches references off where it is false."""


class MissingKey(LookupError):
    """A reference to a key that the state does not have; fails the stage."""

    def __init__(self, key: str) -> None:
        super().__init__(f"'{{{{{key}}}}}' has no value: the state has no key {key!r}")
        self.key = key


def is_on(*metadata: Mapping[str, JsonValue]) -> bool:
    """Whether references are replaced, given the metadata of the graph and of the stage."""
    return all(entry.get(SWITCH) is not False for entry in metadata)


def render(value: Any, state: Mapping[str, JsonValue], *, only: Container[str] | None = None) -> Any:
    """A JSON value with every reference replaced, at any depth; raises `MissingKey`.

    With `only`, every other reference stays as it is written: that is how `{{item}}` works where templates are off.
    Compares types exactly, as `texts` does.
    """
    kind = type(value)
    if kind is str:
        return _rendered(value, state, only)
    if kind is dict:
        return {name: render(item, state, only=only) for name, item in value.items()}
    if kind is list or kind is tuple:
        return [render(item, state, only=only) for item in value]
    return value


def render_text(text: str, state: Mapping[str, JsonValue], *, only: Container[str] | None = None) -> str:
    """A text with every reference replaced, also where it is nothing but one reference; raises `MissingKey`."""
    return REFERENCE.sub(_replacement(state, only), text) if "{{" in text else text


def _rendered(text: str, state: Mapping[str, JsonValue], only: Container[str] | None) -> JsonValue:
    whole = REFERENCE.fullmatch(text) if "{{" in text else None
    if whole is None or whole["key"] is None or (only is not None and whole["key"] not in only):
        return render_text(text, state, only=only)
    return _looked_up(whole["key"], state)


def _replacement(state: Mapping[str, JsonValue], only: Container[str] | None) -> Callable[[re.Match[str]], str]:
    def replaced(found: re.Match[str]) -> str:
        key = found["key"]
        if key is None:
            # `only` means that this language is off, so its way of quoting is off as well
            return found[0] if only is not None else found[0][2:-2]
        if only is not None and key not in only:
            return found[0]
        return as_text(_looked_up(key, state))

    return replaced


def _looked_up(key: str, state: Mapping[str, JsonValue]) -> JsonValue:
    if key not in state:
        raise MissingKey(key)
    return state[key]


def references(value: JsonValue) -> tuple[str, ...]:
    """Every key that a value refers to, once each, in the order of their first places."""
    if isinstance(value, str):  # as nearly every value that has any
        return tuple(dict.fromkeys(keys(value)))
    return tuple(dict.fromkeys(key for text in texts(value) for key in keys(text)))


def keys(text: str) -> Iterator[str]:
    """The key of each reference in a text, as often as it stands there."""
    if "{{" in text:
        yield from (found["key"] for found in REFERENCE.finditer(text) if found["key"] is not None)


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, in the order in which they stand there; keys of objects are none.

    Compares types exactly: a `map_reduce` may have 100,000 items, and in the sandbox `isinstance` is slow.
    """
    waiting = [value]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind is str:
            yield item
        elif kind is dict:
            waiting += reversed(item.values())
        elif kind is list or kind is tuple:
            waiting += reversed(item)
