"""Anything that fsspec reaches: object stores, and memory:// for tests."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

from manifests.location import filesystem
from pipeline.errors import StoreError
from pipeline.storage.contract import DataFile, Entry, Storage, checked

#: memory:// checks before it writes, which promises nothing to other threads; no other place is shared by threads only.
_ONE_AT_A_TIME = threading.RLock()


class RemoteStorage(Storage):
    """Anything fsspec reaches. An object appears whole when its PUT completes, so a name is its own commit."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.shared = not url.startswith("memory://")
        self._connect()

    def _connect(self) -> None:
        try:
            self._files, self._root = filesystem(self.url)
        except ValueError as error:
            raise StoreError(str(error)) from error
        self._process = os.getpid()

    @property
    def _fs(self) -> Any:
        if self._process != os.getpid():  # neither event loops nor sockets survive a fork
            self._connect()
        return self._files

    def path(self, name: str) -> str:
        return f"{self._root}/{checked(name)}"

    def _folder(self, folder: str) -> str:
        return self.path(folder) if folder else str(self._root)

    def create(self, name: str) -> DataFile:
        if self.exists(name):
            raise FileExistsError(f"{self.url}/{name} is there already")
        return DataFile(self, name, self._fs.open(self.path(name), "wb"))

    def publish(self, name: str, data: bytes) -> bool:
        try:
            # "create" is a conditional PUT where the store has one, a check before the PUT elsewhere.
            with _ONE_AT_A_TIME if not self.shared else nullcontext():
                self._fs.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def settle(self, temporary: str, name: str) -> bool:
        with _ONE_AT_A_TIME if not self.shared else nullcontext():
            if self.exists(name):
                self.delete(temporary)
                return False
            self._fs.mv(self.path(temporary), self.path(name))
            return True

    def replace(self, name: str, data: bytes, *, durable: bool = True) -> None:
        self._fs.pipe_file(self.path(name), data)

    def open(self, name: str) -> IO[bytes]:
        if not self.shared:  # in memory:// all streams of one file are one object, with one position
            return io.BytesIO(self.read(name))
        stream: IO[bytes] = self._fs.open(self.path(name), "rb")
        return stream

    def read(self, name: str) -> bytes:
        return bytes(self._fs.cat_file(self.path(name)))

    def size(self, name: str) -> int:
        """Bytes of a file; FileNotFoundError if absent."""
        return int(self._fs.size(self.path(name)))

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` on, fewer where the file ends: one request. Thread-safe."""
        return bytes(self._fs.cat_file(self.path(name), start=offset, end=offset + length))

    def download(self, name: str, to: Path) -> None:
        """The whole file to a local path, which is overwritten; FileNotFoundError if absent."""
        if self.shared:
            self._fs.get_file(self.path(name), str(to))
        else:
            to.write_bytes(self.read(name))

    def names(self, folder: str) -> list[str]:
        try:
            self._fs.invalidate_cache()
            return [path.rstrip("/").rsplit("/", 1)[-1] for path in self._fs.ls(self._folder(folder), detail=False)]
        except FileNotFoundError:
            return []

    def entries(self, folder: str) -> Iterator[Entry]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._folder(folder), detail=True)
        except FileNotFoundError:
            return
        now = time.time()
        for info in found:
            if info["type"] == "file":
                changed = info.get("LastModified") or info.get("mtime") or info.get("created")
                stamp = changed.timestamp() if hasattr(changed, "timestamp") else float(changed or now)
                yield Entry(info["name"].rsplit("/", 1)[-1], int(info["size"]), now - stamp)

    def exists(self, name: str) -> bool:
        self._fs.invalidate_cache()  # an earlier listing must not hide what another worker has made since
        return bool(self._fs.exists(self.path(name)))

    def delete(self, name: str) -> None:
        try:
            self._fs.rm_file(self.path(name))
        except FileNotFoundError:
            return

    def _finish(self, stream: IO[bytes]) -> None:
        stream.close()

    def _abandon(self, stream: Any, name: str) -> None:
        discard = getattr(stream, "discard", None)
        if discard is not None and not getattr(stream, "autocommit", True):
            discard()
            return
        stream.close()  # fsspec has no portable way to give up an upload: end it, then remove what it made
        self.delete(name)
