"""LabelReader: committed cells back as Samples, one image with the labels of the asked-for experts, in any order."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from expert_zoo.card import ExpertCard
from expert_zoo.labels import Label
from manifests.record import ImageRecord
from pipeline.cell import CellReader
from pipeline.errors import DamagedCell, StoreError
from pipeline.plan import Shard
from pipeline.storage import RemoteStorage, Storage, open_storage
from pipeline.storage.cache import FileCache
from pipeline.storage.views import Cached, Scattered
from pipeline.store import LabelStore


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image: its record, the upright size that experts saw (None where no expert could read it), and its labels.

    ``labels``: by expert name, or by column (``expert@version``) where two versions of the expert are read. An expert whose cell
    is not committed is absent from it: absence is not a value.
    """

    record: ImageRecord
    labels: dict[str, Label]
    height: int | None
    width: int | None


class OpenShard:
    """One shard's images, and its committed cells by expert name. What is read of an image is read when it is asked for."""

    def __init__(self, records: list[ImageRecord], cells: dict[str, CellReader]) -> None:
        self.records = records
        self.cells = cells

    def rows(self, row: int) -> dict[str, dict[str, Any]]:
        """The image's row in every cell, by expert name."""
        return {name: cell.row(row) for name, cell in self.cells.items()}

    def sample(self, row: int) -> Sample:
        """Raises DamagedCell where a cell's files are not what its receipt promises."""
        rows = self.rows(row)
        labels = {name: self.cells[name].label(found) for name, found in rows.items()}
        height, width = size_of(rows) or (None, None)
        return Sample(self.records[row], labels, height, width)

    def close(self) -> None:
        for cell in self.cells.values():
            cell.close()


def size_of(rows: dict[str, dict[str, Any]]) -> tuple[int, int] | None:
    """(height, width) of the upright photo, as its rows in any cells tell it; None where no expert could read it."""
    sizes = [(row["height"], row["width"]) for row in rows.values() if row["height"] is not None]
    return sizes[0] if sizes else None


def _check_versions(store: LabelStore, columns: Sequence[str]) -> None:
    by_name: dict[str, str] = {}
    for column in columns:
        other = by_name.setdefault(column.split("@")[0], column)
        if other != column:
            raise StoreError(
                f"{store.storage.url} has {other} and {column}; name the one to read as expert@version (--column), or both"
            )


class LabelReader:
    """Reads ``columns`` (expert names or ``expert@version``; default: all that have a committed cell) of a store.

    Labels go by the expert's name; where two versions of one expert are asked for as ``expert@version``, by that.
    cache: where the shards of a remote store come to first; without one, every member is a request of its own. Of a local store
        nothing is ever copied.
    keep_open: shards that stay open, the last used ones; each is two files per column.

    A reader may be pickled, and used in a process that was forked: there it opens its files anew. It is not thread-safe but for
    `fetch`. Raises StoreError for a column that is not there, or when two versions of one expert are there and none is named.
    """

    def __init__(
        self,
        store: LabelStore,
        columns: Sequence[str] | None = None,
        *,
        cache: FileCache | None = None,
        keep_open: int = 1,
    ) -> None:
        self.plan = store.plan
        self.cache = cache
        self.keep_open = keep_open
        found = store.columns()
        if columns is None:
            chosen = [column for column in found if store.committed(column)]
            _check_versions(store, chosen)
        else:
            chosen = list(dict.fromkeys(store.column_of(name) for name in columns))
        names = [found[column].name for column in chosen]
        self.cards: dict[str, ExpertCard] = {
            name if names.count(name) == 1 else column: found[column]
            for name, column in zip(names, chosen, strict=True)
        }
        self.committed = {name: store.committed(card.column) for name, card in self.cards.items()}
        self._start(store.storage)

    def _start(self, storage: Storage) -> None:
        if isinstance(storage, RemoteStorage):
            storage = Cached(storage, self.cache) if self.cache else Scattered(storage)
        self.store = LabelStore(storage, self.plan)
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._process = os.getpid()

    def samples(self, shards: Sequence[Shard] | None = None) -> Iterator[Sample]:
        """Samples in manifest order. Raises DamagedCell where a cell's rows are not those of its shard."""
        for shard in shards if shards is not None else self.plan.shards():
            for row in range(len(shard)):
                yield self.sample(shard, row)

    def sample(self, shard: Shard, row: int) -> Sample:
        """The image in ``row`` (from 0) of ``shard``. DamagedCell as `samples`."""
        return self.open(shard).sample(row)

    def open(self, shard: Shard) -> OpenShard:
        """The shard, opened now or still open. DamagedCell where a cell's rows are not those of its shard."""
        if self._process != os.getpid():
            # A forked process shares its parent's files, positions included, and must not share its connections.
            self._start(open_storage(self.store.storage.url))
        if shard.index in self._open:
            self._open.move_to_end(shard.index)
            return self._open[shard.index]
        while len(self._open) >= self.keep_open:
            self._open.popitem(last=False)[1].close()
        self._open[shard.index] = self._opened(shard)
        return self._open[shard.index]

    def _opened(self, shard: Shard) -> OpenShard:
        records = self.store.records(shard)
        image_ids = pa.array([record.image_id for record in records], pa.string())
        with ExitStack() as stack:
            cells = {
                name: stack.enter_context(self.store.read(card.column, shard))
                for name, card in self.cards.items()
                if shard.index in self.committed[name]
            }
            for name, cell in cells.items():
                if not cell.has_images(image_ids):
                    raise DamagedCell(
                        f"cell {self.cards[name].column}/{shard.name} does not hold the images of its shard"
                    )
            stack.pop_all()
        return OpenShard(records, cells)

    def fetch(self, shard: Shard) -> int:
        """Brings the shard's files to the cache, for a later `open` by any process; how many bytes they are. Thread-safe.

        Without a cache, or of a local store, it does nothing.
        """
        storage = self.store.storage
        total = 0
        if isinstance(storage, Cached):
            for name, card in self.cards.items():
                if shard.index in self.committed[name]:
                    receipt = self.store.receipt(card.column, shard)
                    for entry in filter(None, (receipt.table, receipt.tar)):
                        storage.cache.fetch(storage.remote, f"{self.store.folder(card.column)}/{entry.name}")
                        total += entry.bytes
        return total

    def close(self) -> None:
        """Closes what is open; the reader may go on to be used."""
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name not in ("store", "_open", "_process")}
        return state | {"url": self.store.storage.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        url = state.pop("url")
        vars(self).update(state)
        self._start(open_storage(url))
