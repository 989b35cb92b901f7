"""The one package that writes files. Everything above it names files relative to one root, local or remote."""

from __future__ import annotations

from manifests.location import local_path
from pipeline.storage.contract import TEMPORARY, DataFile, Entry, Storage
from pipeline.storage.local import LocalStorage
from pipeline.storage.remote import RemoteStorage
from pipeline.storage.s3 import S3Storage

__all__ = ["TEMPORARY", "DataFile", "Entry", "LocalStorage", "RemoteStorage", "S3Storage", "Storage", "open_storage"]


def open_storage(url: str) -> Storage:
    """The storage at a local path, a file:// URL, or any other URL that fsspec knows."""
    url = url.removeprefix("local://")
    local = local_path(url)
    if local is not None:
        return LocalStorage(local)
    return S3Storage(url) if url.startswith(("s3://", "s3a://")) else RemoteStorage(url)
