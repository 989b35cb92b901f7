"""The records of a store's shards as they are now: from the manifests of its parts and from its list of changed records."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.manifest import METADATA_KEY
from manifests.record import ImageRecord, from_batch
from pipeline.errors import StoreError
from pipeline.growth import GROWTH, GrownPlan, GrowthFile
from pipeline.plan import Part, Shard, ShardPlan
from pipeline.storage import Storage


class ShardRecords:
    """Reads one shard's records at a time. Footers, which take tenths of a second to parse where they are large, are kept."""

    def __init__(self, storage: Storage, plan: ShardPlan) -> None:
        self._storage = storage
        self._plan = plan
        self._footers: dict[str, pq.FileMetaData] = {}
        changed = plan.changed if isinstance(plan, GrownPlan) else None
        self._changed = _ChangedRecords(storage, changed) if changed else None

    def of(self, shard: Shard) -> list[ImageRecord]:
        """Of all rows of the shard, dropped ones too: one row group, one read. StoreError where they cannot be read."""
        part = self._plan.part(shard.index)
        try:
            with self._storage.open(part.file) as stream:
                file = pq.ParquetFile(stream, metadata=self._footers.get(part.file))
                self._footers[part.file] = file.metadata
                if not is_cut_by(part, file.metadata):
                    raise StoreError(
                        f"{self._storage.url}/{part.file} is not the manifest that is cut into {len(part)} shards of "
                        f"{part.shard_size} here; it was replaced: restore it or make a new store"
                    )
                table = file.read_row_group(shard.index - part.first).combine_chunks()
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise StoreError(f"cannot read {self._storage.url}/{part.file}: {error}; restore it") from error
        records = [record for batch in table.to_batches() for record in from_batch(batch)]
        if self._changed is not None:
            for row, record in self._changed.in_shard(shard.index).items():
                records[row] = record
        return records


def is_cut_by(part: Part, found: pq.FileMetaData) -> bool:
    """Whether a manifest is the part's, with one row group for each of its shards."""
    about = (found.metadata or {}).get(METADATA_KEY, b"{}")
    first = found.row_group(0).num_rows if found.num_row_groups else 0
    return (
        json.loads(about).get("fingerprint") == part.manifest
        and found.num_row_groups == len(part)
        and first == min(part.shard_size, part.images)
    )


class _ChangedRecords:
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
