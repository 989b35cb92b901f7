"""A pack tried out on a few photos in a store that is thrown away: what `--dry-run` and `bench-expert` measure."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.manifest import ManifestWriter
from manifests.record import ImageRecord, to_batch
from pipeline.choices import Pack
from pipeline.filling import CellResult
from pipeline.journal import Journal
from pipeline.loading import load_pack
from pipeline.store import LabelStore


@dataclass(frozen=True, slots=True)
class Trial:
    """One shard labelled by one worker without a cluster: results of its cells, wall ``seconds`` and number of ``images``."""

    results: list[CellResult]
    seconds: float
    images: int


def try_out(
    pack: Pack, records: Sequence[ImageRecord], folder: Path, *, only: Collection[str] | None = None
) -> list[Trial]:
    """Labels ``records`` as two shards in an own store under ``folder``: the first one warms up, the second counts.

    ``only``: these experts of the pack, by name. Raises WorkerError where one cannot be loaded.
    """
    with ManifestWriter(str(folder / "manifest.parquet"), seed=0) as writer:
        writer.write(to_batch(list(records)))
    store = LabelStore.create(str(folder / "store"), writer.manifest, shard_size=max(1, len(records) // 2))
    labeller = load_pack(pack, store, only=only)
    columns = []
    for expert in labeller.experts:
        store.add_column(expert.card)
        columns.append(expert.card.column)
    trials = []
    for shard in store.plan.shards():
        start = time.perf_counter()
        results = labeller.label(shard, columns, Journal(store.storage, "trial", shard.name))
        trials.append(Trial(results, time.perf_counter() - start, len(shard)))
    for expert in labeller.experts:
        expert.release()
    return trials
