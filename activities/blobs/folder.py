"""A blob store in a folder: each piece a file, written aside, flushed, and renamed into place."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from activities.blobs.store import BlobNotFound, Piece, StoreUnavailable, checked_key, header, unframed

UNFINISHED = ".unfinished-"
# No key has a name that begins with a dot.
FORGOTTEN_SECONDS = 86_400
# No write takes a day: what is unfinished for so long was left by a writer that was killed.

FILE_MODE = 0o600
FOLDER_MODE = 0o700
# A transcript may hold whatever an agent read, so it is for the worker's user alone.

WRITE_ATTEMPTS = 5
# How often a piece is written again when a concurrent delete took its folder away.

LISTED_AT_ONCE = 1_000
# A store may hold millions of pieces.

T = TypeVar("T")


class FolderStore:
    """A blob store in a folder, which may be a mount that several workers share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, key: str, data: bytes) -> None:
        """Keep a piece: written aside, flushed, renamed into place. Twice leaves the latest."""
        await self._in_thread(f"put {key!r} into", lambda: self._put(self._path(key), data))

    async def get(self, key: str) -> bytes:
        """The piece as it was put. Raises `BlobNotFound` or `BlobCorrupt`."""
        path = self._path(key)
        piece = await self._in_thread(f"get {key!r} from", lambda: _read(key, path))
        if piece is None:
            raise BlobNotFound(key)
        return piece

    async def holds(self, key: str) -> bool:
        """Whether there is a piece with this key."""
        return await self._in_thread(f"look for {key!r} in", self._path(key).is_file)

    async def list(self, prefix: str) -> Sequence[str]:
        """The keys under a prefix, sorted; none where there is nothing."""
        folder = self._path(prefix)
        names = await self._in_thread(f"list {prefix!r} in", lambda: sorted(_files(folder)))
        return [f"{prefix}/{name}" for name in names]

    async def delete(self, prefix: str) -> int:
        """Remove the keys under a prefix; how many there were. What is written meanwhile may stay."""
        return await self._in_thread(f"delete {prefix!r} from", lambda: _remove(self._path(prefix)))

    async def pieces(self, prefix: str) -> AsyncIterator[Piece]:
        """Every piece under a prefix, those of one folder one after the other."""
        folder = self._path(prefix)
        found = _pieces(prefix, folder)
        while batch := await self._in_thread(f"list {prefix!r} in", lambda: list(islice(found, LISTED_AT_ONCE))):
            for piece in batch:
                yield piece

    async def remove(self, keys: Sequence[str]) -> None:
        """Remove these pieces, and the folders that this leaves empty. One that is gone already is no error."""
        paths = [self._path(key) for key in keys]
        await self._in_thread("remove pieces from", lambda: self._remove(paths))

    def _path(self, key: str) -> Path:
        return self._folder.joinpath(*checked_key(key).split("/"))

    async def _in_thread(self, doing: str, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise StoreUnavailable(f"Could not {doing} the blob store: {error.strerror or error}.") from error

    def _put(self, path: Path, data: bytes) -> None:
        for _ in range(WRITE_ATTEMPTS):
            with suppress(FileNotFoundError):  # a concurrent delete took the folder or the unfinished file
                self._make_folder(path.parent)
                return _write(path, data)
        raise OSError(f"the folder {path.parent} was deleted {WRITE_ATTEMPTS} times meanwhile")

    def _remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
        for folder in dict.fromkeys(path.parent for path in paths):
            _remove_forgotten(folder)
            with suppress(OSError):  # it holds something, or somebody was faster
                for emptied in (folder, *folder.parents):
                    if emptied == self._folder:
                        break
                    emptied.rmdir()

    def _make_folder(self, folder: Path) -> None:
        """Make a folder of the store, and its name durable."""
        if not folder.is_dir():
            if folder != self._folder:
                self._make_folder(folder.parent)
            elif not folder.parent.is_dir():
                raise OSError(f"the folder {folder.parent} is missing")  # a mount that went away
            folder.mkdir(FOLDER_MODE, exist_ok=True)
            _flush_folder(folder.parent)


def _read(key: str, path: Path) -> bytes | None:
    try:
        return unframed(key, path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def _write(path: Path, data: bytes) -> None:
    """Put a file into an existing folder, durably and whole."""
    unfinished = path.with_name(f"{UNFINISHED}{uuid4().hex}")
    try:
        unfinished.touch(FILE_MODE, exist_ok=False)
        with unfinished.open("wb") as file:
            file.write(header(data))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what is told
            unfinished.unlink()
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return  # deleted meanwhile, names and all
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> Iterator[str]:
    """Names of the finished files below a folder, relative to it."""
    for parent, _, names in os.walk(folder):  # a folder that is missing, or vanishes, holds none
        for name in names:
            if not name.startswith(UNFINISHED):
                yield (Path(parent) / name).relative_to(folder).as_posix()


def _remove(folder: Path) -> int:
    removed = 0
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            with suppress(FileNotFoundError):  # a concurrent delete was faster
                (Path(parent) / name).unlink()
                removed += not name.startswith(UNFINISHED)
        with suppress(OSError):  # somebody writes here again
            Path(parent).rmdir()
    return removed


def _pieces(prefix: str, folder: Path) -> Iterator[Piece]:
    for name in _files(folder):
        with suppress(FileNotFoundError):  # removed meanwhile
            told = (folder / name).stat()
            yield Piece(f"{prefix}/{name}", told.st_size, datetime.fromtimestamp(told.st_mtime, UTC))


def _remove_forgotten(folder: Path) -> None:
    """Remove what writers that were killed left in a folder."""
    for path in folder.glob(f"{UNFINISHED}*"):
        with suppress(FileNotFoundError):  # its writer was alive, and has finished it
            if time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS:
                path.unlink()
