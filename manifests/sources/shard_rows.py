"""What is known of a shard's samples: from the Parquet that img2dataset writes beside it, or from the texts beside pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.location import open_binary, openable
from manifests.record import BATCH_ROWS

#: Reads what lies beside a picture: its key, and "txt" or "json"; None where there is none.
Sidecar = Callable[[str, str], bytes | None]

_KNOWN = ("key", "url", "status", "error_message", "width", "height", "sha256")
_CLASSES = (
    (re.compile(r"HTTP Error (\d{3})"), r"HTTP \1"),
    (re.compile(r"(?i)timed? ?out"), "timed out"),
    (re.compile(r"(?i)certificate|ssl"), "TLS"),
    (re.compile(r"(?i)disallowed|x-robots"), "opted out"),
    (re.compile(r"(?i)urlopen|errno|connection|reset|remote end|name or service|unknown url|no host"), "no connection"),
    (re.compile(r"(?i)decod"), "picture could not be decoded"),
    (re.compile(r"(?i)too small"), "picture too small"),
    (re.compile(r"(?i)too large|aspect"), "aspect ratio too large"),
)


class Row(NamedTuple):
    """One sample. ``failure``: why there is no picture, "" where there is one. ``captions``: as they stand there.

    ``number``: of its row in the Parquet, -1 where it is not from one.
    """

    key: str
    number: int
    failure: str
    url: str
    captions: tuple[str, ...]
    width: int | None
    height: int | None
    sha256: str


class ShardTable:
    """The Parquet of a shard. Raises OSError, and ValueError where it is no Parquet that img2dataset may have written.

    captions: columns; a list of texts counts as several captions. picture: column of the pictures, None to look for one.
    """

    def __init__(self, uri: str, *, captions: Sequence[str], picture: str | None) -> None:
        self._stream = open_binary(openable(uri) if not uri.startswith("file://") else uri)
        try:
            self._parquet = pq.ParquetFile(self._stream)
        except (pa.ArrowException, OSError) as error:
            self._stream.close()
            raise ValueError(f"{uri}: no Parquet ({str(error).splitlines()[0][:100]})") from error
        schema = self._parquet.schema_arrow
        if "key" not in schema.names:
            self.close()
            raise ValueError(f"{uri}: no column `key` as img2dataset writes it")
        self._captions = [name for name in captions if name in schema.names]
        self.has_captions = bool(self._captions)
        binary = [
            field.name for field in schema if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
        ]
        #: The column that holds pictures; None where they are elsewhere.
        self.picture = next((name for name in binary if picture is None or name == picture), None)
        self.count: int = self._parquet.metadata.num_rows

    def close(self) -> None:
        self._stream.close()

    def rows(self) -> Iterator[Row]:
        """All samples in their order. Raises OSError, and pyarrow's errors where the file is damaged."""
        known = [name for name in _KNOWN if name in self._parquet.schema_arrow.names]
        number = 0
        for batch in self._parquet.iter_batches(
            BATCH_ROWS, columns=list(dict.fromkeys((*known, *self._captions))), use_threads=False
        ):
            columns = {name: values_of(batch.column(name)) for name in batch.schema.names}
            absent: list[Any] = [None] * batch.num_rows
            texts = zip(*(columns[name] for name in self._captions), strict=True) if self._captions else absent
            for key, url, status, message, width, height, digest, captions in zip(
                *(columns.get(name, absent) for name in _KNOWN), texts, strict=True
            ):
                failure = "" if status is None or status == "success" else failure_of(str(status), message)
                yield Row(
                    str(key),
                    number,
                    failure,
                    url or "",
                    texts_in(captions),
                    pixels_of(width),
                    pixels_of(height),
                    digest or "",
                )
                number += 1


def row_beside(key: str, sidecar: Sidecar, *, captions: Sequence[str]) -> Row:
    """A sample from key.json and key.txt. The text is the caption where the object has none. Raises OSError."""
    about = _object(sidecar(key, "json"))
    found = texts_in(tuple(about.get(name) for name in captions))
    if not any(found):
        found = caption_beside(key, sidecar)
    url, digest = (about[name] if isinstance(about.get(name), str) else "" for name in ("url", "sha256"))
    return Row(key, -1, "", url, found, pixels_of(about.get("width")), pixels_of(about.get("height")), digest)


def caption_beside(key: str, sidecar: Sidecar) -> tuple[str, ...]:
    """All of key.txt is one caption."""
    data = sidecar(key, "txt")
    return (data.decode("utf-8", "surrogateescape"),) if data else ()


def failure_of(status: str, message: str | None) -> str:
    """Why there is no picture, as one of few phrases: servers say the same in many words."""
    what = "not resized" if "resize" in status else "not downloaded"
    for pattern, phrase in _CLASSES:
        if match := pattern.search(message or ""):
            return f"{what} by img2dataset: {match.expand(phrase)}"
    return f"{what} by img2dataset: other errors"


def failures_of_stats(data: bytes | None) -> list[tuple[str, str, int]]:
    """What _stats.json counts of failures: message, phrase and how many; none where it is no such file."""
    counts = _object(data).get("status_dict")
    return [
        (message, failure_of("", message), count)
        for message, count in (counts.items() if isinstance(counts, dict) else ())
        if message != "success" and isinstance(count, int) and count > 0
    ]


def values_of(column: pa.Array) -> list[Any]:
    """Texts may be of any bytes, which a writer other than Arrow does not check."""
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        return column.to_pylist()
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        raw = column.cast(pa.binary() if pa.types.is_string(column.type) else pa.large_binary()).to_pylist()
        return [data if data is None else data.decode("utf-8", "surrogateescape") for data in raw]


def texts_in(captions: tuple[Any, ...] | None) -> tuple[str, ...]:
    """Texts, and the texts of lists."""
    found: list[str] = []
    for caption in captions or ():
        found += (
            [caption]
            if isinstance(caption, str)
            else [c for c in caption if isinstance(c, str)]
            if isinstance(caption, list)
            else []
        )
    return tuple(found)


def pixels_of(value: Any) -> int | None:
    """Whole pixels; pandas makes float of integers where some are null."""
    return int(value) if isinstance(value, int | float) and 0 < value < 1 << 31 else None


def _object(data: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
