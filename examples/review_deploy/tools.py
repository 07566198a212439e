"""The tools that stage a release in the workspace and take it back."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

from activities.tools import ToolContext, ToolFailed
from examples.review_deploy import patch

RELEASES = Path("output/releases")
"""Where releases are staged. Nothing outside is ever removed."""


def stage_release(version: str, source: str, change: str, context: ToolContext) -> dict[str, str]:
    """Copy a source folder to the releases and apply a patch to the copy, which is there whole or not at all.

    A second attempt of a call that was lost finds its release there, and leaves it. A version that somebody else has
    staged is refused.

    Args:
        version: The name of the release.
        source: The folder to copy, relative to the workspace.
        change: The patch file, relative to the workspace.
    """
    target = _release(version, context)
    if target.exists():
        if context.attempt > 1:
            return _told(target, context)
        raise ToolFailed(f"release {version!r} is staged already. Take another version, or remove it first.")
    unfinished = target.with_name(f".unfinished-{uuid4().hex}")
    try:
        shutil.copytree(_inside(source, context), unfinished, ignore=shutil.ignore_patterns("__pycache__"))
        _apply(_inside(change, context), unfinished)
        unfinished.rename(target)
    except (OSError, patch.PatchFailed) as error:
        raise ToolFailed(f"release {version!r} was not staged: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # gone already, where all went well
    return _told(target, context)


def remove_release(version: str, context: ToolContext) -> dict[str, bool]:
    """Remove a staged release. Running twice finds it gone.

    Args:
        version: The name of the release.
    """
    target = _release(version, context)
    if not target.exists():
        return {"removed": False}
    shutil.rmtree(target)
    return {"removed": True}


def _release(version: str, context: ToolContext) -> Path:
    if not version or version.startswith(".") or "/" in version:
        raise ToolFailed(f"{version!r} is no version. Give one like '1.5.0'.")
    return context.workspace / RELEASES / version


def _inside(path: str, context: ToolContext) -> Path:
    root = context.workspace.resolve()
    found = (root / path).resolve()
    if not found.is_relative_to(root):
        raise ToolFailed(f"path {path!r} leads out of the workspace.")
    return found


def _apply(change: Path, folder: Path) -> None:
    for file in patch.read(change.read_text(encoding="utf-8")):
        target = (folder / file.path).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise patch.PatchFailed(f"it changes {file.path!r}, which lies outside the release")
        text = target.read_text(encoding="utf-8") if target.exists() else ""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.applied(text), encoding="utf-8")


def _told(target: Path, context: ToolContext) -> dict[str, str]:
    return {"folder": str(target.relative_to(context.workspace))}
