"""What a job would take: a small calibration on this machine, multiplied by what is missing. Nothing is written anywhere."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from jobs.costing import Costs, ExpertCost
from jobs.job import Job
from jobs.planning import open_or_plan, packs_of
from jobs.terminal import duration
from jobs.trial import try_out
from manifests.record import ImageRecord
from pipeline.choices import Pack
from pipeline.errors import JobError
from pipeline.lacking import missing_cells
from pipeline.store import LabelStore

#: Photos labelled to measure; as many again are labelled first, so that no first call is measured.
CALIBRATION_PHOTOS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The whole job. ``workers`` of this machine's kind; ``seconds`` and ``costs`` for all that is missing."""

    costs: Costs
    images: int
    shards: int
    workers: int
    seconds: float

    def of(self, *, images: int | None, price: float | None) -> Costs:
        """The same with a ``price`` of an hour; for so many ``images``, else for those that are missing. Raises JobError."""
        if images is None:
            return replace(self.costs, price=price)
        if not self.costs.experts:
            raise JobError(
                "the job's store lacks nothing, so nothing was measured; `expert-labels forecast STORE --images` tells from its "
                "receipts"
            )
        return Costs(experts=tuple(cost.for_images(images) for cost in self.costs.experts), price=price)

    def to_json(self) -> dict[str, Any]:
        grid = {"images": self.images, "shards": self.shards, "workers": self.workers, "seconds": self.seconds}
        return grid | self.costs.to_json()

    def lines(self) -> list[str]:
        grid = f"{self.images} images in {self.shards} shard(s)"
        if not self.costs.experts:
            return [f"{grid}; nothing is missing"]
        return [
            f"{grid}; measured on {self.costs.experts[0].measured_on} of them, on this machine",
            *self.costs.lines(),
            f"in all about {duration(self.seconds)} on {self.workers} worker(s) like this one",
        ]


def forecast(job: Job, say: Callable[[str], None]) -> Forecast:
    """Missing cells of the job, and their cost by calibration. A store that does not exist yet is planned aside and dropped."""
    experts = job.create_experts()
    with tempfile.TemporaryDirectory(prefix="expert-labels-") as folder:
        store = open_or_plan(job, aside=str(Path(folder) / "store"), say=say).store
        missing = _missing(store, [expert.card.column for expert in experts])
        records = list(islice((r for s in store.plan.shards() for r in store.records(s)), 2 * CALIBRATION_PHOTOS))
        wanted = {expert.card.name for expert in experts if expert.card.column in missing}
        costs: list[ExpertCost] = []
        seconds, workers = 0.0, 0
        if wanted:
            say(f"calibrating {len(wanted)} expert(s) on {len(records)} photos")
            for pack in packs_of(job, cpus=job.ray.cpus or os.cpu_count() or 1, gpus=_gpus()):
                hosted = wanted & {choice.name for choice in pack.experts}
                if hosted:
                    found = _calibrate(pack, hosted, records, missing, Path(folder) / pack.name, say)
                    busy = min(pack.actors[1], max(missing[cost.column][0] for cost in found))
                    # The pools of the packs work at the same time: the slowest one decides.
                    seconds = max(seconds, sum(c.images * c.seconds_per_image for c in found) / busy)
                    workers += busy
                    costs += found
    return Forecast(
        costs=Costs(experts=tuple(costs)),
        images=store.plan.images,
        shards=len(store.plan),
        workers=workers,
        seconds=seconds,
    )


def _missing(store: LabelStore, columns: list[str]) -> dict[str, tuple[int, int]]:
    """(cells, images) that each column lacks; columns that lack nothing are left out."""
    missing: dict[str, tuple[int, int]] = {}
    for shard, lacking in missing_cells(store, columns):
        for column in lacking:
            cells, images = missing.get(column, (0, 0))
            missing[column] = (cells + 1, images + len(shard))
    return missing


def _calibrate(
    pack: Pack,
    names: set[str],
    records: list[ImageRecord],
    missing: dict[str, tuple[int, int]],
    folder: Path,
    say: Callable[[str], None],
) -> list[ExpertCost]:
    """What one image costs: the pack's wall time on one worker, shared out by what each expert computed."""
    # Whoever reads what another one says needs that one beside it here, where nothing is committed yet.
    experts = [choice.create() for choice in pack.experts if choice.name in names]
    read = {column.partition("@")[0] for expert in experts for column in expert.reads}
    last = try_out(pack, records, folder, only=names | read)[-1]
    wall = last.seconds / last.images
    computed = sum(result.seconds.compute for result in last.results) or 1.0
    costs = []
    for result in last.results:
        if result.column not in missing:
            continue
        if result.refused:
            say(f"{result.refused}; its numbers below are of failing, and mean nothing")
        stored = result.receipt.stored if result.receipt else 0
        cells, images = missing[result.column]
        costs.append(
            ExpertCost(
                column=result.column,
                cells=cells,
                images=images,
                seconds_per_image=wall * result.seconds.compute / computed,
                bytes_per_image=stored / result.images,
                gpus=pack.gpus,
                measured_on=last.images,
            )
        )
    return costs


def _gpus() -> int:
    # As Ray does for a worker of one CPU; it counts only if it is set before torch is imported for the first time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    return torch.cuda.device_count()
