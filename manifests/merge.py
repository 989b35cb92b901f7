"""Several rows of one picture become one record, all groups of a table at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.buckets import KEYED_SCHEMA
from manifests.lists import first_of_each, kept, owners, put_together, taken_apart
from manifests.record import Rejection
from manifests.report import RejectionCount, Tally

#: Rows of pictures that have several, on their way: ``root`` is the first row of the picture, ``place`` the row's own number.
MEMBER_SCHEMA = pa.schema(
    [
        pa.field("root", pa.int64(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
        *KEYED_SCHEMA,
    ]
)


#: Two files of one source under one id: their names clash, and nothing says that they are one picture.
CLASH = "duplicate id, another record was kept"


@dataclass(frozen=True, slots=True)
class Merged:
    """``rows``: one of KEYED_SCHEMA for each picture. ``later``: how many rows of each source went into a row before them.
    ``clashes``: what was left out.
    """

    rows: pa.RecordBatch
    later: dict[str, int]
    clashes: tuple[RejectionCount, ...]


def merged(members: pa.RecordBatch) -> Merged:
    """One row for each root among ``members`` (of MEMBER_SCHEMA, any order).

    Id, source, URI and size are those of the first row, which is the one that the photo is read from; split and licence
    those of the first row that states one; captions and keys those of all, in order and without repeats.
    """
    members = members.take(
        pa.array(np.lexsort((np.asarray(members.column("place")), np.asarray(members.column("root")))))
    )
    clash, clashes = _clashes(members)
    if clash.any():
        members = members.filter(pa.array(~clash))
    roots = np.asarray(members.column("root"))
    new = np.concatenate([[True], roots[1:] != roots[:-1]]) if len(roots) else np.zeros(0, bool)
    starts = np.flatnonzero(new)
    groups = np.cumsum(new) - 1
    columns = []
    for field in KEYED_SCHEMA:
        column = members.column(field.name)
        if pa.types.is_list(field.type):
            columns.append(_united(column, groups, len(starts)))
        elif field.name in ("split", "license"):
            columns.append(column.take(pa.array(_first_stated(column, starts))))
        else:
            columns.append(column.take(pa.array(starts)))
    later = members.column("source").filter(pa.array(~new)).value_counts().to_pylist()
    return Merged(
        pa.RecordBatch.from_arrays(columns, schema=KEYED_SCHEMA),
        {found["values"]: found["counts"] for found in later},
        clashes,
    )


def _clashes(members: pa.RecordBatch) -> tuple[np.ndarray, tuple[RejectionCount, ...]]:
    """Which of ``members`` have the id of a row of the same source before them, and another URI."""
    source = np.asarray(members.column("source").dictionary_encode().indices)
    key, root = np.asarray(members.column("key")), np.asarray(members.column("root"))
    order = np.lexsort((source, key, root))  # rows of one group keep their order
    new = np.ones(len(order), bool)
    new[1:] = np.any([one[order][1:] != one[order][:-1] for one in (source, key, root)], axis=0)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(new)][np.cumsum(new) - 1]
    kept_uris = members.column("uri").take(pa.array(first))
    clash = pc.not_equal(members.column("uri"), kept_uris).to_numpy(zero_copy_only=False)
    tally = Tally()
    if clash.any():
        mask = pa.array(clash)
        columns = (members.column(name).filter(mask).to_pylist() for name in ("source", "image_id", "uri"))
        for name, image_id, uri, kept_uri in zip(*columns, kept_uris.filter(mask).to_pylist(), strict=True):
            tally.add(Rejection(name, f"{image_id}: {uri} (kept: {kept_uri})", CLASH))
    return clash, tally.counts()


def _united(column: pa.Array, groups: np.ndarray, count: int) -> pa.Array:
    values, lengths = taken_apart(column)
    group = groups[owners(lengths)]
    values, lengths = kept(values, np.bincount(group, minlength=count), first_of_each(values, group))
    return put_together(values, lengths)


def _first_stated(column: pa.Array, starts: np.ndarray) -> np.ndarray:
    """For each group the place of its first row that is not "", else of its first."""
    if not len(starts):
        return starts
    stated = pc.not_equal(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
    places = np.where(stated, np.arange(len(column)), len(column))
    first = np.minimum.reduceat(places, starts)
    return np.where(first < len(column), first, starts)
