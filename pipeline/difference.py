"""Difference: a store held against the manifest of what is asked for now. Which images are new, which are gone, which changed.

An image is the same if its id is the same, or else if it shares a key (`manifests.record`) with an image whose id is gone. Both
sides are streamed; what stays in memory is 8 bytes of hash for each id and 12 for each record, not the records.

Legend of shape suffixes: P places of the store (shard * shard_size + row), N rows of the input, K known images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.manifest import Manifest
from pipeline.errors import JobError, StoreError
from pipeline.growth import GROWTH, GrownPlan
from pipeline.hashes import Hashes, combined, hashes
from pipeline.store import LabelStore

#: What can differ between two records of one image. The bits of ``what_N``.
MOVED, RECAPTIONED, OTHERWISE = 1, 2, 4
_BITS = {"moved": MOVED, "with other captions": RECAPTIONED, "otherwise changed": OTHERWISE}
#: So many images of each kind are named.
SHOWN = 3
_ROWS = 32_768
_FIELDS = (("uri", "width", "height"), ("captions",), ("source", "split", "license"))


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """What taking over the input would do.

    place_N: where an image of the input stands in the store, -1 where it is new. what_N: what of its record differs from the
    store's as it is now. dropped_P: places of all images of the store that are not in the input, ascending; gone: those of
    them that are there now; restored: images that were dropped and are asked for again; renamed_N: which rows of the input
    stand in the store under another id, which they keep. captions_stay: other captions are not taken over, and do not count.
    ``examples``: some ids, by the words of `counts`.
    """

    images: int
    place_N: NDArray[np.int64]
    what_N: NDArray[np.uint8]
    dropped_P: NDArray[np.int64]
    gone: int
    restored: int
    renamed_N: NDArray[np.bool_]
    captions_stay: bool
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def new(self) -> int:
        return int((self.place_N < 0).sum())

    @property
    def counts(self) -> dict[str, int]:
        """Images of every kind, in the order in which they are told."""
        counts = {"new": self.new, "gone": self.gone, "restored": self.restored}
        return counts | {word: int((self.taken_N & bit > 0).sum()) for word, bit in _BITS.items()}

    @property
    def taken_N(self) -> NDArray[np.uint8]:
        """``what_N`` without what is not taken over."""
        return self.what_N & np.uint8(MOVED | OTHERWISE) if self.captions_stay else self.what_N

    @property
    def captions_left(self) -> int:
        """Images whose captions differ and stay as they are."""
        return int((self.what_N & RECAPTIONED > 0).sum()) if self.captions_stay else 0

    @property
    def nothing(self) -> bool:
        return not any(self.counts.values())

    def __str__(self) -> str:
        told = [
            f"{count:,} {word}{_such_as(self.examples.get(word, []))}" for word, count in self.counts.items() if count
        ]
        return "; ".join(told) or "no difference"


def _such_as(examples: list[str]) -> str:
    return f" ({', '.join(examples)}{', ...' if len(examples) >= SHOWN else ''})" if examples else ""


def keeps_captions(store: LabelStore) -> bool:
    """Whether captions of images in the store must stay: a column of kind score has a number for each of them, in order."""
    return any(card.spec.kind == "score" for card in store.columns().values())


def difference(store: LabelStore, manifest: Manifest) -> Difference:
    """Holds the images of ``store`` against those of ``manifest``. Reads both, and writes nothing.

    Raises StoreError where the store's records cannot be read, JobError for a manifest in which an id stands twice.
    """
    known = _Known(store)
    place_N = np.full(len(manifest), -1, np.int64)
    what_N = np.zeros(len(manifest), np.uint8)
    ids_N = np.empty(len(manifest), np.uint64)
    done = 0
    for batch in manifest.batches(_ROWS):
        rows = slice(done, done + batch.num_rows)
        ids_N[rows] = hashes(batch.column("image_id"))
        place_N[rows] = known.places(ids_N[rows])
        what_N[rows] = known.changes(place_N[rows], batch)
        done += batch.num_rows
    _check_ids(ids_N, manifest)
    del ids_N
    seen_P = np.zeros(len(known.there_P), bool)
    seen_P[place_N[place_N >= 0]] = True
    renamed_N = np.zeros(len(manifest), bool)
    if (place_N < 0).any() and (known.there_P & ~seen_P).any():
        _find_renamed(store, manifest, known, place_N, what_N, seen_P, renamed_N)
    before_P = _dropped_before(store)
    now_P = np.flatnonzero(known.there_P & ~seen_P)
    gone_P = np.setdiff1d(now_P, before_P, assume_unique=True)
    restored_P = np.setdiff1d(before_P, now_P, assume_unique=True)
    found = Difference(
        images=len(manifest),
        place_N=place_N,
        what_N=what_N,
        dropped_P=now_P,
        gone=len(gone_P),
        restored=len(restored_P),
        renamed_N=renamed_N,
        captions_stay=keeps_captions(store),
    )
    found.examples.update(_examples_of_store(store, gone=gone_P, restored=restored_P))
    found.examples.update(_examples_of_input(manifest, found))
    return found


class _Known:
    """The store's images: hashes of their ids to look places up by, and of their records as they are now, by place."""

    def __init__(self, store: LabelStore) -> None:
        places = len(store.plan) * store.plan.shard_size
        ids_P = np.zeros(places, np.uint64)
        self.there_P = np.zeros(places, bool)
        self.digests_P = [np.zeros(places, np.uint32) for _ in _FIELDS]
        for place, batch in stored_batches(store):
            to = slice(place, place + batch.num_rows)
            ids_P[to], self.there_P[to] = hashes(batch.column("image_id")), True
            for digest_P, found in zip(self.digests_P, _digests(batch), strict=True):
                digest_P[to] = found
        for places_C, batch in changed_batches(store):
            for digest_P, found in zip(self.digests_P, _digests(batch), strict=True):
                digest_P[places_C] = found
        self._places_K = np.flatnonzero(self.there_P)
        ids_K = ids_P[self._places_K]
        order_K = np.argsort(ids_K)
        self._ids_K, self._places_K = ids_K[order_K], self._places_K[order_K]

    def places(self, ids: Hashes) -> NDArray[np.int64]:
        """Where images with these ids stand, -1 for those that are not there."""
        order = np.argsort(ids)  # neighbours are found faster one after the other
        at = np.minimum(np.searchsorted(self._ids_K, ids[order]), len(self._ids_K) - 1)
        found = np.empty(len(ids), np.int64)
        found[order] = np.where(self._ids_K[at] == ids[order], self._places_K[at], -1)
        return found

    def changes(self, places: NDArray[np.int64], batch: pa.RecordBatch) -> NDArray[np.uint8]:
        """What of the records in ``batch`` differs from those at these places; nothing where the place is -1."""
        found = np.zeros(len(places), np.uint8)
        for bit, of_input, of_store in zip(_BITS.values(), _digests(batch), self.digests_P, strict=True):
            found[(places >= 0) & (of_input != of_store[places])] |= bit
        return found


