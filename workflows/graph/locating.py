"""Where in a text a value stands: from the path of a value to its line and column.

A definition is read without positions, which is fast; only one that has mistakes is read again to find their places.
Pure, and iterative: depth is the reader's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Path = tuple[str | int, ...]
"""The keys and indices that lead to a value."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a text, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What stands at a place: an opening or closing bracket, a key, or a value without parts."""

    kind: Literal["open_map", "open_list", "close", "key", "value"]
    line: int
    column: int
    text: str = ""
    """The key's name; what a value is written as, in JSON."""


@dataclass(slots=True)
class _Wanted:
    """What is looked for below one value."""

    path: Path = ()
    parts: dict[str | int, _Wanted] = field(default_factory=dict)


@dataclass(slots=True)
class _Open:
    """A map or list that the walk is inside of."""

    wanted: _Wanted | None
    is_list: bool
    next_part: str | int = 0


@dataclass(frozen=True, slots=True)
class Places:
    """The places of keys and of values, by path; a path that is absent stands where its nearest parent does."""

    keys: dict[Path, Place]
    values: dict[Path, Place]

    def of(self, path: Path, *, is_key: bool = False) -> Place | None:
        """Where a value stands, or its key."""
        if is_key and path in self.keys:
            return self.keys[path]
        for length in range(len(path), -1, -1):
            if path[:length] in self.values:
                return self.values[path[:length]]
        return None


def locate(marks: Iterable[Mark], paths: Iterable[Path]) -> Places:
    """The places of the paths and of all their parents."""
    root = _tree(paths)
    found = Places({}, {})
    inside: list[_Open] = []
    for mark in marks:
        if mark.kind == "close":
            inside.pop()
            _advance(inside)
        elif mark.kind == "key":
            _note_key(inside[-1], mark, found)
        else:
            wanted = _below(inside[-1]) if inside else root
            if wanted is not None:
                found.values.setdefault(wanted.path, Place(mark.line, mark.column))
            if mark.kind == "value":
                _advance(inside)
            else:
                inside.append(_Open(wanted, mark.kind == "open_list"))
    return found


def _tree(paths: Iterable[Path]) -> _Wanted:
    root = _Wanted()
    for path in paths:
        at = root
        for length, part in enumerate(path, 1):
            if part not in at.parts:
                at.parts[part] = _Wanted(path[:length])
            at = at.parts[part]
    return root


def _below(inside: _Open) -> _Wanted | None:
    return inside.wanted.parts.get(inside.next_part) if inside.wanted is not None else None


def _note_key(inside: _Open, mark: Mark, found: Places) -> None:
    inside.next_part = mark.text
    wanted = _below(inside)
    if wanted is not None:
        found.keys[wanted.path] = Place(mark.line, mark.column)


def _advance(inside: list[_Open]) -> None:
    if inside and inside[-1].is_list:
        inside[-1].next_part = int(inside[-1].next_part) + 1


class Lines:
    """Line and column of an offset in a text, for offsets that only grow."""

    def __init__(self, text: str) -> None:
        self._starts = _line_starts(text)
        self._line = 1
        self._start = next(self._starts)
        self._next: int | None = next(self._starts, None)

    def place(self, offset: int) -> Place:
        """Where the offset is."""
        while self._next is not None and self._next <= offset:
            self._start, self._next = self._next, next(self._starts, None)
            self._line += 1
        return Place(self._line, offset - self._start + 1)


def _line_starts(text: str) -> Iterator[int]:
    start = 0
    while start >= 0:
        yield start
        start = text.find("\n", start) + 1 or -1
