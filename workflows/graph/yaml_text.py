"""YAML text -> a plain JSON value.

YAML 1.2's core schema: only `true`, `false`, `null`, `~`, nothing and numbers are no strings, so `no`, `on` and dates
stay what they look like. Anchors work as far as they stay small; tags, merge keys and several documents are refused.
Law: built from the parser's events, so no depth and no alias can make it grow out of hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from workflows.errors import cut
from workflows.graph.locating import Lines, Mark, Place
from workflows.graph.reading import MAX_DEPTH, MAX_DIGITS, Unreadable, nested_too_deep, repeated_key, too_deep

MAX_ALIASED = 1_000_000
# Characters and parts that aliases may repeat, all together: ten lines of nested anchors can stand for gigabytes.

UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# What YAML does not allow anywhere: control characters, and halves of surrogate pairs.
WHOLE = re.compile(r"[-+]?[0-9]+")
BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
NUMBER_BEGINS = frozenset("0123456789+-.")
STRING_TAG = "tag:yaml.org,2002:str"

ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
# Only its parser is used; libyaml's is about three times as fast.


@dataclass(slots=True)
class _Open:
    """A map or list that is being read."""

    value: Any
    anchor: str | None
    weight: int = 1
    key: str | None = None
    """The key whose value comes next; None where a key comes next."""


@dataclass(slots=True)
class _Reader:
    """What has been read so far."""

    inside: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)
    aliased: int = 0
    documents: int = 0
    root: Any = None


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; raises `Unreadable`."""
    reader = _Reader()
    for event in _events(text):
        _read(reader, event)
    if too_deep(reader.root):
        raise nested_too_deep(Place(1, 1))  # by aliases alone: every other depth was seen where it began
    return reader.root


def yaml_marks(text: str) -> Iterator[Mark]:
    """What stands where in a text that is YAML and was read before."""
    expects_key: list[bool | None] = []
    for event in _events(text):
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            expects_key.pop()
            yield Mark("close", line, column)
        elif isinstance(event, yaml.NodeEvent):
            if expects_key and expects_key[-1]:
                expects_key[-1] = False
                yield Mark("key", line, column, event.value if isinstance(event, yaml.ScalarEvent) else "")
                continue
            if expects_key and expects_key[-1] is False:
                expects_key[-1] = True
            if isinstance(event, yaml.MappingStartEvent):
                expects_key.append(True)
                yield Mark("open_map", line, column)
            elif isinstance(event, yaml.SequenceStartEvent):
                expects_key.append(None)
                yield Mark("open_list", line, column)
            else:
                yield Mark("value", line, column)


def _events(text: str) -> Iterator[Any]:
    _refuse_unprintable(text)
    try:
        yield from yaml.parse(text, Loader=LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = ": ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable(f"this is no YAML ({told}).", _place(mark) if mark else None) from None


def _refuse_unprintable(text: str) -> None:
    """Looked for here, because the parser tells its place in bytes."""
    found = UNPRINTABLE.search(text)
    if found is not None:
        place = Lines(text).place(found.start())
        raise Unreadable(f"this is no YAML (the character {found[0]!a} is not allowed).", place)


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _read(reader: _Reader, event: Any) -> None:
    kind = type(event)
    if kind in ENDS:
        done = reader.inside.pop()
        _finish(reader, done.value, done.weight, done.anchor)
    elif kind is yaml.DocumentStartEvent:
        reader.documents += 1
        if reader.documents > 1:
            raise Unreadable("there is more than one document. Keep one in each file.", _place(event.start_mark))
    elif issubclass(kind, yaml.NodeEvent):
        _read_node(reader, event, kind)


def _read_node(reader: _Reader, event: Any, kind: type) -> None:
    inside = reader.inside[-1] if reader.inside else None
    if inside is not None and inside.key is None and type(inside.value) is dict:
        _read_key(inside, event)
    elif kind is yaml.ScalarEvent:
        _finish(reader, _scalar(event), 1 + len(event.value), event.anchor)
    elif kind is yaml.AliasEvent:
        value, weight = _aliased(reader, str(event.anchor), event.start_mark)
        _finish(reader, value, weight, None)
    else:
        _refuse_tag(event)
        if len(reader.inside) >= MAX_DEPTH:
            raise nested_too_deep(_place(event.start_mark))
        reader.inside.append(_Open({} if kind is yaml.MappingStartEvent else [], event.anchor))


def _read_key(inside: _Open, event: Any) -> None:
    if not isinstance(event, yaml.ScalarEvent):
        raise Unreadable("a key is a list, a map or an alias. Keys are texts.", _place(event.start_mark))
    key: str = event.value
    if key == "<<" and event.implicit[0]:
        told = "merge keys ('<<') are not supported. Write the fields out."
        raise Unreadable(told, _place(event.start_mark))
    if key in inside.value:
        raise repeated_key(key, _place(event.start_mark))
    inside.key = key
    inside.weight += len(key)


def _finish(reader: _Reader, value: Any, weight: int, anchor: str | None) -> None:
    """Put a value that is complete where it belongs."""
    if anchor is not None:
        reader.anchors[anchor] = (value, weight)
    if not reader.inside:
        reader.root = value
        return
    inside = reader.inside[-1]
    inside.weight += weight
    if inside.key is None:
        inside.value.append(value)
    else:
        inside.value[inside.key] = value
        inside.key = None


def _aliased(reader: _Reader, anchor: str, mark: Any) -> tuple[Any, int]:
    if any(outer.anchor == anchor for outer in reader.inside):
        raise Unreadable(f"the alias '*{anchor}' stands inside what it names.", _place(mark))
    if anchor not in reader.anchors:
        told = f"the alias '*{anchor}' names nothing. Its anchor '&{anchor}' has to come first."
        raise Unreadable(told, _place(mark))
    value, weight = reader.anchors[anchor]
    reader.aliased += weight
    if reader.aliased > MAX_ALIASED:
        told = f"aliases repeat more than {MAX_ALIASED:,} characters. Write less, or less often."
        raise Unreadable(told, _place(mark))
    return value, weight


def _refuse_tag(event: Any) -> None:
    if event.tag is not None and event.tag != "!":
        told = f"the tag {cut(event.tag)!r} is not supported. Tags have no meaning here; remove it."
        raise Unreadable(told, _place(event.start_mark))


def _scalar(event: Any) -> Any:
    if event.tag in ("!", STRING_TAG):
        return event.value
    _refuse_tag(event)
    return _resolved(event.value, event.start_mark) if event.implicit[0] else event.value


def _resolved(text: str, mark: Any) -> Any:
    """A plain scalar by the core schema of YAML 1.2."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if text[0] not in NUMBER_BEGINS:
        return text
    if NO_NUMBER.fullmatch(text):
        raise Unreadable(f"JSON has no {text}. Put it in quotes if it is a text.", _place(mark))
    if WHOLE.fullmatch(text) and len(text) <= MAX_DIGITS:
        return int(text)
    if BASED.fullmatch(text) and len(text) <= MAX_DIGITS:
        return int(text, 0)
    if DECIMAL.fullmatch(text):
        if WHOLE.fullmatch(text) or not math.isfinite(float(text)):
            told = f"the number {cut(text)} is too large. Put it in quotes if it is a text."
            raise Unreadable(told, _place(mark))
        return float(text)
    return text
