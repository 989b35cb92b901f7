"""The fingerprint of a manifest: SHA-256 over its records in order, whatever file layout holds them."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from manifests.record import SCHEMA


class Fingerprint:
    """A running SHA-256 over records in order, fed batch by batch; the cut into batches does not matter.

    The canonical encoding is by column, because that is what can be hashed at memory speed. Every column of SCHEMA, in
    its order, feeds one or more streams, each with its own SHA-256:

    - text: (1) the length in bytes of each value's UTF-8 as little-endian uint32, (2) the UTF-8 bytes, joined;
    - captions, keys: (1) the length of each record's list as little-endian uint32, then (2) and (3) as text;
    - width, height: little-endian int32, -1 where the source does not say.

    The fingerprint is the SHA-256 of the line "expert-labels manifest 1\\n", the number of records as little-endian
    uint64, and the digests of all streams in that order; those of ``keys`` are left out where no record has a key, which
    is how a manifest of format 1, which knew none, keeps its fingerprint.
    """

    def __init__(self) -> None:
        self.count = 0
        self._has_keys = False
        self._streams = [[hashlib.sha256() for _ in range(_stream_count(field))] for field in SCHEMA]

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the rows of ``batch`` (of SCHEMA)."""
        self.count += batch.num_rows
        for field, streams in zip(SCHEMA, self._streams, strict=True):
            column = batch.column(field.name)
            if pa.types.is_list(field.type):
                counts, first, last = _lengths(column)
                streams[0].update(counts)
                self._has_keys |= field.name == "keys" and last > first
                column = column.values.slice(first, last - first)
                streams = streams[1:]
            if pa.types.is_integer(field.type):
                streams[0].update(np.asarray(column.fill_null(-1)).astype("<i4").tobytes())
            else:
                lengths, first, last = _lengths(column)
                streams[0].update(lengths)
                data = column.buffers()[-1]
                if data is not None:
                    streams[1].update(memoryview(data)[first:last])

    def hexdigest(self) -> str:
        """64 hexadecimal digits for all rows so far."""
        whole = hashlib.sha256(b"expert-labels manifest 1\n" + self.count.to_bytes(8, "little"))
        for field, streams in zip(SCHEMA, self._streams, strict=True):
            for stream in streams if field.name != "keys" or self._has_keys else ():
                whole.update(stream.digest())
        return whole.hexdigest()


def _stream_count(field: pa.Field) -> int:
    if pa.types.is_integer(field.type):
        return 1
    return 3 if pa.types.is_list(field.type) else 2


def _lengths(column: pa.Array) -> tuple[bytes, int, int]:
    """Lengths of a text or list column as little-endian uint32, and where its values begin and end in their buffer."""
    if len(column) == 0:
        return b"", 0, 0
    buffer = column.buffers()[1]
    offsets = np.frombuffer(buffer, np.int32)[column.offset : column.offset + len(column) + 1]
    return np.diff(offsets).astype("<u4").tobytes(), int(offsets[0]), int(offsets[-1])
