"""Growing a store: new images as shards that follow the last, images that are gone dropped, records that changed taken over.

Nothing that is there is written again. A growth's files are made under names of their own, and then `growth/NNNN.json`, once:
a crash before that leaves the store as it was, and of two growers at the same time one finds the number taken.
"""

from __future__ import annotations

import datetime
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.manifest import Manifest, ManifestWriter
from pipeline.difference import RECAPTIONED, Difference, changed_batches, stored_batches
from pipeline.errors import StoreError
from pipeline.growth import CHANGED_SCHEMA, DROPPED_SCHEMA, GROWTH, GrownPlan, Growth, GrowthFile
from pipeline.store import LabelStore

_ROWS = 32_768
#: Rows of a row group of the lists: what a reader reads for a shard that has some.
_LIST_ROWS = 4_096
_BUCKETS = 64
_COPY_BYTES = 4 << 20


def grow(
    store: LabelStore, manifest: Manifest, found: Difference, *, sources: list[dict[str, object]] | None = None
) -> LabelStore:
    """Takes over ``found``, which is `difference(store, manifest)`, and opens the store again. ``sources``: as in `create`.

    New images become shards after the last one, in the manifest's order, cut by the store's shard size. Images that are gone
    are dropped, and restored if they come back; their labels stay. Of records that changed everything is taken over but the
    id, and the captions where `Difference.captions_stay`.

    Raises StoreError where somebody else grew the store meanwhile; OSError where it cannot be written. Either leaves it as
    it was.
    """
    plan = store.plan
    number = len(plan.growths) + 1 if isinstance(plan, GrownPlan) else 1
    stem = f"{GROWTH}/{number:04d}.{uuid.uuid4().hex[:12]}"
    files: dict[str, GrowthFile] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="expert-labels-") as folder:
            local = {
                "manifest": _write_new(manifest, found, Path(folder) / "manifest", plan.shard_size),
                "dropped": _write_dropped(store, found, Path(folder) / "dropped"),
                "changed": _write_changed(store, manifest, found, Path(folder) / "changed"),
            }
            fingerprint = ""
            for kind, rows in local.items():
                if rows:
                    path = Path(folder) / kind
                    fingerprint = Manifest.open(str(path)).fingerprint if kind == "manifest" else fingerprint
                    files[kind] = _copied(store, path, f"{stem}.{kind}.parquet", rows)
        growth = Growth(
            number=number,
            after=plan.fingerprint,
            manifest=files.get("manifest"),
            fingerprint=fingerprint,
            seed=manifest.seed,
            dropped=files.get("dropped"),
            changed=files.get("changed"),
            input=manifest.fingerprint,
            sources=sources or [],
            grown_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        growth = growth.model_copy(update={"plan": _plan_with(plan, growth, found.dropped_P).fingerprint})
    except BaseException:
        _remove(store, files)
        raise
    # From here on the files may be named by a growth, whatever is raised: they are no longer ours to remove.
    data = growth.model_dump_json(indent=1).encode()
    name = f"{GROWTH}/{number:04d}.json"
    # A link or a PUT that was repeated because its answer got lost finds our own: that is no defeat.
    if not store.storage.publish(name, data) and store.storage.read(name) != data:
        _remove(store, files)
        raise StoreError(
            f"{store.storage.url} was grown by another process in the meantime, and nothing of this one is in it; look again with "
            "`expert-labels grow JOB.yaml --dry-run`"
        )
    return LabelStore.open(store.storage.url)


def _plan_with(plan: GrownPlan | object, growth: Growth, dropped_P: NDArray[np.int64]) -> GrownPlan:
    first, before = (plan.first, plan.growths) if isinstance(plan, GrownPlan) else (plan, ())
    return GrownPlan.of(first, (*before, growth), dropped_P)  # type: ignore[arg-type]


def _remove(store: LabelStore, files: dict[str, GrowthFile]) -> None:
    for file in files.values():
        store.storage.delete(f"{GROWTH}/{file.name}")


def _copied(store: LabelStore, path: Path, name: str, rows: int) -> GrowthFile:
    with path.open("rb") as stream, store.storage.create(name) as file:
        while data := stream.read(_COPY_BYTES):
            file.write(data)
    return GrowthFile(name=name.rsplit("/", 1)[-1], rows=rows, bytes=file.bytes, sha256=file.sha256)


# ---- the three files; each function says how many rows it wrote, and writes no file for none


def _write_new(manifest: Manifest, found: Difference, path: Path, shard_size: int) -> int:
    if not found.new:
        return 0
    with ManifestWriter(str(path), seed=manifest.seed) as writer:
        for batch in _cut(_new_batches(manifest, found), shard_size):
            writer.write(batch)
    return writer.count


def _new_batches(manifest: Manifest, found: Difference) -> Iterator[pa.RecordBatch]:
    done = 0
    for batch in manifest.batches(_ROWS):
        yield batch.filter(pa.array(found.place_N[done : done + batch.num_rows] < 0))
        done += batch.num_rows


def _cut(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of ``rows``, the last one shorter."""
    pending: list[pa.RecordBatch] = []
    lacking = rows
    for batch in batches:
        while batch.num_rows >= lacking:
            yield pa.concat_batches([*pending, batch.slice(0, lacking)])
            batch, pending, lacking = batch.slice(lacking), [], rows
        if batch.num_rows:
            pending.append(batch)
            lacking -= batch.num_rows
    if pending:
        yield pa.concat_batches(pending)


def _write_dropped(store: LabelStore, found: Difference, path: Path) -> int:
    if not len(found.dropped_P):
        return 0
    with pq.ParquetWriter(path, DROPPED_SCHEMA, compression="zstd") as writer:
        for batch in _cut(_dropped_batches(store, found.dropped_P), _ROWS):
            writer.write_batch(batch)
    return len(found.dropped_P)


def _dropped_batches(store: LabelStore, dropped_P: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    for place, batch in stored_batches(store, ["image_id"]):
        low, high = np.searchsorted(dropped_P, (place, place + batch.num_rows))
        places = dropped_P[low:high]
        columns = [*_shards_and_rows(places, store.plan.shard_size), batch.column(0).take(pa.array(places - place))]
        yield pa.RecordBatch.from_arrays(columns, schema=DROPPED_SCHEMA)


def _shards_and_rows(places: NDArray[np.int64], shard_size: int) -> list[pa.Array]:
    return [pa.array((places // shard_size).astype(np.int32)), pa.array((places % shard_size).astype(np.int32))]


def _write_changed(store: LabelStore, manifest: Manifest, found: Difference, path: Path) -> int:
    """Records that differ, and those that differed before: a list is whole by itself. Sorted outside of memory."""
    places = len(store.plan) * store.plan.shard_size
    listed_P = np.zeros(places, bool)
    for places_C, _ in changed_batches(store):
        listed_P[places_C] = True
    wanted_N = found.taken_N > 0
    wanted_N |= (found.place_N >= 0) & listed_P[found.place_N]
    if not wanted_N.any():
        return 0
    folder = path.with_name("buckets")
    folder.mkdir()
    _fill_buckets(manifest, found.place_N, wanted_N, folder, -(-places // _BUCKETS), store.plan.shard_size)
    ids_stay_P, captions_stay_P = np.zeros(places, bool), np.zeros(places, bool)
    ids_stay_P[found.place_N[found.renamed_N]] = True
    if found.captions_stay:
        captions_stay_P[found.place_N[found.what_N & RECAPTIONED > 0]] = True
    with pq.ParquetWriter(path, CHANGED_SCHEMA, compression="zstd") as writer:
        for bucket in sorted(folder.iterdir()):
            with pa.OSFile(str(bucket)) as stream:
                table = pa.ipc.open_stream(stream).read_all()
            table = table.sort_by([("shard", "ascending"), ("row", "ascending")])
            writer.write_table(_with_what_stays(store, table, ids_stay_P, captions_stay_P), row_group_size=_LIST_ROWS)
            bucket.unlink()
    return int(wanted_N.sum())


def _fill_buckets(
    manifest: Manifest,
    place_N: NDArray[np.int64],
    wanted_N: NDArray[np.bool_],
    folder: Path,
    size: int,
    shard_size: int,
) -> None:
    """The wanted records by place: a file for each ``size`` places, in no order inside."""
    with ExitStack() as stack:
        writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        done = 0
        for batch in manifest.batches(_ROWS):
            here = np.flatnonzero(wanted_N[done : done + batch.num_rows])
            places = place_N[done + here]
            done += batch.num_rows
            for number in np.unique(places // size).tolist():
                mine = places // size == number
                if number not in writers:
                    sink = stack.enter_context(pa.OSFile(str(folder / f"{number:02d}"), "wb"))
                    writers[number] = stack.enter_context(pa.ipc.new_stream(sink, CHANGED_SCHEMA))
                columns = [*_shards_and_rows(places[mine], shard_size), *batch.take(pa.array(here[mine])).columns]
                writers[number].write_batch(pa.RecordBatch.from_arrays(columns, schema=CHANGED_SCHEMA))


def _with_what_stays(
    store: LabelStore, table: pa.Table, ids_stay_P: NDArray[np.bool_], captions_stay_P: NDArray[np.bool_]
) -> pa.Table:
    """The new records, with the ids and captions of the store's at the places where they stay."""
    shards, rows = (table[name].to_numpy().astype(np.int64) for name in ("shard", "row"))
    places = shards * store.plan.shard_size + rows
    stays = {"image_id": ids_stay_P[places], "captions": captions_stay_P[places]}
    some = stays["image_id"] | stays["captions"]
    if not some.any():
        return table
    values = {name: table[name].to_pylist() for name in stays}
    for index in np.unique(shards[some]).tolist():
        records = store.records(store.plan.shard(index), dropped=True)
        for n in np.flatnonzero(some & (shards == index)).tolist():
            for name in stays:
                if stays[name][n]:
                    values[name][n] = getattr(records[rows[n]], name)
    for name, column in values.items():
        field = CHANGED_SCHEMA.field(name)
        table = table.set_column(CHANGED_SCHEMA.names.index(name), field, pa.array(column, field.type))
    return table
