"""FileCache: remote files in a local folder of bounded size, shared safely by any number of processes.

A file appears under its own name whole, or not at all. The ones that nobody has opened for longest make room for new ones; who
has such a file open keeps what was opened. Only files that never change may be cached: nothing is ever fetched again.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.errors import StoreError
from pipeline.storage.contract import TEMPORARY
from pipeline.storage.remote import RemoteStorage

if TYPE_CHECKING:
    from filelock import BaseFileLock

_LOCKS = "locks"
#: Two downloads that share a lock wait for each other for no reason, which is rare among so many.
_LOCK_FILES = 64
#: A download that nobody works at any more, for its process is gone.
_FORGOTTEN_SECONDS = 3600.0


class FileCache:
    """Files of remote storages below ``folder``, together at most ``limit_bytes``, downloads that are under way included."""

    def __init__(self, folder: str | os.PathLike[str], *, limit_bytes: int) -> None:
        if limit_bytes <= 0:
            raise ValueError(f"a cache of {limit_bytes} bytes; expected a positive number")
        self.folder = Path(folder).expanduser().absolute()
        self.limit_bytes = limit_bytes

    def open(self, remote: RemoteStorage, name: str) -> IO[bytes]:
        """The file, from the folder if it is there, else downloaded first; then it counts as just used.

        Raises FileNotFoundError if the storage has none, StoreError if the file alone is larger than the cache.
        """
        path = self._path(remote, name)
        if (stream := _opened(path)) is not None:
            return stream
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(str(path)):
            # Another process may have brought it while we waited.
            return _opened(path) or self._download(remote, name, path)

    def fetch(self, remote: RemoteStorage, name: str) -> None:
        """As `open`, for those who will come later."""
        self.open(remote, name).close()

    def size(self) -> int:
        """Bytes of all that is there now."""
        return sum(status.st_size for _, status in self._files())

    def _path(self, remote: RemoteStorage, name: str) -> Path:
        return self.folder / hashlib.sha256(remote.url.encode()).hexdigest()[:12] / name

    def _download(self, remote: RemoteStorage, name: str, path: Path) -> IO[bytes]:
        size = remote.size(name)
        temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with self._lock("room"):
                self._make_room(size, remote.url)
                with temporary.open("xb") as reserved:
                    reserved.truncate(size)  # counts in full from now on
            remote.download(name, temporary)
            if temporary.stat().st_size != size:
                raise StoreError(
                    f"{remote.url}/{name} has {size} bytes, {temporary.stat().st_size} of them came; read it again, or look at "
                    "the network"
                )
            stream = temporary.open("rb")
            _note_use(temporary)
            temporary.replace(path)
            return stream
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int, url: str) -> None:
        """Removes files, the one that was opened longest ago first, until ``size`` bytes more are within the limit."""
        if size > self.limit_bytes:
            raise StoreError(
                f"a file of {size} bytes of {url} does not fit into the cache {self.folder} of {self.limit_bytes} bytes; expected "
                "room for the shards of two windows: raise the limit, or read without a cache"
            )
        oldest_first = sorted(self._files(), key=lambda file: file[1].st_mtime_ns)
        total = sum(status.st_size for _, status in oldest_first)
        now = time.time()
        for path, status in oldest_first:
            if path.name.startswith(TEMPORARY):
                if now - status.st_mtime > _FORGOTTEN_SECONDS:
                    path.unlink(missing_ok=True)
                    total -= status.st_size
            elif total + size > self.limit_bytes:
                path.unlink(missing_ok=True)
                total -= status.st_size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder, inner, names in os.walk(self.folder):
            if _LOCKS in inner:
                inner.remove(_LOCKS)
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # another process made room between listing and looking
                    yield path, path.stat()

    def _lock(self, what: str) -> BaseFileLock:
        from filelock import FileLock

        locks = self.folder / _LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        number = int(hashlib.sha256(what.encode()).hexdigest(), 16) % _LOCK_FILES
        return FileLock(locks / (what if what == "room" else f"file-{number}"))


def _opened(path: Path) -> IO[bytes] | None:
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return None
    _note_use(path)
    return stream


def _note_use(path: Path) -> None:
    now = time.time_ns()  # the system's own clock for files may be too coarse to tell two uses apart
    with suppress(FileNotFoundError):  # removed since: what is open stays readable
        os.utime(path, ns=(now, now))
