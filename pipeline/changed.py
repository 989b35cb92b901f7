"""ChangedRecords: what a growth put in place of records in the parts' manifests, found shard by shard."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.record import ImageRecord, from_batch
from pipeline.errors import StoreError
from pipeline.growth import GROWTH, GrowthFile
from pipeline.storage import Storage


class ChangedRecords:
    """A growth's list of changed records. Its footer is read once, and of its rows those of the shards that are asked for."""

    def __init__(self, storage: Storage, file: GrowthFile) -> None:
        self._storage = storage
        self._name = f"{GROWTH}/{file.name}"
        self._footer: pq.FileMetaData | None = None

    def in_shard(self, index: int) -> dict[int, ImageRecord]:
        """The changed records of one shard, by row. StoreError where the list cannot be read."""
        found: dict[int, ImageRecord] = {}
        try:
            with self._storage.open(self._name) as stream:
                file = pq.ParquetFile(stream, metadata=self._footer)
                if self._footer is None:
                    self._last_G = _last_shards(file.metadata)
                    self._footer = file.metadata
                # Ascending by shard: of a shard's row groups the first is the first that does not end before it.
                group = int(np.searchsorted(self._last_G, index))
                while group < len(self._last_G):
                    table = file.read_row_group(group).combine_chunks()
                    for batch in table.filter(pc.equal(table["shard"], index)).to_batches():
                        rows = batch.column("row").to_pylist()
                        records = from_batch(
                            pa.RecordBatch.from_arrays(batch.columns[2:], names=batch.schema.names[2:])
                        )
                        found.update(zip(rows, records, strict=True))
                    if self._last_G[group] > index:
                        break
                    group += 1
        except (FileNotFoundError, ValueError, OSError) as error:
            raise StoreError(f"cannot read {self._storage.url}/{self._name}: {error}; restore it") from error
        return found


def _last_shards(footer: pq.FileMetaData) -> np.ndarray:
    """The shard that the last row of every row group belongs to."""
    return np.array([footer.row_group(n).column(0).statistics.max for n in range(footer.num_row_groups)], np.int64)
