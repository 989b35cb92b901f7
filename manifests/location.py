"""Where things are: local paths and fsspec URLs told apart, opened, and written so that a reader never sees half a file.

Local paths never go through fsspec, which would take "::", "*" or "#" in a name for something of its own.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def local_path(where: str) -> Path | None:
    """The absolute local path that ``where`` (a path, ~ allowed, or a file:// URL) names; None for any other URL."""
    if where.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(urlsplit(where).path)))
    if _URL.match(where):
        return None
    return Path(os.path.abspath(os.path.expanduser(where)))  # noqa: PTH100, PTH111 - resolve() ties uris to link targets, Path raises for ~nobody


def encoded_uri(url: str) -> str:
    """An fsspec URL as the ``uri`` of a record: its path percent-encoded, so that any name is one ASCII word."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{quote(rest.encode('utf-8', 'surrogateescape'), safe='/:@')}"


def openable(uri: str) -> str:
    """What to open for a record's ``uri``: a local path for file://, the URL as fsspec wants it for all others.

    Non-UTF-8 bytes of a local name come back as surrogates, which is what `open` expects. http and https URLs stay as
    they are, since there the encoded form is the address.
    """
    local = local_path(uri) if uri.startswith("file://") else None
    if local is not None:
        return str(local)
    return uri if uri.startswith(("http://", "https://")) else unquote(uri, errors="surrogateescape")


def filesystem(url: str, **options: Any) -> tuple[Any, str]:
    """The fsspec filesystem of ``url`` and the path inside it. ValueError for an unknown scheme or a missing package."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot open {url}: {error}; expected a local path or a URL that fsspec knows") from error


def open_binary(where: str) -> BinaryIO:
    """``where`` opened for reading. ValueError where there is no such file or it may not be read."""
    local = local_path(where)
    try:
        if local is not None:
            return local.open("rb")
        files, path = filesystem(where)
        return files.open(path, "rb")
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ValueError(f"cannot read {where}: {why}; expected a file that this user may read") from error


@contextmanager
def replacing(where: str) -> Iterator[BinaryIO]:
    """A file to write that appears at ``where`` whole when the block ends well, and leaves nothing when it does not.

    Locally: a temporary name beside it, fsync, rename, fsync of the folder. Elsewhere: a temporary name, then a move.
    """
    local = local_path(where)
    token = secrets.token_hex(4)
    if local is None:
        files, path = filesystem(where)
        temporary = f"{path}.{token}.tmp"
        try:
            with files.open(temporary, "wb") as stream:
                yield stream
            files.mv(temporary, path)
        except BaseException:
            with suppress(Exception):
                files.rm(temporary)
            raise
        return
    local.parent.mkdir(parents=True, exist_ok=True)
    beside = local.with_name(f"{local.name}.{token}.tmp")
    try:
        with beside.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(local)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(local.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
