"""Where things are: local paths and fsspec URLs told apart, opened, and written so that a reader never sees half a file.

Local paths never go through fsspec, which would take "::", "*" or "#" in a name for something of its own.

A photo may be a part of a file, which the fragment of its ``uri`` names; a "#" in a file's own name is encoded there:

    file:///a/00000.tar#bytes=1536-20480                     bytes from 1536 up to, not including, 20480
    s3://bucket/train-0.parquet#row=17&column=image.bytes    the cell of row 17 (of 0) in a column, here a struct's field
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BYTES = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})")
_CELL = re.compile(r"row=([0-9]{1,18})&column=(.+)", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
#: What `web_uri` leaves alone in a path or query: the percent sign of what is encoded, and all that RFC 3986 allows there.
_AS_IT_IS = "/%:@!$&'()*+,;=?~"


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


@dataclass(frozen=True, slots=True)
class Bytes:
    """The bytes of a file from ``start`` up to, not including, ``end``."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a Parquet file: its row, counted from 0, and its column, "struct.field" for the field of a struct."""

    row: int
    column: str


def bytes_uri(uri: str, start: int, end: int) -> str:
    """The ``uri`` of the bytes from ``start`` up to ``end`` of the file whose ``uri`` is given."""
    return f"{uri}#bytes={start}-{end}"


def cell_uri(uri: str, row: int, column: str) -> str:
    """The ``uri`` of a cell of the Parquet file whose ``uri`` is given."""
    return f"{uri}#row={row}&column={quote(column, safe='')}"


def split_part(uri: str) -> tuple[str, Bytes | Cell | None]:
    """A record's ``uri`` as that of the file and which part of it is meant; None: all of it.

    http and https addresses have no parts. Raises ValueError for a part that says nothing, or nothing sensible.
    """
    file, mark, part = uri.rpartition("#")
    if not mark or uri.startswith(("http://", "https://")) or not part.startswith(("bytes=", "row=")):
        return uri, None
    if (cut := _BYTES.fullmatch(part)) and int(cut[1]) <= int(cut[2]):
        return file, Bytes(int(cut[1]), int(cut[2]))
    if cell := _CELL.fullmatch(part):
        return file, Cell(int(cell[1]), unquote(cell[2]))
    raise ValueError(f"{uri}: expected #bytes=START-END or #row=NUMBER&column=NAME after the name of the file")


def web_uri(url: str) -> str:
    """An http(s) address, as lists on the web spell it, as the ``uri`` of a record: one ASCII word without fragment.

    Blanks and letters that are not ASCII are percent-encoded, what is encoded stays so. Raises ValueError for what is no
    such address, and for one with a user name or password in it.
    """
    try:
        scheme, host, path, query, _ = urlsplit(url.strip())
        named = urlsplit(f"//{host}")
        if scheme not in ("http", "https") or not named.hostname or "@" in host or named.port == 0:
            raise ValueError("expected http:// or https:// and a host, and no user name")
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
        if not _HOST.fullmatch(host):
            raise ValueError("a host has no such name")
    except ValueError as error:
        raise ValueError(f"{url[:200]!r} is no address of a picture: {error}") from error
    path, query = (quote(text.encode("utf-8", "surrogateescape"), safe=_AS_IT_IS) for text in (path, query))
    return f"{scheme}://{host}{path or '/'}" + (f"?{query}" if query else "")


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
