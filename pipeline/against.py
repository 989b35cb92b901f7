"""Agreement of a store's columns with its truth columns: what `audit --against PREFIX` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pydantic import BaseModel, ConfigDict

from expert_zoo.card import ExpertCard
from pipeline.agreement import Comparison, compare
from pipeline.cell import CellReader
from pipeline.errors import DamagedCell, StoreError
from pipeline.plan import Shard
from pipeline.store import LabelStore

#: Called with (shards done, shards in all).
Progress = Callable[[int, int], None]


class AgreementRow(BaseModel):
    """One column against one truth. ``headline``: the name of the metric to show alone; ``metrics``: see pipeline.agreement."""

    model_config = ConfigDict(frozen=True)

    column: str
    truth: str
    quantity: str
    headline: str
    higher_is_better: bool
    metrics: dict[str, float]


def agreement(
    store: LabelStore, prefix: str, *, columns: Sequence[str] | None = None, progress: Progress | None = None
) -> list[AgreementRow]:
    """Every column named ``<prefix>_...`` against all other columns (or ``columns``) that measure the same quantity.

    Shards whose truth is not committed are left out; there, a column's missing cell counts as ``without_label``. Rows are
    sorted by truth, then column. Raises StoreError where no column has the prefix, or no other column is comparable with
    it; DamagedCell where a cell cannot be read.
    """
    cards = store.columns()
    start = f"{prefix.removesuffix('_')}_"
    truths = [card for card in cards.values() if card.name.startswith(start)]
    if not truths:
        raise StoreError(f"{store.storage.url} has no column {start}...; it has {', '.join(cards) or 'none yet'}")
    if columns is None:
        judged = [card for card in cards.values() if card not in truths]
    else:
        judged = [cards[store.column_of(name)] for name in columns]
    pairs = _pairs(judged, truths)
    if not pairs:
        raise StoreError(
            f"{store.storage.url}: {', '.join(c.column for c in judged) or 'no column'} cannot be compared with "
            f"{', '.join(c.column for c in truths)}; label with experts that measure the same quantity"
        )
    committed = {card.column: store.committed(card.column) for pair in pairs for card in pair[:2]}
    for shard in store.plan.shards():
        here = [pair for pair in pairs if shard.index in committed[pair[1].column]]
        if here and len(shard):
            _compare_shard(store, shard, here, committed)
        if progress is not None:
            progress(shard.index + 1, len(store.plan))
    return [
        AgreementRow(
            column=card.column,
            truth=truth.column,
            quantity=truth.spec.quantity,
            headline=comparison.headline.metric,
            higher_is_better=comparison.headline.higher_is_better,
            metrics=comparison.result(),
        )
        for card, truth, comparison in pairs
    ]


Pair = tuple[ExpertCard, ExpertCard, Comparison]


def _pairs(judged: Sequence[ExpertCard], truths: Sequence[ExpertCard]) -> list[Pair]:
    pairs: list[Pair] = []
    for truth in truths:
        for card in judged:
            try:
                pairs.append((card, truth, compare(card.spec, truth.spec)))
            except ValueError:
                continue  # another quantity, or the same one in another world: not a pair
    return pairs


def _compare_shard(store: LabelStore, shard: Shard, pairs: list[Pair], committed: dict[str, set[int]]) -> None:
    """Every cell is opened once and every label decoded once, whatever the number of pairs."""
    with ExitStack() as stack:
        cells: dict[str, CellReader] = {}
        for column in sorted({card.column for pair in pairs for card in pair[:2]}):
            if shard.index in committed[column]:
                cells[column] = stack.enter_context(store.read(column, shard))
                if len(cells[column].rows) != len(shard):
                    raise DamagedCell(
                        f"cell {column}/{shard.name} has {len(cells[column].rows)} rows for {len(shard)} images; "
                        "`expert-labels audit --deep --repair` takes it back"
                    )
        for index in range(len(shard)):
            rows = {column: cell.rows[index] for column, cell in cells.items()}
            labels = {column: cells[column].label(row) for column, row in rows.items()}
            for card, truth, comparison in pairs:
                row = rows[truth.column]
                # An unreadable photo has no size, and no label that could be compared.
                height, width = row["height"] or 0, row["width"] or 0
                comparison.add(labels.get(card.column), labels[truth.column], height, width)
