"""Opening a file that a record names, and nothing else that its name might lead to: no FIFO, no folder, no other URL."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from pipeline.limits import PhotoError


def local_file(uri: str) -> str:
    """The path of a file:// URI. Raises PhotoError for one of another host."""
    host, _, path = uri.removeprefix("file://").partition("/")
    if host not in ("", "localhost"):
        raise PhotoError(f"unreadable: a file:// URI of the host {host!r}; expected file:///path")
    return os.fsdecode(b"/" + unquote_to_bytes(path))


@contextmanager
def open_regular(path: str) -> Iterator[tuple[int, int]]:
    """A regular file as its descriptor and size in bytes. Raises PhotoError for what is not one, and OSError."""
    _check_regular(Path(path).stat())
    # The file may have become another since: without O_NONBLOCK, opening a FIFO waits for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        _check_regular(status)
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a FIFO, socket or device"
        raise PhotoError(f"not a file: {kind}")


def opened_store(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a record's URL and the path in it.

    The scheme alone decides: `fsspec.url_to_fs` would take "::" in a name for a chain of URLs, so that a name could lead
    from one store to another, or to any host.
    """
    import fsspec

    kind = fsspec.get_filesystem_class(url.partition("://")[0])
    return kind(**kind._get_kwargs_from_urls(url)), str(kind._strip_protocol(url))
