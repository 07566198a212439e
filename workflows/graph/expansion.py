"""How large a value becomes when its references are replaced, found without making it.

Law: what `workflows.graph.templates` puts in is counted for each place, and nothing larger than the state is held.
Pure.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from pydantic import JsonValue

from workflows.graph.conditions import as_text
from workflows.graph.templates import keys, texts


def expansion(value: JsonValue, state: Mapping[str, JsonValue], *, only: Container[str] | None = None) -> int:
    """Characters that the references of a value bring; a key that the state lacks brings none."""
    lengths: dict[str, int] = {}
    total = 0
    for key in _named(value):
        if key not in lengths:
            is_replaced = key in state and (only is None or key in only)
            lengths[key] = len(as_text(state[key])) if is_replaced else 0
        total += lengths[key]
    return total


def has_references(value: JsonValue) -> bool:
    """Whether a value may hold references, quoted ones too."""
    return any("{{" in text for text in texts(value))


def _named(value: JsonValue) -> Iterator[str]:
    """The key of each reference, as often as it stands there."""
    for text in texts(value):
        yield from keys(text)
