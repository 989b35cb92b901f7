"""A remote storage as readers in training see it: files here and there, again and again, and nothing is written.

``Scattered``  every piece that is asked for is one request; pieces that follow each other come in blocks
``Cached``     whole files come to a bounded local folder first
"""

from __future__ import annotations

import io
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import IO, NoReturn, cast

from pipeline.storage.cache import FileCache
from pipeline.storage.contract import DataFile, Entry, Storage
from pipeline.storage.remote import RemoteStorage

#: A cell's data files. Their names are unique to an attempt, so what was fetched once is right for ever.
_DATA_FILE = re.compile(r"labels/[^/]+/shard-\d+\.[0-9a-f]+\.(tar|parquet)")
#: From one member's end to the next one's beginning there is padding and a header of the tar.
_NEIGHBOUR_BYTES = 2048
_BLOCK_BYTES = 4 << 20


class _View(Storage):
    """Reads what ``remote`` holds."""

    def __init__(self, remote: RemoteStorage) -> None:
        self.remote = remote
        self.url = remote.url
        self.shared = remote.shared

    @abstractmethod
    def open_data(self, name: str) -> IO[bytes]:
        """A cell's data file, seekable; FileNotFoundError if absent."""

    def open(self, name: str) -> IO[bytes]:
        return self.open_data(name) if _DATA_FILE.fullmatch(name) else self.remote.open(name)

    def read(self, name: str) -> bytes:
        return self.remote.read(name)

    def names(self, folder: str) -> list[str]:
        return self.remote.names(folder)

    def entries(self, folder: str) -> Iterator[Entry]:
        return self.remote.entries(folder)

    def exists(self, name: str) -> bool:
        return self.remote.exists(name)

    def create(self, name: str) -> DataFile:
        self._refuse(name)

    def publish(self, name: str, data: bytes) -> bool:
        self._refuse(name)

    def replace(self, name: str, data: bytes, *, durable: bool = True) -> None:
        self._refuse(name)

    def replace_if(self, name: str, stands: Callable[[bytes], bool], data: bytes) -> bool:
        self._refuse(name)

    def settle(self, temporary: str, name: str) -> bool:
        self._refuse(name)

    def delete(self, name: str) -> None:
        self._refuse(name)

    def _finish(self, stream: IO[bytes]) -> None:
        self._refuse("a file")

    def _abandon(self, stream: IO[bytes], name: str) -> None:
        self._refuse(name)

    def _refuse(self, name: str) -> NoReturn:
        raise AssertionError(f"{name} of {self.url}: a view for reading writes nothing")


class Scattered(_View):
    """Asks the remote storage for just the bytes that are wanted."""

    def open_data(self, name: str) -> IO[bytes]:
        stream = _Pieces(self.remote, name) if name.endswith(".tar") else io.BytesIO(self.remote.read(name))
        return cast(IO[bytes], stream)


class Cached(_View):
    """Brings whole data files to ``cache`` and reads them there."""

    def __init__(self, remote: RemoteStorage, cache: FileCache) -> None:
        super().__init__(remote)
        self.cache = cache

    def open_data(self, name: str) -> IO[bytes]:
        return self.cache.open(self.remote, name)


class _Pieces(io.RawIOBase):
    """A remote file, read by ranges. Not thread-safe, like other streams."""

    def __init__(self, remote: RemoteStorage, name: str) -> None:
        self._remote = remote
        self._name = name
        self._at = 0
        self._block, self._block_at = b"", 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET, "members have offsets from the beginning"
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        assert size >= 0, "members have lengths"
        end = self._block_at + len(self._block)
        if not self._block_at <= self._at <= self._at + size <= end:
            follows = 0 <= self._at - end <= _NEIGHBOUR_BYTES or self._block_at <= self._at < end
            wanted = max(size, _BLOCK_BYTES) if follows else size
            self._block = self._remote.read_range(self._name, self._at, wanted)
            self._block_at = self._at
        start = self._at - self._block_at
        piece = self._block[start : start + size]
        self._at += len(piece)
        return piece
