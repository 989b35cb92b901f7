"""Manifest: the immutable Parquet file that says which images exist and in which order they are cut into shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.fingerprint import Fingerprint
from manifests.location import open_binary, replacing
from manifests.record import SCHEMA, ImageRecord, from_batch, with_keys

#: Format 1 lacks the column ``keys``; it is read as if all were empty.
FORMAT = 2
_SCHEMAS = {1: pa.schema([field for field in SCHEMA if field.name != "keys"]), 2: SCHEMA}
#: The key of the Parquet metadata whose value is JSON: format, fingerprint, count, seed.
METADATA_KEY = b"expert_labels.manifest"
#: Rows decoded at a time when reading: what bounds memory.
_READ_ROWS = 16_384
#: Rows of a row group that is better compressed fast than well.
_SMALL = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An opened manifest. Holds no file open and no rows, so it may be pickled and sent to workers.

    ``fingerprint``: 64 hexadecimal digits, equal for equal records in equal order. ``seed``: of the shuffle that made
    the order. ``len()``: the number of images.
    """

    url: str
    fingerprint: str
    seed: int
    count: int

    @classmethod
    def open(cls, url: str) -> Manifest:
        """The manifest at a local path or fsspec URL.

        Raises ValueError where there is none, where the file is not a Parquet file or no manifest, or where it was
        written by a newer version. Reads the file's footer only; `verify` reads it all.
        """
        with open_binary(url) as stream, _parquet(stream, url) as file:
            about = _about(file, url)
            expected = _SCHEMAS[about["format"]]
            if not file.schema_arrow.equals(expected, check_metadata=False):
                raise ValueError(
                    f"{url} is no manifest of format {about['format']}: its columns are {_columns(file.schema_arrow)}; "
                    f"expected {_columns(expected)}; build it again"
                )
            if file.metadata.num_rows != about["count"]:
                raise ValueError(
                    f"{url} has {file.metadata.num_rows} rows where its metadata says {about['count']}; build it again"
                )
        return cls(url=url, fingerprint=about["fingerprint"], seed=about["seed"], count=about["count"])

    def __len__(self) -> int:
        return self.count

    def records(self) -> Iterator[ImageRecord]:
        """All records in shard order, streaming."""
        for batch in self.batches(_READ_ROWS):
            yield from from_batch(batch)

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        """All rows in shard order as Arrow batches of exactly ``rows`` rows, the last one shorter; streaming.

        Independent of the file's row groups. Memory: one batch, and one row group of the file. Raises ValueError where
        the file cannot be read.
        """
        assert rows > 0, "a batch has rows"
        pending: list[pa.RecordBatch] = []
        missing = rows
        for batch in self._stored_batches(min(rows, _READ_ROWS)):
            while batch.num_rows >= missing:
                yield pa.concat_batches([*pending, batch.slice(0, missing)])
                batch = batch.slice(missing)
                pending, missing = [], rows
            if batch.num_rows:
                pending.append(batch)
                missing -= batch.num_rows
        if pending:
            yield pa.concat_batches(pending)

    def verify(self) -> None:
        """Read every row and compare the fingerprint. Raises ValueError where the file is damaged or was changed."""
        fingerprint = Fingerprint()
        for batch in self._stored_batches(_READ_ROWS):
            fingerprint.update(batch)
        if fingerprint.hexdigest() != self.fingerprint:
            raise ValueError(
                f"{self.url}: its rows have the fingerprint {fingerprint.hexdigest()[:12]}, its metadata says "
                f"{self.fingerprint[:12]}; it was changed after it was built, build it again"
            )

    def _stored_batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        with open_binary(self.url) as stream, _parquet(stream, self.url) as file:
            if _about(file, self.url)["fingerprint"] != self.fingerprint:
                raise ValueError(f"{self.url} was replaced by another manifest while it was in use; start again")
            try:
                for batch in file.iter_batches(batch_size=rows, use_threads=False):
                    yield with_keys(batch)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{self.url} is damaged: {_first_line(error)}; build it again") from error


def cut(manifest: Manifest, url: str, rows: int) -> Manifest:
    """The same manifest at another place, in row groups of ``rows``: what can be read one by one. Memory: some thousand rows."""
    with ManifestWriter(url, seed=manifest.seed, rows=rows) as writer:
        for batch in manifest.batches(max(1, _READ_ROWS // rows) * rows):
            writer.write(batch)
    return writer.manifest


class ManifestWriter:
    """Writes a manifest in row groups of ``rows``, or one for each `write`; it appears at ``url`` whole when the block ends
    well. The rows must already be in shard order. After the block, ``manifest`` is the written Manifest.
    """

    manifest: Manifest

    def __init__(self, url: str, *, seed: int, rows: int | None = None) -> None:
        self._url = url
        self._rows = rows
        self._seed = seed
        self._fingerprint = Fingerprint()
        self._stack = ExitStack()

    @property
    def count(self) -> int:
        """Rows written so far."""
        return self._fingerprint.count

    def __enter__(self) -> Self:
        stream = self._stack.enter_context(replacing(self._url))
        repeating = ["source", "split", "license"]
        # Each column of a row group is compressed by itself: of small ones, zstd's beginning is most of the time.
        compression = "lz4" if self._rows and self._rows < _SMALL else "zstd"
        # Without statistics the footer, which every reader of a shard needs, is half as large.
        self._parquet = pq.ParquetWriter(
            stream, SCHEMA, compression=compression, use_dictionary=repeating, write_statistics=False
        )
        self._stack.callback(self._parquet.close)
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Append ``batch`` (of SCHEMA, one row or more); with ``rows``, all batches but the last have a multiple of that."""
        assert batch.num_rows, "a row group has rows"
        assert not self._rows or self.count % self._rows == 0, "a row group ends where the next begins"
        self._fingerprint.update(batch)
        self._parquet.write_batch(batch, row_group_size=self._rows or batch.num_rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, traceback)
            return
        fingerprint = self._fingerprint.hexdigest()
        about = {"format": FORMAT, "fingerprint": fingerprint, "count": self.count, "seed": self._seed}
        self._parquet.add_key_value_metadata({METADATA_KEY: json.dumps(about).encode()})
        self._stack.close()
        self.manifest = Manifest(url=self._url, fingerprint=fingerprint, seed=self._seed, count=self.count)


def _parquet(stream: object, url: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(stream)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{url} is not a whole Parquet file ({_first_line(error)}); expected a manifest, build it again"
        ) from error


def _about(file: pq.ParquetFile, url: str) -> dict:
    """The manifest's own metadata, checked."""
    text = (file.metadata.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise ValueError(
            f"{url} is a Parquet file but no manifest (it lacks the metadata {METADATA_KEY.decode()!r}); expected one "
            "made by manifests.build"
        )
    try:
        about = json.loads(text)
        if about["format"] not in _SCHEMAS:
            raise ValueError(
                f"{url} has manifest format {about['format']}, this version reads up to {FORMAT}; update expert-labels"
            )
        return {
            "format": int(about["format"]),
            "fingerprint": str(about["fingerprint"]),
            "count": int(about["count"]),
            "seed": int(about["seed"]),
        }
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{url}: its manifest metadata is broken ({error!r}); build it again") from error


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
