"""The folder that the file tools work in, and the only way into it.

Law: nothing outside is reached. Each part of a path is opened by name in the folder before it, and a symbolic link is
never followed, so no link and no race can lead out. Source: openat(2), O_NOFOLLOW.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from activities.tools.context import ToolFailed
from workflows.errors import cut

Parts = tuple[str, ...]
"""A path inside the workspace, part by part; empty: the workspace itself."""

MOST_PARTS = 100
# Each part of a path is opened in turn, for every folder of a search: what is deeper would hold it up.

UNFINISHED = ".unfinished-"
PASSED_OVER = {".git"}
# Folders that a search does not enter: they hold no file that anybody wrote.

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a named pipe would wait for its writer


class Workspace:
    """A folder, by its path."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def parts(self, path: str) -> Parts:
        """A path that a caller gave. Raises `ToolFailed` where it leads out of the workspace."""
        if "\0" in path:
            raise ToolFailed(f"path {cut(path)!r} holds a null character")
        inside = os.path.relpath(path, self._root) if os.path.isabs(path) else os.path.normpath(path)  # noqa: PTH117
        parts = Path(inside).parts
        if parts[:1] == ("..",) or os.path.isabs(inside):  # noqa: PTH117 - a text, not yet a path of ours
            raise ToolFailed(
                f"path {cut(path)!r} leads out of the workspace. Give a path inside it, relative to the workspace."
            )
        if len(parts) > MOST_PARTS:
            raise ToolFailed(f"path {cut(path)!r} has {len(parts):,} parts and the limit is {MOST_PARTS}.")
        return parts

    @contextmanager
    def folder(self, parts: Parts, *, make: bool = False) -> Iterator[int]:
        """The descriptor of a folder. `make`: with the folders that are missing."""
        descriptor = os.open(self._root, _FOLDER)
        try:
            for depth, part in enumerate(parts, 1):
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=descriptor)
                with _told(parts[:depth], descriptor):
                    inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def file(self, parts: Parts) -> Iterator[BinaryIO]:
        """A file, open for reading."""
        with self.folder(parts[:-1]) as folder:
            descriptor = opened(parts, folder)
            with os.fdopen(descriptor, "rb") as file:
                yield file

    def replace(self, parts: Parts, content: bytes, folder: int) -> None:
        """Put a file in its folder, whole or not at all, with the permissions of the one that it replaces."""
        name = parts[-1]
        mode = _mode_of(parts, folder)
        unfinished = f"{UNFINISHED}{uuid4().hex}"
        try:
            with _told(parts, folder):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(unfinished, flags, 0o666, dir_fd=folder), "wb") as file:
                    if mode is not None:
                        os.fchmod(file.fileno(), mode)
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
        except BaseException:
            with suppress(OSError):  # what went wrong first is what is told
                os.unlink(unfinished, dir_fd=folder)
            raise

    def files(self, parts: Parts, check: Callable[[], None]) -> Iterator[Parts]:
        """The files below a folder, in order; links and what is no regular file are left out.

        `check` is called for each folder, and ends the search by raising.
        """
        waiting = [parts]
        while waiting:
            check()
            above = waiting.pop()
            with self.folder(above) as folder, os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            yield from ((*above, entry.name) for entry in entries if _is_visible_file(entry))
            inner = [(*above, entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
            waiting += [place for place in inner[::-1] if place[-1] not in PASSED_OVER]


@contextmanager
def locked(folder: int) -> Iterator[None]:
    """Alone among the tools, of all workers, that change files of a folder."""
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def opened(parts: Parts, folder: int) -> int:
    """The descriptor of a regular file in its folder. Raises `ToolFailed`."""
    if not parts:
        raise ToolFailed("path '.' is the workspace itself, which is a folder. Give the path of a file.")
    with _told(parts, folder):
        descriptor = os.open(parts[-1], _FILE | os.O_NOFOLLOW, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        raise ToolFailed(
            f"{shown(parts)!r} is {'a folder' if is_folder else 'no regular file'}. Give the path of a file."
        )
    return descriptor


def shown(parts: Parts) -> str:
    """A path as callers write it; a name that is no text has its strange bytes replaced."""
    return "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "replace") or "."


def _is_visible_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False) and not entry.name.startswith(UNFINISHED)


def _mode_of(parts: Parts, folder: int) -> int | None:
    """The permissions of the file that is replaced; None where there is none."""
    with _told(parts, folder):
        try:
            found = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(found.st_mode):
            raise OSError
        if not stat.S_ISREG(found.st_mode):
            raise ToolFailed(f"{shown(parts)!r} is no regular file. Give the path of a file.")
    return stat.S_IMODE(found.st_mode)


@contextmanager
def _told(parts: Parts, folder: int) -> Iterator[None]:
    """Say in our words why a part of a path cannot be used; `folder` is the one that the last part is in."""
    try:
        yield
    except OSError as error:
        raise ToolFailed(_fault(parts, folder, error)) from None


def _fault(parts: Parts, folder: int, error: OSError) -> str:
    path = repr(cut(shown(parts)))
    with suppress(OSError, ValueError):
        if stat.S_ISLNK(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode):
            return f"{path} is a symbolic link, which the file tools do not follow. Give the path that it stands for."
    if isinstance(error, FileNotFoundError):
        return f"{path} is not in the workspace. Look at what there is with list_dir."
    if isinstance(error, NotADirectoryError):
        return f"{path} is a file and no folder."
    return f"{path} cannot be used: {error.strerror or error}."
