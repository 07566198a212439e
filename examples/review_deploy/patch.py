"""Unified diffs: reading one, and applying it to the text it was made from.

Law: a patch fits exactly or not at all. A context that has moved is a conflict, for a release is no place to guess.
Source: POSIX diff -u. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

FILE = re.compile(r"\+\+\+ b/(?P<path>\S+)")
HUNK = re.compile(r"@@ -(?P<start>\d+)(?:,(?P<old>\d+))? \+\d+(?:,(?P<new>\d+))? @@")


class PatchFailed(ValueError):
    """The text is no patch, or does not fit the file that it is applied to."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """A passage of a file before and after; `start` counts from 1, and is 0 for a file that is new."""

    start: int
    lines: tuple[str, ...]
    """Each behind its sign: ` ` stays, `-` goes, `+` comes."""

    @property
    def before(self) -> list[str]:
        """The passage that the file must hold."""
        return [line[1:] for line in self.lines if line[0] != "+"]

    @property
    def after(self) -> list[str]:
        """What takes its place."""
        return [line[1:] for line in self.lines if line[0] != "-"]


@dataclass(frozen=True, slots=True)
class FilePatch:
    """What a patch does to one file."""

    path: str
    hunks: tuple[Hunk, ...]

    @property
    def added(self) -> tuple[str, ...]:
        """The lines that come."""
        return tuple(line[1:] for hunk in self.hunks for line in hunk.lines if line[0] == "+")

    def applied(self, text: str) -> str:
        """The file afterwards; "" stands for one that is not there yet. Raises `PatchFailed`."""
        lines, result, place = text.splitlines(), list[str](), 0
        for hunk in self.hunks:
            start = max(hunk.start - 1, 0)
            if start < place or lines[start : start + len(hunk.before)] != hunk.before:
                raise PatchFailed(f"{self.path} does not hold what the patch expects from line {hunk.start} on")
            result += [*lines[place:start], *hunk.after]
            place = start + len(hunk.before)
        return "".join(f"{line}\n" for line in [*result, *lines[place:]])


def read(text: str) -> tuple[FilePatch, ...]:
    """The patch that a text holds; what stands around it is passed over. Raises `PatchFailed` where there is none."""
    found: dict[str, list[Hunk]] = {}
    lines, path = iter(text.splitlines()), None
    for line in lines:
        if named := FILE.match(line):
            path = named["path"]
        elif (begun := HUNK.match(line)) and path is not None:
            found.setdefault(path, []).append(_hunk(begun, lines))
    if not found:
        raise PatchFailed("there is no patch in this text. Give the output of `git diff` or `diff -u`.")
    return tuple(FilePatch(path, tuple(hunks)) for path, hunks in found.items())


def _hunk(begun: re.Match[str], lines: Iterator[str]) -> Hunk:
    """The lines of a hunk; its head says how many there are, so that nothing behind it is taken for one."""
    old, new = (int(begun[side] or 1) for side in ("old", "new"))
    taken: list[str] = []
    while old > 0 or new > 0:
        line = next(lines, None)
        if line is None or line[:1] not in ("", " ", "-", "+"):
            raise PatchFailed(f"the hunk {begun[0]!r} is cut off")
        taken.append(line or " ")  # an empty line of context whose blank a mailer has eaten
        old -= taken[-1][0] != "+"
        new -= taken[-1][0] != "-"
    return Hunk(int(begun["start"]), tuple(taken))
