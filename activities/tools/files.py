"""The built-in tools that read, list, write and edit files of the workspace.

Law: what is left out of a result is said in it. A file is changed whole or not at all.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import Any, BinaryIO

from activities.tools.context import ToolContext, ToolFailed
from activities.tools.workspace import UNFINISHED, Workspace, locked, opened, shown

READ_BYTES = 256_000
# About 60,000 tokens: more than a model reads in one go, and a small part of what a history holds.
EDIT_BYTES = 10_000_000
# An edit holds the file in memory, three times.
MOST_LINES = READ_BYTES
# As many as there is room for, if all were empty.
LISTED_ENTRIES = 1_000
SECONDS = 60.0
# Enough for a slow disk.


def read_file(path: str, context: ToolContext, start_line: int = 1, max_lines: int | None = None) -> str:
    """Read a text file. At most 256,000 bytes are returned; a note in brackets at the end says what was left out.

    Args:
        path: The file, relative to the workspace.
        start_line: The first line to read, from 1.
        max_lines: How many lines to read; all when left out.
    """
    if start_line < 1 or (max_lines is not None and max_lines < 1):
        raise ToolFailed(f"start_line is {start_line} and max_lines is {max_lines}; both are at least 1.")
    workspace = Workspace(context.workspace)
    parts = workspace.parts(path)
    with workspace.file(parts) as file:
        for number in range(start_line - 1):
            if not _next_line(file, context):
                raise ToolFailed(f"{shown(parts)!r} has {number:,} lines, and start_line is {start_line:,}.")
        content, lines, is_cut = _read_lines(file, None if max_lines is None else min(max_lines, MOST_LINES))
        rest = 0 if is_cut is False else os.fstat(file.fileno()).st_size - file.tell()
    text = _decoded(content, shown(parts))
    if not rest:
        return text
    if lines:
        return f"{text}[cut here: {rest:,} bytes follow; go on with start_line={start_line + lines}]"
    return f"{text}\n[cut here: {rest:,} bytes follow, and line {start_line} does not end before]"


def _next_line(file: BinaryIO, context: ToolContext) -> bool:
    """Pass over a line, however long; whether there was one."""
    piece = file.readline(READ_BYTES)
    is_there = bool(piece)
    while piece and not piece.endswith(b"\n"):
        context.raise_if_cancelled()
        piece = file.readline(READ_BYTES)
    return is_there


def _read_lines(file: BinaryIO, max_lines: int | None) -> tuple[bytes, int, bool]:
    """Whole lines up to the limits, how many, and whether more may follow; the beginning of a line that is too long."""
    taken: list[bytes] = []
    size = 0
    for line in islice(iter(lambda: file.readline(READ_BYTES + 1), b""), max_lines):
        if size + len(line) > READ_BYTES:
            file.seek(-len(line), os.SEEK_CUR)
            if not taken:
                return _whole_characters(file.read(READ_BYTES)), 0, True
            return b"".join(taken), len(taken), True
        taken.append(line)
        size += len(line)
    return b"".join(taken), len(taken), max_lines is not None


def _whole_characters(content: bytes) -> bytes:
    """Without the beginning of a character that the cut went through; at most three bytes."""
    for end in range(len(content), max(0, len(content) - 4), -1):
        if content[end - 1] & 0xC0 != 0x80:  # a byte that begins a character
            width = 1 + sum(content[end - 1] >= first for first in (0xC0, 0xE0, 0xF0))
            return content if end - 1 + width <= len(content) else content[: end - 1]
    return content


def _decoded(content: bytes, path: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ToolFailed(f"{path!r} is not UTF-8 text: byte {error.start:,} does not belong there.") from None


def list_dir(context: ToolContext, path: str = ".") -> dict[str, Any]:
    """List a folder: `entries` in order, folders with a '/' at the end, symbolic links with an '@'.

    At most 1,000 entries are returned; `note` says how many were left out.

    Args:
        path: The folder, relative to the workspace.
    """
    workspace = Workspace(context.workspace)
    with workspace.folder(workspace.parts(path)) as folder, os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(UNFINISHED)), key=lambda one: one.name)
    listed = [f"{shown((entry.name,))}{_mark(entry)}" for entry in entries[:LISTED_ENTRIES]]
    left_out = len(entries) - len(listed)
    return {"entries": listed, **({"note": f"{left_out:,} more entries are left out"} if left_out else {})}


def _mark(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "@"
    return "/" if entry.is_dir(follow_symlinks=False) else ""


def write_file(path: str, content: str, context: ToolContext) -> dict[str, Any]:
    """Write a text file, replacing what is there; folders that are missing are made. Twice leaves the same.

    Args:
        path: The file, relative to the workspace.
        content: All that the file is to hold.
    """
    workspace = Workspace(context.workspace)
    parts = workspace.parts(path)
    if not parts:
        raise ToolFailed("path '.' is the workspace itself, which is a folder. Give the path of a file.")
    written = content.encode()
    with workspace.folder(parts[:-1], make=True) as folder, locked(folder):
        workspace.replace(parts, written, folder)
    return {"path": shown(parts), "bytes": len(written)}


def edit_file(path: str, old_text: str, new_text: str, context: ToolContext) -> dict[str, Any]:
    """Replace a passage of a text file that occurs exactly once.

    Where an earlier attempt of the same call was lost, a passage that is replaced already counts as done.

    Args:
        path: The file, relative to the workspace.
        old_text: The passage, exactly as it stands there, line breaks included.
        new_text: What takes its place.
    """
    if not old_text:
        raise ToolFailed("old_text is empty. Give the passage to replace, exactly as it stands in the file.")
    workspace = Workspace(context.workspace)
    parts = workspace.parts(path)
    with workspace.folder(parts[:-1]) as folder, locked(folder):
        text = _read_whole(parts, folder)
        if not (context.attempt > 1 and _is_done(text, old_text, new_text)):
            _refuse_unless_once(text.count(old_text), shown(parts))
            text = text.replace(old_text, new_text)
            workspace.replace(parts, text.encode(), folder)
    return {"path": shown(parts), "bytes": len(text.encode())}


def _read_whole(parts: tuple[str, ...], folder: int) -> str:
    with os.fdopen(opened(parts, folder), "rb") as file:
        content = file.read(EDIT_BYTES + 1)
    if len(content) > EDIT_BYTES:
        raise ToolFailed(f"{shown(parts)!r} has more than {EDIT_BYTES / 1e6:.0f} MB, which is the limit of edit_file.")
    return _decoded(content, shown(parts))


def _is_done(text: str, old_text: str, new_text: str) -> bool:
    """Whether a text looks as the edit leaves it."""
    if not new_text:
        return old_text not in text
    return text.count(new_text) == 1 and old_text not in text.replace(new_text, "")


def _refuse_unless_once(count: int, path: str) -> None:
    if count == 0:
        raise ToolFailed(f"{path!r} does not hold old_text. Read the file, and give the passage exactly as it stands.")
    if count > 1:
        raise ToolFailed(f"{path!r} holds old_text {count:,} times. Give more of what stands around the one you mean.")
