"""What a place for files must promise, whatever it is: the contract that local and remote storage keep.

``create``   data files: attempt-unique names, durable once closed, invisible to anybody who was not told the name.
``publish``  the file that makes the data real: whole or absent, and of two writers exactly one succeeds.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

#: Segments start with a letter or digit, so "..", hidden files and absolute paths cannot be named at all.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*(/[A-Za-z0-9][A-Za-z0-9_.@-]*)*")
#: Beginnings of names of files that are still being written; `audit --repair` sweeps forgotten ones.
TEMPORARY = "tmp-"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as a listing shows it: name inside its folder, bytes, seconds since its last change."""

    name: str
    bytes: int
    age: float


class DataFile:
    """A data file being written. `close` makes it durable or, like leaving the with-block by an error, removes it."""

    def __init__(self, storage: Storage, name: str, stream: IO[bytes]) -> None:
        self.name = name
        self.bytes = 0
        self._storage = storage
        self._stream = stream
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.bytes += len(data)

    def close(self) -> None:
        try:
            self._storage._finish(self._stream)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        self._storage._abandon(self._stream, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.discard()


class Storage(ABC):
    """A root folder or prefix. Names are relative, "/"-separated; a name that could leave the root is a ValueError."""

    url: str
    #: Whether other processes and other machines see what is written here.
    shared: bool

    @abstractmethod
    def create(self, name: str) -> DataFile:
        """A new data file; FileExistsError if there is one of that name."""

    @abstractmethod
    def publish(self, name: str, data: bytes) -> bool:
        """Makes ``name`` exist with ``data``, whole and durable; False (and nothing changed) if it already exists."""

    @abstractmethod
    def replace(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Makes ``name`` hold ``data``, old or new but never a mixture; not ``durable``: may be lost with the machine."""

    def replace_if(self, name: str, stands: Callable[[bytes], bool], data: bytes) -> bool:
        """As `replace`, if there is such a file and ``stands`` of what it holds; False (and nothing changed) if not.

        Here it looks and then replaces: of two in the same instant the later one stays, whole as the other.
        """
        try:
            if not stands(self.read(name)):
                return False
        except FileNotFoundError:
            return False
        self.replace(name, data)
        return True

    @abstractmethod
    def settle(self, temporary: str, name: str) -> bool:
        """Gives a closed data file its lasting ``name``; False (and the temporary removed) if that already exists."""

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """A seekable stream for reading; FileNotFoundError if absent."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names (without folder) of what is directly in ``folder``, unsorted; [] if there is no such folder; "" is the root."""

    @abstractmethod
    def entries(self, folder: str) -> Iterator[Entry]:
        """The files directly in ``folder`` with sizes and ages: slower than `names`; "" is the root."""

    @abstractmethod
    def exists(self, name: str) -> bool: ...

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes one file; nothing happens if it is absent."""

    def end_uploads(self, *, older: float) -> list[str]:
        """Ends what was begun to be written ``older`` seconds ago, is not a file yet and takes room all the same.

        Returns the names of the files that they would have become. Where a file that is being written shows, there are none.
        """
        return []

    def prune(self, folder: str) -> None:
        """Removes ``folder`` if it is empty and the storage has folders at all."""

    def read(self, name: str) -> bytes:
        with self.open(name) as stream:
            return stream.read()

    @abstractmethod
    def _finish(self, stream: IO[bytes]) -> None: ...

    @abstractmethod
    def _abandon(self, stream: IO[bytes], name: str) -> None: ...


def checked(name: str) -> str:
    """``name`` itself; ValueError where it could mean a place outside the root."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name inside a store: expected A-Z a-z 0-9 _ . @ - in each part, a letter or digit first"
        )
    return name
