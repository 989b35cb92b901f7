"""The seeded order of a manifest, made outside of memory: records go to bucket files by key, buckets are sorted alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from manifests.record import SCHEMA, ImageRecord, Rejection, from_batch

BUCKET_BITS = 6
_KEYED_SCHEMA = pa.schema([pa.field("key", pa.uint64(), nullable=False), *SCHEMA])


def order_key(seed: int, image_id: str) -> bytes:
    """The 8 bytes whose order is the order of a manifest: BLAKE2b-64 of the id, keyed with the seed (uint64, little-endian)."""
    return hashlib.blake2b(image_id.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()


class Shuffle:
    """Records in, in any order; tables out, in ascending `order_key`, without duplicates.

    What comes out does not depend on the order in which records came in. Memory: one batch on the way in; one bucket,
    1/64 of all records, on the way out. Disk: the records once, uncompressed, in ``folder``.
    """

    def __init__(self, folder: Path, *, seed: int) -> None:
        self._paths = [folder / f"bucket-{number:02d}.arrow" for number in range(1 << BUCKET_BITS)]
        self._seed = seed
        self._stack = ExitStack()
        self._writers = []
        for path in self._paths:
            sink = self._stack.enter_context(pa.OSFile(str(path), "wb"))
            self._writers.append(self._stack.enter_context(pa.ipc.new_stream(sink, _KEYED_SCHEMA)))

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the rows of one batch of SCHEMA."""
        digests = b"".join([order_key(self._seed, image_id) for image_id in batch.column("image_id").to_pylist()])
        keys = np.frombuffer(digests, ">u8").astype(np.uint64)
        batch = pa.RecordBatch.from_arrays([pa.array(keys), *batch.columns], schema=_KEYED_SCHEMA)
        buckets = keys >> np.uint64(64 - BUCKET_BITS)
        batch = batch.take(pa.array(np.argsort(buckets, kind="stable")))
        ends = np.cumsum(np.bincount(buckets.astype(np.int64), minlength=len(self._writers)))
        start = 0
        for writer, end in zip(self._writers, ends.tolist(), strict=True):
            if end > start:
                writer.write_batch(batch.slice(start, end - start))
            start = end

    def sorted_tables(self, on_rejection: Callable[[Rejection], None]) -> Iterator[pa.Table]:
        """Every record once, as tables of SCHEMA in ascending key; call it when all records are in.

        Of records that share an id, the one with the smallest (source, uri) stays; the others go to ``on_rejection``.
        """
        self._stack.close()
        for path in self._paths:
            with pa.OSFile(str(path), "rb") as stored:
                table = pa.ipc.open_stream(stored).read_all()
            path.unlink()
            if table.num_rows:
                yield _in_order(table.combine_chunks(), on_rejection)

    def close(self) -> None:
        """Close the bucket files; whoever made the folder removes it."""
        self._stack.close()


def _in_order(table: pa.Table, on_rejection: Callable[[Rejection], None]) -> pa.Table:
    keys = table.column("key").to_numpy()
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    table = table.select(SCHEMA.names)
    again = keys[1:] == keys[:-1]
    if again.any():
        starts = np.flatnonzero(np.concatenate([[True], ~again]))
        sizes = np.diff(np.append(starts, len(keys)))
        shared = np.repeat(sizes > 1, sizes)
        records = list(from_batch(table.take(pa.array(order[shared])).combine_chunks().to_batches()[0]))
        stays = np.ones(len(order), bool)
        done = 0
        for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
            kept = _without_duplicates(records[done : done + size], on_rejection)
            order[start : start + len(kept)] = order[start : start + size][kept]
            stays[start + len(kept) : start + size] = False
            done += size
        order = order[stays]
    return table.take(pa.array(order))


def _without_duplicates(records: list[ImageRecord], on_rejection: Callable[[Rejection], None]) -> list[int]:
    """Positions of the records to keep among those of one key, which are those of one id but for a freak of the hash."""
    kept: list[int] = []
    for position in sorted(range(len(records)), key=lambda position: _preference(records[position])):
        record = records[position]
        before = records[kept[-1]] if kept else None
        if before is None or before.image_id != record.image_id:
            kept.append(position)
        elif before == record:
            on_rejection(Rejection(record.source, f"{record.image_id}: {record.uri}", "duplicate id, same record"))
        else:
            what = f"{record.image_id}: {record.uri} (kept: {before.uri} of {before.source})"
            on_rejection(Rejection(record.source, what, "duplicate id, another record was kept"))
    return kept


def _preference(record: ImageRecord) -> tuple:
    size = (record.width or -1, record.height or -1)
    return (
        record.image_id,
        record.source,
        record.uri,
        size,
        record.captions,
        record.split,
        record.license,
        record.keys,
    )
