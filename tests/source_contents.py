"""What a source finds, record by record."""

from __future__ import annotations

from manifests.build import Source
from manifests.record import BATCH_ROWS, SCHEMA, ImageRecord, Rejection, from_batch


def split(source: Source) -> tuple[list[ImageRecord], list[Rejection]]:
    """All records and all rejections of a source, each in its order; the batches are checked on the way."""
    records: list[ImageRecord] = []
    rejections: list[Rejection] = []
    for found in source.batches():
        if isinstance(found, Rejection):
            rejections.append(found)
        else:
            assert found.schema.equals(SCHEMA) and 0 < found.num_rows <= BATCH_ROWS
            found.validate(full=True)
            records += from_batch(found)
    return records, rejections
