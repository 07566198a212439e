"""The one store for what is too large for a history or a heartbeat: checkpoints of steps, and payloads.

`open_store` decides what the setting `blobs` names.
"""

from __future__ import annotations

import os
from pathlib import Path

from activities.blobs.checkpoints import Checkpoint, Checkpoints, plain_json
from activities.blobs.folder import FOLDER_MODE, FolderStore
from activities.blobs.store import (
    BlobCorrupt,
    BlobError,
    BlobNotFound,
    BlobStore,
    KeyRejected,
    StoreUnavailable,
)
from workflows.errors import SettingsRejected, cut

__all__ = [
    "BlobCorrupt",
    "BlobError",
    "BlobNotFound",
    "BlobStore",
    "Checkpoint",
    "Checkpoints",
    "FolderStore",
    "KeyRejected",
    "StoreUnavailable",
    "open_store",
    "place_of",
    "plain_json",
]


def open_store(setting: str | None) -> BlobStore | None:
    """The store that the setting `blobs` names; None where nothing is set.

    A folder is made where it is missing, never the one that it is in: that may be a mount which is not there. A bucket
    is reached when something is read or written. Raises `SettingsRejected` where it cannot be used.
    """
    if not setting:
        return None
    if is_address(setting):
        from activities.blobs.s3 import open_bucket  # few need it

        return open_bucket(setting)
    folder = folder_of(setting)
    try:
        folder.mkdir(FOLDER_MODE, exist_ok=True)
    except OSError as error:
        raise SettingsRejected(f"PERDURE_BLOBS is {setting!r}, which cannot be made ({error.strerror}).") from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise SettingsRejected(f"PERDURE_BLOBS is {setting!r}, which this user may not read and write.")
    return FolderStore(folder)


def is_address(setting: str) -> bool:
    """Whether a setting names a bucket. Raises `SettingsRejected` for an address of another kind."""
    scheme, separator, _ = setting.partition("://")
    if separator and scheme.lower() != "s3":
        raise SettingsRejected(
            f"PERDURE_BLOBS: {cut(scheme)!r} addresses are not supported. "
            "Give the path of a folder that all workers share, or s3://bucket/prefix."
        )
    return bool(separator)


def folder_of(setting: str) -> Path:
    """The folder that a setting names, which need not exist. Raises `SettingsRejected` where its parent does not."""
    folder = Path(setting).expanduser().absolute()
    if not folder.parent.is_dir():
        raise SettingsRejected(
            f"PERDURE_BLOBS is {setting!r}, and there is no folder {str(folder.parent)!r}. Mount it, or make it."
        )
    return folder


def place_of(setting: str) -> str:
    """What a message calls the store of a setting."""
    return setting if is_address(setting) else str(Path(setting).expanduser().absolute())
