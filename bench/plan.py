"""Planning: a manifest of a million records built, shuffled, and cut into the shards of a new store.

    python -m bench.plan --records 1000000

It runs in a process of its own, whose peak memory is the figure; the records are made on the fly, so their source takes none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from bench.report import Figure, Part, peak_memory, run_alone
from manifests.build import build
from manifests.record import ImageRecord, Rejection, batched
from pipeline.plan import SHARD_SIZE
from pipeline.store import LabelStore

GOAL_SECONDS = 20.0
GOAL_GB = 1.0


class Synthetic:
    """``count`` records as those of a web data set: an id, a URL, one caption of ten words."""

    name = "synthetic"

    def __init__(self, *, count: int) -> None:
        self._count = count

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        return batched(self._records())

    def _records(self) -> Iterator[ImageRecord]:
        for number in range(self._count):
            yield ImageRecord(
                image_id=f"synthetic-{number:09d}",
                source=self.name,
                uri=f"https://pictures.example.org/{number % 4099:04d}/{number:09d}.jpg",
                width=640,
                height=480,
                captions=(f"a photo of thing {number % 997} beside thing {number % 991} on a table",),
                split="train",
            )


def plan_once(folder: Path, records: int) -> dict[str, float]:
    """Seconds of both steps, and this process's peak memory before and after in bytes."""
    before = peak_memory()
    start = time.perf_counter()
    for _ in Synthetic(count=records).batches():
        pass
    making = time.perf_counter() - start
    start = time.perf_counter()
    report = build([Synthetic(count=records)], str(folder / "manifest.parquet"), seed=1)
    building = time.perf_counter() - start
    start = time.perf_counter()
    store = LabelStore.create(str(folder / "store"), report.manifest, shard_size=SHARD_SIZE)
    cutting = time.perf_counter() - start
    assert store.plan.images == records, f"{store.plan.images} of {records} records planned"
    return {"making": making, "building": building, "cutting": cutting, "before": before, "peak": peak_memory()}


def measure(arguments: argparse.Namespace) -> Part:
    """One build and one cut, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        code = f"import json, bench.plan as p; print(json.dumps(p.plan_once(p.Path({folder!r}), {arguments.records})))"
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    seconds, peak = found["building"] + found["cutting"], found["peak"] / 1e9
    how = (
        f"{arguments.records:,} synthetic records with one caption each, made on the fly; `manifests.build.build`, then "
        f"`LabelStore.create` with shards of {SHARD_SIZE}."
    )
    return Part(
        title="Planning",
        how=how,
        figures=[
            Figure(name="build and cut", value=seconds, unit="s", goal="below 20", met=seconds < GOAL_SECONDS),
            Figure(name="of which build", value=found["building"], unit="s"),
            Figure(name="of which cut", value=found["cutting"], unit="s"),
            Figure(name="making the records alone, within build", value=found["making"], unit="s"),
            Figure(name="peak memory", value=peak, unit="GB", goal="below 1", met=peak < GOAL_GB),
            Figure(name="of which the imports", value=found["before"] / 1e9, unit="GB"),
        ],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=1_000_000)


if __name__ == "__main__":
    run_alone(measure, add_arguments, __doc__ or "")
