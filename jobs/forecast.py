"""What a job would take: a small calibration on this machine, multiplied by what is missing. Nothing is written anywhere."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from expert_zoo.expert import Expert
from jobs.job import Job
from jobs.planning import open_or_plan, packs_of
from jobs.terminal import aligned, duration, size
from manifests.manifest import ManifestWriter
from manifests.record import ImageRecord, to_batch
from pipeline.choices import Pack
from pipeline.journal import Journal
from pipeline.labeller import Labeller
from pipeline.store import LabelStore, missing_cells

#: Photos labelled to measure; as many again are labelled first, so that no first call is measured.
CALIBRATION_PHOTOS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnForecast:
    """One column: what is missing, and what one image of it costs (worker seconds, stored bytes)."""

    column: str
    cells: int
    images: int
    seconds_per_image: float
    bytes_per_image: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The whole job. ``workers`` of this machine's kind; ``seconds`` and ``bytes`` for all that is missing."""

    columns: tuple[ColumnForecast, ...]
    images: int
    shards: int
    calibrated_on: int
    workers: int
    seconds: float
    bytes: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        table = [["expert", "cells missing", "images", "ms/image", "kB/image", "worker time", "size"]]
        for c in self.columns:
            cost = [duration(c.images * c.seconds_per_image), size(c.images * c.bytes_per_image)]
            each = [f"{1000 * c.seconds_per_image:.1f}", f"{c.bytes_per_image / 1000:.1f}"]
            table.append([c.column.split("@")[0], str(c.cells), str(c.images), *each, *cost])
        return [
            f"{self.images} images in {self.shards} shards; measured on {self.calibrated_on} of them, on this machine",
            *aligned(table),
            f"in all about {duration(self.seconds)} on {self.workers} worker(s) like this one, and {size(self.bytes)}",
        ]


def forecast(job: Job, say: Callable[[str], None]) -> Forecast:
    """Missing cells of the job, and their cost by calibration. A store that does not exist yet is planned aside and dropped."""
    experts = job.create_experts()
    with tempfile.TemporaryDirectory(prefix="expert-labels-") as folder:
        planned = open_or_plan(job, aside=str(Path(folder) / "store"))
        store = planned.store
        columns = [expert.card.column for expert in experts]
        missing = dict.fromkeys(columns, (0, 0))
        for shard, lacking in missing_cells(store, columns):
            for column in lacking:
                cells, images = missing[column]
                missing[column] = (cells + 1, images + len(shard))
        records = list(
            islice((r for shard in store.plan.shards() for r in store.records(shard)), 2 * CALIBRATION_PHOTOS)
        )
        say(f"calibrating {len(experts)} experts on {len(records)} photos")
        packs = packs_of(job, cpus=job.ray.cpus or os.cpu_count() or 1, gpus=_gpus())
        costs: dict[str, tuple[float, float]] = {}
        seconds = 0.0
        for pack in packs:
            names = {choice.name for choice in pack.experts}
            hosted = [expert for expert in experts if expert.card.name in names]
            costs |= _calibrate(pack, hosted, records, Path(folder) / pack.name)
            work = sum(missing[e.card.column][1] * costs[e.card.column][0] for e in hosted)
            seconds = max(seconds, work / pack.actors[1])  # the pools of the packs work at the same time
    found = tuple(
        ColumnForecast(
            column=c,
            cells=missing[c][0],
            images=missing[c][1],
            seconds_per_image=costs[c][0],
            bytes_per_image=costs[c][1],
        )
        for c in columns
    )
    return Forecast(
        columns=found,
        images=store.plan.images,
        shards=len(store.plan),
        calibrated_on=len(records) - len(records) // 2,
        workers=sum(pack.actors[1] for pack in packs),
        seconds=seconds,
        bytes=sum(c.images * c.bytes_per_image for c in found),
    )


def _calibrate(
    pack: Pack, experts: list[Expert], records: list[ImageRecord], folder: Path
) -> dict[str, tuple[float, float]]:
    """Column -> (worker seconds, bytes) per image: the pack's wall time, shared out by what each expert computed."""
    half = max(1, len(records) // 2)
    with ManifestWriter(str(folder / "manifest.parquet"), seed=0) as writer:
        writer.write(to_batch(records))
    store = LabelStore.create(str(folder / "store"), writer.manifest, shard_size=half)
    for expert in experts:
        expert.load("cuda:0" if pack.gpus else "cpu")
        store.add_column(expert.card)
    labeller = Labeller(store, experts, effort=pack.effort)
    columns = [expert.card.column for expert in experts]
    results, wall = [], 0.0
    for shard in store.plan.shards():  # the last one counts
        start = time.perf_counter()
        results = labeller.label(shard, columns, Journal(store.storage, "calibration", shard.name))
        wall = (time.perf_counter() - start) / len(shard)
    for expert in experts:
        expert.release()
    receipts = [result.receipt for result in results]
    computed = {r.column: max(r.seconds.compute, 1e-9) for r in receipts if r}
    costs = {}
    for result in results:
        share = computed.get(result.column, 0.0) / (sum(computed.values()) or 1.0)
        receipt = result.receipt
        stored = receipt.table.bytes + (receipt.tar.bytes if receipt.tar else 0) if receipt else 0
        costs[result.column] = (wall * share, stored / result.images)
    return costs


def _gpus() -> int:
    # As Ray does for a worker of one CPU; it counts only if it is set before torch is imported for the first time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    return torch.cuda.device_count()
