"""The one package that writes files. Everything above it names files relative to one root, local or remote."""

from __future__ import annotations

from pathlib import Path

from pipeline.storage.contract import TEMPORARY, DataFile, Entry, Storage
from pipeline.storage.local import LocalStorage
from pipeline.storage.remote import RemoteStorage

__all__ = ["TEMPORARY", "DataFile", "Entry", "LocalStorage", "RemoteStorage", "Storage", "open_storage"]


def open_storage(url: str) -> Storage:
    """The storage at a local path, a file:// URL, or any other URL that fsspec knows."""
    if "://" not in url or url.startswith(("file://", "local://")):
        return LocalStorage(Path(url.split("://", 1)[-1]).expanduser().absolute())
    return RemoteStorage(url)