def _digests(batch: pa.RecordBatch) -> list[NDArray[np.uint32]]:
    # Half of a hash: that a change goes unseen has a probability of 2**-32, for each image that did change.
    return [
        (combined(*(hashes(batch.column(name)) for name in names)) >> np.uint64(32)).astype(np.uint32)
        for names in _FIELDS
    ]


def _check_ids(ids_N: Hashes, manifest: Manifest) -> None:
    order = np.sort(ids_N)
    twice = order[1:][order[1:] == order[:-1]]
    if len(twice):
        for batch in manifest.batches(_ROWS):
            ids = batch.column("image_id").filter(pa.array(np.isin(hashes(batch.column("image_id")), twice[:1])))
            if len(ids):
                raise JobError(
                    f"{manifest.url}: the image id {ids[0]} stands there twice; expected each once: build it again"
                )


def _dropped_before(store: LabelStore) -> NDArray[np.int64]:
    return store.plan.dropped_D if isinstance(store.plan, GrownPlan) else np.zeros(0, np.int64)


# ---- the same image under another id


def _find_renamed(
    store: LabelStore,
    manifest: Manifest,
    known: _Known,
    place_N: NDArray[np.int64],
    what_N: NDArray[np.uint8],
    seen_P: NDArray[np.bool_],
    renamed_N: NDArray[np.bool_],
) -> None:
    """Gives new images that share a key with one that is missing in the input the place of that one, in the arrays."""
    missing_P = known.there_P & ~seen_P
    keys, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for place, batch in stored_batches(store, ["keys"]):
        rows = np.flatnonzero(missing_P[place : place + batch.num_rows])
        if len(rows):
            lists = batch.column("keys").take(pa.array(rows))
            keys.append(hashes(pc.list_flatten(lists)))
            places.append(place + rows[pc.list_parent_indices(lists).to_numpy()])
    key_G, place_G = np.concatenate(keys), np.concatenate(places)
    order = np.argsort(key_G, kind="stable")
    key_G, place_G = key_G[order], place_G[order]
    done = 0
    for batch in manifest.batches(_ROWS) if len(key_G) else ():
        of_batch = place_N[done : done + batch.num_rows]
        rows = np.flatnonzero(of_batch < 0)
        lists = batch.column("keys").take(pa.array(rows))
        found = hashes(pc.list_flatten(lists))
        at = np.minimum(np.searchsorted(key_G, found), len(key_G) - 1)
        parents = rows[pc.list_parent_indices(lists).to_numpy()]
        taken = np.full(batch.num_rows, -1, np.int64)
        for n in np.flatnonzero(key_G[at] == found).tolist():
            row, place = int(parents[n]), int(place_G[at[n]])
            if taken[row] < 0 and not seen_P[place]:
                taken[row], seen_P[place] = place, True
        rows = np.flatnonzero(taken >= 0)
        if len(rows):
            of_batch[rows] = taken[rows]
            what_N[done : done + batch.num_rows] |= known.changes(taken, batch)
            renamed_N[done + rows] = True
        done += batch.num_rows


