"""Trouble with the disk on demand: every call that changes a file is counted, and the n-th one goes wrong.

The calls are those that writing comes down to (open for writing, write, fsync, link, rename, unlink, mkdir), whoever makes
them; the n-th write puts half of its bytes on the disk first, as a real one may.
"""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

COUNTED = ("fsync", "link", "replace", "rename", "unlink", "mkdir")


def die() -> None:
    """The end of a process that had no chance to say anything: no flush, no finally, no atexit."""
    os._exit(9)


def failing(code: int) -> Callable[[], None]:
    """An OSError of that errno."""

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    return fail


class Faults:
    """While `installed`: ``act`` instead of the ``at``-th call (0 is the first).

    ``calls``: the names of all so far; ``paths``: the last argument of each, which is the file that it makes or changes.
    """

    def __init__(self, act: Callable[[], None] | None = None, *, at: int = -1, only: str = "") -> None:
        self.calls: list[str] = []
        self.paths: list[str] = []
        self._act = act
        self._at = at
        self._only = only
        self._for_good = False
        self._lock = threading.Lock()

    def hit(self, name: str, path: object, torn: Callable[[], object] = lambda: None) -> None:
        """Counts one call. ``torn`` does the part of it that still happens."""
        if self._only not in ("", name):
            return
        with self._lock:
            self.calls.append(name)
            self.paths.append(str(Path(f"/proc/self/fd/{path}").readlink()) if isinstance(path, int) else str(path))
            now = len(self.calls) - 1 == self._at or self._for_good
        if now and self._act is not None:
            torn()
            self._act()

    def fail_from_now(self, act: Callable[[], None]) -> None:
        """Every call from the next one on goes wrong."""
        self._act, self._for_good = act, True

    @contextmanager
    def installed(self) -> Iterator[Faults]:
        with mock.patch.object(io, "open", self._opening(io.open)):
            patches = [mock.patch.object(os, name, self._counting(name, getattr(os, name))) for name in COUNTED]
            for patch in patches:
                patch.start()
            try:
                yield self
            finally:
                for patch in patches:
                    patch.stop()

    def _counting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.hit(name, arguments[1] if name in ("link", "replace", "rename") else arguments[0])
            return real(*arguments, **options)

        return counted

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
            if not set(mode) & set("wxa+"):
                return real(file, mode, buffering, *arguments, **options)
            assert "b" in mode, "the store writes bytes"
            self.hit("open", file)
            size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
            return io.BufferedWriter(_CountingFile(self, file, mode.replace("b", "")), size)

        return opened


class _CountingFile(io.FileIO):
    def __init__(self, faults: Faults, file: Any, mode: str) -> None:
        super().__init__(file, mode)
        self._faults = faults

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._faults.hit("write", self.name, lambda: super(_CountingFile, self).write(view[: len(view) // 2]))
        return super().write(view)


NO_SPACE = failing(errno.ENOSPC)
IO_ERROR = failing(errno.EIO)
NO_LINKS = failing(errno.EPERM)
