"""A folder on a local or mounted disk: fsync for durability, hard links for exclusive publishing."""

from __future__ import annotations

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from pipeline.storage.contract import TEMPORARY, DataFile, Entry, Storage, checked

#: What `os.link` says where the file system has no hard links. Any other error is an error.
_NO_HARD_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


class LocalStorage(Storage):
    """A folder on a local or mounted disk: fsync for durability, hard links for exclusive publishing."""

    shared = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def path(self, name: str) -> Path:
        return self.root / checked(name)

    def _folder(self, folder: str) -> Path:
        return self.path(folder) if folder else self.root

    def create(self, name: str) -> DataFile:
        path = self.path(name)
        _make_folder(path.parent)
        return DataFile(self, name, path.open("xb", buffering=1 << 20))

    def publish(self, name: str, data: bytes) -> bool:
        target = self.path(name)
        return self._link(self._write_beside(target, data, durable=True), target)

    def settle(self, temporary: str, name: str) -> bool:
        return self._link(self.path(temporary), self.path(name))

    def _link(self, temporary: Path, target: Path) -> bool:
        try:
            # The directory first: the data files that a receipt names must not be younger than the receipt.
            _sync_folder(target.parent)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                # Some mounted file systems have no hard links. Renaming is still whole-or-nothing; of two writers in the
                # same instant the later one stays, and its receipt is as good as the other's.
                if error.errno not in _NO_HARD_LINKS:
                    raise
                if target.exists():
                    return False
                temporary.replace(target)
            _sync_folder(target.parent)
            return True
        finally:
            temporary.unlink(missing_ok=True)

    def replace(self, name: str, data: bytes, *, durable: bool = True) -> None:
        target = self.path(name)
        temporary = self._write_beside(target, data, durable=durable)
        try:
            if durable:
                _sync_folder(target.parent)
            temporary.replace(target)
            if durable:
                _sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def replace_if(self, name: str, stands: Callable[[bytes], bool], data: bytes) -> bool:
        """As the contract says, and of two in the same instant one finds the other's: both lock the file that stands."""
        try:
            with self.open(name) as held:
                with suppress(OSError):  # some mounted file systems know no locks: there the later one stays
                    fcntl.flock(held, fcntl.LOCK_EX)
                return super().replace_if(name, stands, data)
        except FileNotFoundError:
            return False

    def open(self, name: str) -> IO[bytes]:
        return self.path(name).open("rb")

    def names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self._folder(folder)) as found:
                return [entry.name for entry in found]
        except FileNotFoundError:
            return []

    def entries(self, folder: str) -> Iterator[Entry]:
        now = time.time()
        try:
            found = os.scandir(self._folder(folder))
        except FileNotFoundError:
            return
        with found:
            for entry in found:
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue  # another process swept it between listing and looking
                if entry.is_file():
                    yield Entry(entry.name, status.st_size, now - status.st_mtime)

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def delete(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def prune(self, folder: str) -> None:
        with suppress(OSError):
            self.path(folder).rmdir()

    def _write_beside(self, target: Path, data: bytes, *, durable: bool) -> Path:
        temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with self._opened_beside(temporary, durable=durable) as stream:
                stream.write(data)
                if durable:
                    self._sync(stream)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _opened_beside(self, temporary: Path, *, durable: bool) -> IO[bytes]:
        for _ in range(2):  # once more where a sweep took the folder because it was empty yet
            if durable:
                _make_folder(temporary.parent)
            else:
                temporary.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                return temporary.open("xb")
        return temporary.open("xb")

    def _sync(self, stream: IO[bytes]) -> None:
        stream.flush()
        os.fsync(stream.fileno())

    def _finish(self, stream: IO[bytes]) -> None:
        self._sync(stream)
        if os.fstat(stream.fileno()).st_nlink == 0:
            raise FileNotFoundError(
                f"{stream.name} was removed while it was being written, by a sweep that took it for left over; nothing was "
                "committed: label again"
            )
        stream.close()

    def _abandon(self, stream: IO[bytes], name: str) -> None:
        with suppress(OSError):  # a full disk refuses the rest of the buffer once more; the file goes anyway
            stream.close()
        self.delete(name)


def _make_folder(folder: Path) -> None:
    """As `mkdir -p`; the parent of what is new is synced, else a power cut could take a folder with all that is in it."""
    try:
        folder.mkdir()
    except FileNotFoundError:
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
    except (
        OSError
    ):  # not every system says of a folder that is there that it exists: some say read-only, or no permission
        if not folder.is_dir():
            raise
        return
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
