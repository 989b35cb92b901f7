"""Where the files of an export go: into a storage or, to verify, against what is there. A layout does not know which."""

from __future__ import annotations

import io
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any

from pipeline.receipt import FileEntry
from pipeline.storage import TEMPORARY, LocalStorage, Storage


class Target(io.RawIOBase):
    """A file being made: what writers of tars and Parquet files want of a stream, and no more."""

    def __init__(self, write: Callable[[memoryview], object]) -> None:
        super().__init__()
        self._write = write
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._write(view)
        self._at += view.nbytes
        return view.nbytes


class Files(ABC):
    """The files of one piece of an export, by their names in it."""

    #: Large files that were made.
    large: list[FileEntry]
    #: How many small ones, and the bytes of these.
    small: int = 0
    small_bytes: int = 0

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.large = []

    @abstractmethod
    def create(self, name: str) -> AbstractContextManager[Target]:
        """A large file, for a with-block. It is there whole or not at all."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """One small file of many. Sure to last only after `settle`."""

    @abstractmethod
    def absent(self, name: str) -> None:
        """What would be a file, were there anything to say: none is there afterwards."""

    def settle(self) -> None:
        """All that was put is on the disk."""

    @property
    def bytes(self) -> int:
        return self.small_bytes + sum(entry.bytes for entry in self.large)


class Written(Files):
    """Into the storage, in place of what may be there. ``swept``: folders that were cleared of a killed export's litter."""

    def __init__(self, storage: Storage, swept: set[str]) -> None:
        super().__init__(storage)
        self._swept = swept

    @contextmanager
    def create(self, name: str) -> Iterator[Target]:
        self._sweep(name)
        beside = f"{name.rpartition('/')[0]}/{TEMPORARY}{uuid.uuid4().hex}".lstrip("/")
        with self.storage.create(beside) as file:
            yield Target(file.write)
        self.storage.delete(name)
        self.storage.settle(file.name, name)
        self.large.append(FileEntry(name=name, bytes=file.bytes, sha256=file.sha256))

    def put(self, name: str, data: bytes) -> None:
        self._sweep(name)
        self.storage.replace(name, data, durable=False)
        self.small += 1
        self.small_bytes += len(data)

    def absent(self, name: str) -> None:
        self.storage.delete(name)

    def settle(self) -> None:
        # One call for thousands of files: to wait for each of them would take longer than all the rest.
        if self.small and isinstance(self.storage, LocalStorage):
            os.sync()

    def _sweep(self, name: str) -> None:
        folder = name.rpartition("/")[0]
        if folder not in self._swept:
            self._swept.add(folder)
            for found in self.storage.names(folder):
                if found.startswith(TEMPORARY):
                    self.storage.delete(f"{folder}/{found}" if folder else found)


class Compared(Files):
    """Held against the storage byte by byte. ``problems``: what differs, in plain words."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self.problems: list[str] = []

    @contextmanager
    def create(self, name: str) -> Iterator[Target]:
        try:
            stream = self.storage.open(name)
        except FileNotFoundError:
            self.problems.append(f"{name} is missing")
            yield Target(lambda data: None)
            return
        with stream:
            comparison = _Comparison(stream)
            yield Target(comparison.write)
            if comparison.differs or stream.read(1):
                self.problems.append(f"{name} is not what the store says")

    def put(self, name: str, data: bytes) -> None:
        try:
            if self.storage.read(name) != data:
                self.problems.append(f"{name} is not what the store says")
        except FileNotFoundError:
            self.problems.append(f"{name} is missing")

    def absent(self, name: str) -> None:
        if self.storage.exists(name):
            self.problems.append(f"{name} is there, and the store has nothing to say in it")


class _Comparison:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.differs = False

    def write(self, data: memoryview) -> None:
        if not self.differs:
            self.differs = self._stream.read(data.nbytes) != data