# ---- examples


def _examples_of_store(store: LabelStore, **places: NDArray[np.int64]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word, places_P in places.items():
        for place in places_P[:SHOWN].tolist():
            index, row = divmod(place, store.plan.shard_size)
            record = store.records(store.plan.shard(index), dropped=True)[row]
            found.setdefault(word, []).append(record.image_id)
    return found


def _examples_of_input(manifest: Manifest, found: Difference) -> dict[str, list[str]]:
    wanted = {"new": np.flatnonzero(found.place_N < 0)[:SHOWN]}
    wanted |= {word: np.flatnonzero(found.taken_N & bit)[:SHOWN] for word, bit in _BITS.items()}
    rows = np.unique(np.concatenate(list(wanted.values())))
    ids: dict[int, str] = {}
    done = 0
    for batch in manifest.batches(_ROWS):
        if len(ids) == len(rows):
            break
        here = rows[(rows >= done) & (rows < done + batch.num_rows)]
        ids |= dict(zip(here.tolist(), batch.column("image_id").take(pa.array(here - done)).to_pylist(), strict=True))
        done += batch.num_rows
    return {word: [ids[row] for row in few.tolist()] for word, few in wanted.items() if len(few)}


# ---- the store's records, streamed


def stored_batches(store: LabelStore, columns: list[str] | None = None) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The records of the parts' manifests with the place of the first of each batch; dropped and changed ones as they were."""
    for part in store.plan.parts:
        place = part.first * store.plan.shard_size
        for batch in _batches(store, part.file, columns):
            yield place, batch
            place += batch.num_rows


def changed_batches(store: LabelStore) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
    """The records that stand in place of others now, with their places."""
    changed = store.plan.changed if isinstance(store.plan, GrownPlan) else None
    if changed is not None:
        for batch in _batches(store, f"{GROWTH}/{changed.name}", None):
            shards, rows = (batch.column(name).to_numpy().astype(np.int64) for name in ("shard", "row"))
            yield shards * store.plan.shard_size + rows, batch


def _batches(store: LabelStore, name: str, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    try:
        with store.storage.open(name) as stream:
            file = pq.ParquetFile(stream)
            names = [column for column in file.schema_arrow.names if columns is None or column in columns]
            if not names:
                return  # keys, of which a manifest of format 1 knows nothing
            yield from file.iter_batches(batch_size=_ROWS, columns=names, use_threads=False)
    except (FileNotFoundError, ValueError, OSError) as error:
        raise StoreError(f"cannot read {store.storage.url}/{name}: {error}; restore it") from error
