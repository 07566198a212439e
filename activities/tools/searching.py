"""The built-in tools that find files of the workspace by name and by content.

Law: a search ends, and what it left out is said in its result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from activities.tools.context import ToolContext, ToolFailed
from activities.tools.matching import PATTERN_CHARACTERS, Matcher
from activities.tools.workspace import Parts, Workspace, shown

SEARCHED_FILES = 50_000
FOUND_FILES = 1_000
FOUND_LINES = 500
FILE_BYTES = 2_000_000
# A larger file is rarely one that a person wrote.
TEXT_SAMPLE_BYTES = 8_192


def find_files(pattern: str, context: ToolContext, path: str = ".") -> dict[str, Any]:
    """Find files by name: `files` holds their paths, in order. Symbolic links and '.git' are passed over.

    At most 1,000 files are returned; `note` says what was left out.

    Args:
        pattern: Names as '*.py', or paths below the folder as 'src/**/test_*.py'; '**' stands for any folders.
        path: The folder to search, relative to the workspace.
    """
    workspace = Workspace(context.workspace)
    above = workspace.parts(path)
    search = _Search(workspace, above, pattern, context)
    files = [shown(parts) for parts in islice(search, FOUND_FILES + 1)]
    notes = [f"only the first {FOUND_FILES:,} files are listed"] if len(files) > FOUND_FILES else []
    return _noted({"files": files[:FOUND_FILES]}, notes + search.notes)


def grep_files(
    pattern: str, context: ToolContext, path: str = ".", files: str = "**", ignore_case: bool = False
) -> dict[str, Any]:
    """Find lines by a regular expression: `matches` holds each with its file and line number.

    At most 500 lines are returned, each cut at 300 characters; `note` says what was left out. Binary files, symbolic
    links and '.git' are passed over.

    Args:
        pattern: A regular expression, as Python's `re` takes it, searched in each line.
        path: The folder to search, or one file, relative to the workspace.
        files: Which files to search, as for find_files.
        ignore_case: Whether upper and lower case are the same.
    """
    workspace = Workspace(context.workspace)
    search = _Search(workspace, workspace.parts(path), files, context)
    matches: list[dict[str, Any]] = []
    too_large = 0
    with Matcher(pattern, ignore_case=ignore_case, is_cancelled=lambda: context.cancelled) as matcher:
        for parts in search:
            content = _text_of(workspace, parts)
            if content is None:
                continue
            if len(content) > FILE_BYTES:
                too_large += 1
                continue
            wanted = FOUND_LINES + 1 - len(matches)
            found = matcher.lines(content, wanted, shown(parts))
            matches += [{"file": shown(parts), "line": number, "text": line} for number, line in found]
            if len(matches) > FOUND_LINES:
                break
    notes = [f"only the first {FOUND_LINES:,} lines are listed"] if len(matches) > FOUND_LINES else []
    notes += [f"{too_large:,} files of more than {FILE_BYTES / 1e6:.0f} MB were not searched"] if too_large else []
    return _noted({"matches": matches[:FOUND_LINES]}, notes + search.notes)


def _noted(result: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    return {**result, "note": "; ".join(notes)} if notes else result


class _Search:
    """The files below a folder (or one file) whose path fits a pattern."""

    def __init__(self, workspace: Workspace, above: Parts, pattern: str, context: ToolContext) -> None:
        self.notes: list[str] = []
        self._workspace = workspace
        self._above = above
        self._context = context
        if len(pattern) > PATTERN_CHARACTERS:
            told = f"{len(pattern):,} characters and the limit is {PATTERN_CHARACTERS:,}"
            raise ToolFailed(f"the pattern of file names has {told}.")
        wanted = tuple(part for part in pattern.split("/") if part not in ("", "."))
        if not wanted:
            raise ToolFailed("the pattern of file names is empty. Give one as '*.py' or 'src/**/*.md'.")
        self._wanted = wanted if len(wanted) > 1 or wanted == ("**",) else ("**", *wanted)

    def __iter__(self) -> Iterator[Parts]:
        if self._above and self._is_file():
            yield self._above
            return
        for number, parts in enumerate(self._workspace.files(self._above, self._context.raise_if_cancelled)):
            if number == SEARCHED_FILES:
                self.notes.append(f"only the first {SEARCHED_FILES:,} files were looked at; search a smaller folder")
                return
            self._context.raise_if_cancelled()
            if fits(parts[len(self._above) :], self._wanted):
                yield parts

    def _is_file(self) -> bool:
        try:
            with self._workspace.file(self._above):
                return True
        except ToolFailed:
            return False  # a folder, or nothing at all, of which the walk tells


def fits(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a path fits a pattern, part by part; '**' stands for any number of folders, at the end for any files."""
    places = _behind_stars({0}, wanted)
    for part in parts:
        onward = {place for place in places if place < len(wanted) and wanted[place] == "**"}
        onward |= {
            place + 1
            for place in places
            if place < len(wanted) and wanted[place] != "**" and fnmatchcase(part, wanted[place])
        }
        places = _behind_stars(onward, wanted)
    return len(wanted) in places


def _behind_stars(places: set[int], wanted: Sequence[str]) -> set[int]:
    """With the places that a '**' which stands for nothing leads to."""
    reached = set(places)
    for place in range(len(wanted)):
        if place in reached and wanted[place] == "**":
            reached.add(place + 1)
    return reached


def _text_of(workspace: Workspace, parts: Parts) -> bytes | None:
    """A file's content, at most a byte over the limit; None where it is binary, or gone or closed to us meanwhile."""
    try:
        with workspace.file(parts) as file:
            content = file.read(FILE_BYTES + 1)
    except ToolFailed:
        return None
    return None if b"\0" in content[:TEXT_SAMPLE_BYTES] else content
