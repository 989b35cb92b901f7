"""From spilled rows to sorted buckets: what is left out and what is merged is taken aside, the rest is put in order.

Each step is a function of an Assembly and a number, so that workers can share it: `pick` (of a bucket), `merge` (of a part of
the pictures that have several rows), `sort` (of a bucket).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.buckets import BUCKETS, KEYED_SCHEMA, BucketWriter, concatenated, read_bucket, read_names
from manifests.joining import Joined, Names
from manifests.lists import owners, put_together, taken_apart
from manifests.merge import MEMBER_SCHEMA, Merged, merged
from manifests.record import SCHEMA, Rejection
from manifests.report import EXAMPLES, RejectionCount, Tally

#: Rows that are merged at once.
_PART_ROWS = 200_000
#: What was seen of files (manifests.looking), one bucket in a file, ascending by ``place``.
SEEN_SCHEMA = pa.schema(
    [
        pa.field("place", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("phash", pa.string()),
        pa.field("problem", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Picked:
    """Of one bucket: what was left out, by source and number of the reason, with examples (image ids)."""

    out: dict[tuple[str, int], tuple[int, list[str]]]


@dataclass(frozen=True, slots=True)
class Sorted:
    """One bucket as the manifest has it. ``images``, ``captions``: how many of each source; ``bare``: what was left out for
    want of a caption.
    """

    path: Path
    bare: tuple[RejectionCount, ...] = ()
    images: Counter[str] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Assembly:
    """The folder of a build. ``spills``: folder and number of the first row of each source, in the order of the sources."""

    folder: Path
    spills: tuple[tuple[Path, int], ...]
    parts: int = 1

    # ---- rows and names, numbered through all sources

    def rows(self, bucket: int) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """For each source its rows of a bucket, with their numbers."""
        for folder, first in self.spills:
            table = read_bucket(folder, bucket)
            if table.num_rows:
                yield table.column("row").to_numpy().astype(np.int64) + first, table

    def ids(self, bucket: int) -> Names:
        return Names.of_all(Names(table.column("key").to_numpy(), places) for places, table in self.rows(bucket))

    def names(self, kind: str, bucket: int) -> Names:
        """``kind``: keys or content."""
        found = [(read_names(folder, kind, bucket), first) for folder, first in self.spills]
        return Names.of_all(Names(names["name"], names["row"].astype(np.int64) + first) for names, first in found)

    # ---- the steps

    def save(self, found: Joined) -> None:
        """Leave what is joined where workers find it."""
        for name in ("members", "roots", "out", "why"):
            np.save(self.folder / f"{name}.npy", getattr(found, name))

    def _load(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy")

    def pick(self, bucket: int) -> Picked:
        """Take the rows of pictures that have several aside, and count what is left out."""
        members, roots, out, why = (self._load(name) for name in ("members", "roots", "out", "why"))
        left_out: dict[tuple[str, int], tuple[int, list[str]]] = {}
        picked: list[list[pa.RecordBatch]] = [[] for _ in range(self.parts)]
        for places, table in self.rows(bucket):
            gone, reasons = _found(places, out, why)
            for reason in np.unique(reasons[gone]).tolist():
                ids = table.select(["source", "image_id"]).filter(pa.array(gone & (reasons == reason)))
                for source in ids.column("source").unique().to_pylist():
                    of_source = ids.filter(pc.equal(ids.column("source"), source)).column("image_id").to_pylist()
                    count, examples = left_out.get((source, reason), (0, []))
                    left_out[source, reason] = count + len(of_source), sorted([*examples, *of_source])[:EXAMPLES]
            shared, root = _found(places, members, roots)
            if shared.any():
                rows = self._with_seen(
                    bucket, places[shared], concatenated([table.filter(pa.array(shared))], KEYED_SCHEMA)
                )
                columns = [pa.array(root[shared]), pa.array(places[shared]), *rows.columns]
                batch = pa.RecordBatch.from_arrays(columns, schema=MEMBER_SCHEMA)
                for part in range(self.parts):
                    picked[part].append(batch.filter(pa.array(root[shared] % self.parts == part)))
        for part, batches in enumerate(picked):
            if any(batch.num_rows for batch in batches):
                _write(self._picked_path(part, bucket), batches, MEMBER_SCHEMA)
        return Picked(left_out)

    def merge(self, part: int) -> Merged:
        """Merge one part of what `pick` took aside; the rows themselves are left in files."""
        paths = [path for path in (self._picked_path(part, bucket) for bucket in range(BUCKETS)) if path.exists()]
        found = merged(concatenated(map(_read, paths), MEMBER_SCHEMA))
        folder = self._merged_folder(part)
        folder.mkdir(exist_ok=True)
        with BucketWriter(folder) as writer:
            writer.write(found.rows)
        for path in paths:
            path.unlink()
        return replace(found, rows=found.rows.slice(0, 0))

    def sort(self, bucket: int, captioned: bool = False) -> Sorted:
        """All records of a bucket in order, in a file of SCHEMA; with ``captioned``, only those that have a caption."""
        members, out = self._load("members"), self._load("out")
        tables = [read_bucket(self._merged_folder(part), bucket) for part in range(self.parts)]
        for places, table in self.rows(bucket):
            alone = ~(_found(places, members)[0] | _found(places, out)[0])
            if not alone.all():
                places, table = places[alone], table.filter(pa.array(alone))
            rows = concatenated([table], KEYED_SCHEMA)
            tables.append(pa.Table.from_batches([self._with_seen(bucket, places, rows)]))
        rows = concatenated(tables, KEYED_SCHEMA)
        rows = rows.take(pa.array(np.argsort(np.asarray(rows.column("key")), kind="stable"))).select(SCHEMA.names)
        rows, bare = _captioned(rows) if captioned else (rows, ())
        done = Sorted(self.folder / f"sorted-{bucket:02d}.arrow", bare)
        sources = rows.column("source").dictionary_encode()
        codes, (_, lengths) = np.asarray(sources.indices), taken_apart(rows.column("captions"))
        for code, source in enumerate(sources.dictionary.to_pylist()):
            done.images[source] = int(np.count_nonzero(codes == code))
            done.captions[source] = int(lengths[codes == code].sum())
        _write(done.path, [rows], SCHEMA)
        return done

    def _with_seen(self, bucket: int, places: np.ndarray, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows with the keys that `look` found out; ``places``: their numbers."""
        path = self.seen_path(bucket)
        if not path.exists():
            return rows
        seen = _read(path)
        known, where = _found(places, seen.column("place").to_numpy(), np.arange(seen.num_rows))
        values, lengths = taken_apart(rows.column("keys"))
        lists, texts = [owners(lengths)], [values]
        for kind in ("sha256", "phash"):
            column = seen.column(kind).take(pa.array(where[known])).combine_chunks()
            stated = pc.not_equal(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
            lists.append(np.flatnonzero(known)[stated])
            texts.append(pc.binary_join_element_wise(f"{kind}:", column.filter(pa.array(stated)), ""))
        owner = np.concatenate(lists)
        order = np.argsort(owner, kind="stable")
        keys = put_together(pa.concat_arrays(texts).take(pa.array(order)), np.bincount(owner, minlength=len(lengths)))
        return rows.set_column(KEYED_SCHEMA.get_field_index("keys"), KEYED_SCHEMA.field("keys"), keys)

    # ---- files

    def seen_path(self, bucket: int) -> Path:
        return self.folder / f"seen-{bucket:02d}.arrow"

    def write_seen(self, bucket: int, seen: pa.RecordBatch) -> None:
        _write(self.seen_path(bucket), [seen], SEEN_SCHEMA)

    def read_seen(self, bucket: int) -> pa.Table:
        return _read(self.seen_path(bucket))

    def _picked_path(self, part: int, bucket: int) -> Path:
        return self.folder / f"picked-{part}-{bucket:02d}.arrow"

    def _merged_folder(self, part: int) -> Path:
        return self.folder / f"merged-{part}"


def _captioned(rows: pa.RecordBatch) -> tuple[pa.RecordBatch, tuple[RejectionCount, ...]]:
    has_one = pc.greater(pc.list_value_length(rows.column("captions")), 0)
    tally = Tally()
    for row in rows.filter(pc.invert(has_one)).select(["source", "image_id", "uri"]).to_pylist():
        tally.add(Rejection(row["source"], f"{row['image_id']}: {row['uri']}", "image without a caption"))
    return rows.filter(has_one), tally.counts()


def parts_for(members: int) -> int:
    """Into how many parts so many rows are cut before they are merged."""
    return members // _PART_ROWS + 1


def read_sorted(done: Sorted) -> pa.Table:
    """What `Assembly.sort` wrote."""
    return _read(done.path)


def _write(path: Path, batches: list[pa.RecordBatch], schema: pa.Schema) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as stored:
        return pa.ipc.open_stream(stored).read_all()


def _found(
    places: np.ndarray, ascending: np.ndarray, values: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``places`` are in ``ascending``, and the value of each one that is (of others, any)."""
    if not len(ascending):
        return np.zeros(len(places), bool), np.zeros(len(places), np.int64)
    at = np.minimum(np.searchsorted(ascending, places), len(ascending) - 1)
    return ascending[at] == places, at if values is None else values[at]
