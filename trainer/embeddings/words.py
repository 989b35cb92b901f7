"""The words that were read on the photos of a store, each once: what there must be a vector for."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expert_zoo.card import ExpertCard
from pipeline.errors import DamagedCell
from pipeline.store import LabelStore
from trainer.embeddings.table import key_of

#: (shards read so far, shards in all)
Progress = Callable[[int, int], None]


def words_of(store: LabelStore, card: ExpertCard, *, progress: Progress | None = None) -> list[str]:
    """All words of a column's committed shards, as `key_of` writes them, sorted. Reads one field of the Parquet files.

    Raises DamagedCell where a file is not what its receipt promises.
    """
    assert card.spec.kind == "words"
    committed = sorted(store.committed(card.column))
    found: set[str] = set()
    for done, index in enumerate(committed, start=1):
        shard = store.plan.shard(index)
        name = f"{store.folder(card.column)}/{store.receipt(card.column, shard).table.name}"
        try:
            with store.storage.open(name) as stream:
                texts = pq.read_table(stream, columns=["texts"]).column("texts")
        except (FileNotFoundError, ValueError, OSError) as error:
            raise DamagedCell(
                f"cell {card.column}/{shard.name}: {error}; `expert-labels audit --repair` takes it back"
            ) from error
        found.update(word for word in pc.unique(pc.list_flatten(_in_one_piece(texts))).to_pylist())
        if progress is not None:
            progress(done, len(committed))
    return sorted({key for word in found if (key := key_of(word))})


def _in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
