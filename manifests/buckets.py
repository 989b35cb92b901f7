"""Buckets: rows in files by the order that they will have, so that a file at a time can be sorted in memory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa

from manifests.names import NAME
from manifests.record import SCHEMA

BUCKET_BITS = 6
BUCKETS = 1 << BUCKET_BITS
#: A row on its way: its order key, and its number among the rows of its source.
KEYED_SCHEMA = pa.schema(
    [pa.field("key", pa.uint64(), nullable=False), pa.field("row", pa.uint32(), nullable=False), *SCHEMA]
)


def bucket_of(numbers: np.ndarray) -> np.ndarray:
    """The bucket (0 to BUCKETS - 1) of each uint64: its highest bits, so that buckets follow one another in order."""
    return (numbers >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)


class BucketWriter:
    """Rows in, in any order; one Arrow stream for each bucket that has rows, in ``folder``.

    Memory: one batch. Disk: the rows, uncompressed, so that they can be mapped into memory column by column.
    """

    def __init__(self, folder: Path, schema: pa.Schema = KEYED_SCHEMA) -> None:
        self._folder = folder
        self._schema = schema
        self._stack = ExitStack()
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def write(self, batch: pa.RecordBatch) -> None:
        """Take the rows of one batch of the schema, by its column ``key``."""
        buckets = bucket_of(np.asarray(batch.column("key")))
        batch = batch.take(pa.array(np.argsort(buckets, kind="stable")))
        ends = np.cumsum(np.bincount(buckets, minlength=BUCKETS))
        start = 0
        for bucket, end in enumerate(ends.tolist()):
            if end > start:
                self._writer(bucket).write_batch(batch.slice(start, end - start))
            start = end

    def _writer(self, bucket: int) -> pa.ipc.RecordBatchStreamWriter:
        if bucket not in self._writers:
            sink = self._stack.enter_context(pa.OSFile(str(bucket_path(self._folder, bucket)), "wb"))
            self._writers[bucket] = self._stack.enter_context(pa.ipc.new_stream(sink, self._schema))
        return self._writers[bucket]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def bucket_path(folder: Path, bucket: int) -> Path:
    return folder / f"bucket-{bucket:02d}.arrow"


def read_bucket(folder: Path, bucket: int, schema: pa.Schema = KEYED_SCHEMA) -> pa.Table:
    """The rows of one bucket in the order in which they were written; mapped, so that only columns in use are read."""
    path = bucket_path(folder, bucket)
    if not path.exists():
        return schema.empty_table()
    with pa.memory_map(str(path)) as stored:
        return pa.ipc.open_stream(stored).read_all()


class NameWriter:
    """Names of rows (NAME) in, in any order; one file of them for each bucket of names, in ``folder``."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder, kind
        self._stack = ExitStack()
        self._files: dict[int, BinaryIO] = {}

    def write(self, names: np.ndarray, rows: np.ndarray) -> None:
        """Take uint64 names and the numbers of their rows."""
        if not len(names):
            return
        found = np.empty(len(names), NAME)
        found["name"], found["row"] = names, rows
        buckets = bucket_of(names)
        found = found[np.argsort(buckets, kind="stable")]
        start = 0
        for bucket, end in enumerate(np.cumsum(np.bincount(buckets, minlength=BUCKETS)).tolist()):
            if end > start:
                if bucket not in self._files:
                    path = _names_path(self._folder, self._kind, bucket)
                    self._files[bucket] = self._stack.enter_context(path.open("wb"))
                found[start:end].tofile(self._files[bucket])
            start = end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def read_names(folder: Path, kind: str, bucket: int) -> np.ndarray:
    """The names of one bucket, as NAME."""
    path = _names_path(folder, kind, bucket)
    return np.fromfile(path, NAME) if path.exists() else np.empty(0, NAME)


def _names_path(folder: Path, kind: str, bucket: int) -> Path:
    return folder / f"{kind}-{bucket:02d}.names"


def concatenated(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.RecordBatch:
    """All rows as one batch of ``schema``."""
    table = pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()
    batches = table.to_batches()
    assert len(batches) <= 1, "a bucket has less text than fits into one Arrow array"
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema)
