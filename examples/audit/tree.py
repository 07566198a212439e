"""Which Python files belong to a tree: those that people wrote there and that git does not ignore."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from examples.audit.findings import Inventory
from workflows.errors import StepFailed

NOT_WRITTEN_HERE = frozenset(
    {"__pycache__", "_vendor", "build", "dist", "node_modules", "site-packages", "third_party", "vendor", "vendored"}
)
"""Folders whose content comes from elsewhere or is made by a program."""
GENERATED_ENDINGS = ("_pb2.py", "_pb2_grpc.py")
LARGEST_BYTES = 1_000_000
# Nobody writes such a file by hand, and its syntax tree takes a hundred times as much memory.
GIT_SECONDS = 60.0


def inventory(path: str, max_files: int) -> Inventory:
    """The files of a tree. Raises `StepFailed` where there is no such folder, or no Python file in it."""
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        raise StepFailed(f"path {path!r} is {'a file' if root.exists() else 'not there'}; give an existing folder.")
    tracked = _git_files(root)
    skipped: Counter[str] = Counter()
    files = list(_written_here(root, tracked if tracked is not None else _walked(root, skipped), skipped))
    if not files:
        said = f" ({', '.join(f'{reason}: {count}' for reason, count in skipped.items())})" if skipped else ""
        raise StepFailed(f"path {path!r} holds no Python file to audit{said}; give a folder with .py files.")
    if len(files) > max_files:
        skipped[f"files beyond max_files={max_files:,}"] += len(files) - max_files
    return Inventory(
        root=str(root),
        files=tuple(files[:max_files]),
        source="folders" if tracked is None else "git",
        skipped=dict(skipped),
    )


def git(root: Path, *arguments: str) -> str | None:
    """What git prints about a folder; None where it cannot tell."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=GIT_SECONDS, check=False)  # noqa: S603 - no shell
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else None


def _git_files(root: Path) -> list[str] | None:
    """The files of a git checkout; None outside one, and in a folder that git ignores as a whole."""
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.py")
    return sorted(set(filter(None, listed.split("\0")))) if listed else None


def _walked(root: Path, skipped: Counter[str]) -> Iterator[str]:
    """The files of plain folders; hidden ones, virtual environments and links are passed over."""
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        shown = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in shown if not _is_foreign(here / name)]
        if len(folders) < len(shown):
            skipped["folders of foreign or built code, not entered"] += len(shown) - len(folders)
        yield from sorted((here / name).relative_to(root).as_posix() for name in names if name.endswith(".py"))


def _is_foreign(folder: Path) -> bool:
    return folder.name in NOT_WRITTEN_HERE or (folder / "pyvenv.cfg").is_file()


def _written_here(root: Path, files: Iterable[str], skipped: Counter[str]) -> Iterator[str]:
    for name in files:
        reason = _reason_to_skip(root / name, PurePosixPath(name))
        if reason is None:
            yield name
        elif reason:
            skipped[reason] += 1


def _reason_to_skip(file: Path, name: PurePosixPath) -> str | None:
    """Why a file is not taken; None where it is, "" where it is not there at all."""
    if file.is_symlink():
        return "links"
    if not file.is_file():
        return ""  # deleted, and git has not been told
    if NOT_WRITTEN_HERE.intersection(name.parts[:-1]):
        return "files of foreign or built code"
    if name.name.endswith(GENERATED_ENDINGS):
        return "generated files"
    if file.stat().st_size > LARGEST_BYTES:
        return f"files larger than {LARGEST_BYTES:,} bytes"
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return "files with a name that is not UTF-8"
    return None
