"""LabelReader: committed cells back as Samples, one image with the labels of the asked-for experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from expert_zoo.card import ExpertCard
from expert_zoo.labels import Label
from manifests.record import ImageRecord
from pipeline.errors import DamagedCell, StoreError
from pipeline.plan import Shard
from pipeline.store import LabelStore


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image: its record, the upright size that experts saw (None where no expert could read it), and its labels.

    ``labels``: by expert name. An expert whose cell is not committed is absent from it: absence is not a value.
    """

    record: ImageRecord
    labels: dict[str, Label]
    height: int | None
    width: int | None


class LabelReader:
    """Reads ``columns`` (expert names or ``expert@version``; default: all) of a store, shard after shard.

    Raises StoreError for a column that is not there, or when two versions of one expert would share a name.
    """

    def __init__(self, store: LabelStore, columns: Sequence[str] | None = None) -> None:
        self.store = store
        chosen = [store.column_of(name) for name in columns] if columns is not None else list(store.columns())
        self.cards: dict[str, ExpertCard] = {}
        for column in chosen:
            card = store.card(column)
            if card.name in self.cards and self.cards[card.name].column != column:
                both = f"{self.cards[card.name].column} and {column}"
                raise StoreError(f"{store.storage.url} has {both}; name the one to read as expert@version (--column)")
            self.cards[card.name] = card
        self._committed = {name: store.committed(card.column) for name, card in self.cards.items()}

    def samples(self, shards: Sequence[Shard] | None = None) -> Iterator[Sample]:
        """Samples in manifest order. Raises DamagedCell where a cell's rows are not those of its shard."""
        for shard in shards if shards is not None else self.store.plan.shards():
            yield from self._shard(shard)

    def _shard(self, shard: Shard) -> Iterator[Sample]:
        records = self.store.records(shard)
        with ExitStack() as stack:
            cells = {
                name: stack.enter_context(self.store.read(card.column, shard))
                for name, card in self.cards.items()
                if shard.index in self._committed[name]
            }
            for name, cell in cells.items():
                if [row["image_id"] for row in cell.rows] != [record.image_id for record in records]:
                    raise DamagedCell(
                        f"cell {self.cards[name].column}/{shard.name} does not hold the images of its shard"
                    )
            for index, record in enumerate(records):
                rows = {name: cell.rows[index] for name, cell in cells.items()}
                labels = {name: cells[name].label(row) for name, row in rows.items()}
                sizes = [(row["height"], row["width"]) for row in rows.values() if row["height"] is not None]
                height, width = sizes[0] if sizes else (None, None)
                yield Sample(record, labels, height, width)
