"""A store of millions of images planned, held against another input, and grown; each step in a process of its own.

    python -m bench.growing --grown 11000000

The input of the growth lacks every hundredth image, has moved every hundred-and-first, and brings a twentieth of new ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.report import Figure, Part, peak_memory, run_alone
from manifests.manifest import Manifest, ManifestWriter
from manifests.record import SCHEMA
from pipeline.difference import difference
from pipeline.growing import grow
from pipeline.plan import SHARD_SIZE
from pipeline.status import status
from pipeline.store import LabelStore

GOAL_PLAN = 60.0
_ROWS = 32_768
GONE, MOVED, NEW = 100, 101, 20


def batches(numbers: Iterator[np.ndarray], folder: str) -> Iterator[pa.RecordBatch]:
    """Records as those of a web data set: an id, a URL, one caption of ten words, one key."""
    for number in numbers:
        text = pc.utf8_lpad(pa.array(number).cast(pa.string()), 9, "0")
        places = np.where(number % MOVED == 0, folder, "a")

        def joined(*parts: object, count: int = len(number)) -> pa.Array:
            columns = [pa.array([part] * count) if isinstance(part, str) else part for part in parts]
            return pc.binary_join_element_wise(*columns, "")

        captions = joined("a photo of thing ", text, " beside some other thing on a wooden table")
        ones = pa.array(np.arange(len(number) + 1, dtype=np.int32))
        columns = {
            "image_id": joined("synthetic-", text),
            "source": pa.array(["synthetic"] * len(number)),
            "uri": joined("https://pictures.example.org/", pa.array(places), "/", text, ".jpg"),
            "width": pa.array(np.full(len(number), 640, np.int32)),
            "height": pa.array(np.full(len(number), 480, np.int32)),
            "captions": pa.ListArray.from_arrays(ones, captions),
            "split": pa.array(["train"] * len(number)),
            "license": pa.array([""] * len(number)),
            "keys": pa.ListArray.from_arrays(ones, joined("url:0123456", text)),
        }
        arrays = [columns[field.name].cast(field.type) for field in SCHEMA]
        yield pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def write(url: Path, records: int, *, later: bool) -> None:
    """The first input, or the one of the growth."""
    numbers = np.arange(records + (records // NEW if later else 0))
    if later:
        numbers = numbers[(numbers % GONE != 0) | (numbers >= records)]
    pieces = (numbers[at : at + _ROWS] for at in range(0, len(numbers), _ROWS))
    with ManifestWriter(str(url), seed=0) as writer:
        for batch in batches(pieces, "b" if later else "a"):
            writer.write(batch)


def step_plan(folder: Path) -> Callable[[], object]:
    manifest = Manifest.open(str(folder / "first.parquet"))
    return lambda: len(LabelStore.create(str(folder / "store"), manifest, shard_size=SHARD_SIZE).plan)


def step_difference(folder: Path) -> Callable[[], object]:
    store, manifest = LabelStore.open(str(folder / "store")), Manifest.open(str(folder / "later.parquet"))
    return lambda: difference(store, manifest).counts


def step_grow(folder: Path) -> Callable[[], object]:
    store, manifest = LabelStore.open(str(folder / "store")), Manifest.open(str(folder / "later.parquet"))
    found = difference(store, manifest)
    return lambda: grow(store, manifest, found).plan.images


def step_open(folder: Path) -> Callable[[], object]:
    return lambda: LabelStore.open(str(folder / "store")).plan.images


def step_status(folder: Path) -> Callable[[], object]:
    return lambda: status(LabelStore.open(str(folder / "store"))).images


def step_records(folder: Path) -> Callable[[], object]:
    store = LabelStore.open(str(folder / "store"))
    store.records(store.plan.shard(0))
    some = [number * len(store.plan) // 100 for number in range(100)]
    return lambda: sum(len(store.records(store.plan.shard(index))) for index in some)


STEPS = {
    "plan": step_plan,
    "difference": step_difference,
    "grow": step_grow,
    "open": step_open,
    "status": step_status,
    "records": step_records,
}


def timed(step: str, folder: Path) -> dict[str, object]:
    """Seconds of one step, what it says, and this process's peak memory before and after in bytes."""
    prepared = STEPS[step](folder)
    before = peak_memory()
    start = time.perf_counter()
    said = prepared()
    return {"seconds": time.perf_counter() - start, "said": said, "before": before, "peak": peak_memory()}


def measure(arguments: argparse.Namespace) -> Part:
    """All steps, one after the other."""
    records = arguments.grown
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        write(Path(folder) / "first.parquet", records, later=False)
        write(Path(folder) / "later.parquet", records, later=True)
        found = {}
        for step in STEPS:
            code = f"import json, pathlib, bench.growing as g; print(json.dumps(g.timed({step!r}, pathlib.Path({folder!r}))))"
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
            found[step] = json.loads(done.stdout)
    counts = found["difference"]["said"]
    assert (counts["gone"], counts["new"]) == (-(-records // GONE), records // NEW), counts
    assert found["open"]["said"] == records + counts["new"] - counts["gone"], found["open"]
    planning = found["plan"]["seconds"]
    how = (
        f"{records:,} records with one caption and one key each, in shards of {SHARD_SIZE}; then an input that lacks every "
        f"{GONE}th, has moved every {MOVED}st and brings {counts['new']:,} new ones. `LabelStore.create`, `difference`, `grow` "
        "after it, each in its own process; the manifests were written before."
    )
    return Part(
        title="Planning and growing",
        how=how,
        figures=[
            Figure(name="plan", value=planning, unit="s", goal="below 60", met=planning < GOAL_PLAN),
            Figure(name="plan, peak memory", value=found["plan"]["peak"] / 1e9, unit="GB"),
            Figure(name="difference", value=found["difference"]["seconds"], unit="s"),
            Figure(name="difference, peak memory", value=found["difference"]["peak"] / 1e9, unit="GB"),
            Figure(name="grow, after the difference", value=found["grow"]["seconds"], unit="s"),
            Figure(name="difference and grow, peak memory", value=found["grow"]["peak"] / 1e9, unit="GB"),
            Figure(name="of which the imports", value=found["plan"]["before"] / 1e9, unit="GB"),
            Figure(name="open the grown store", value=found["open"]["seconds"], unit="s"),
            Figure(name="records of a shard of it", value=10 * found["records"]["seconds"], unit="ms"),
        ],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grown", type=int, default=1_000_000, help="records")


if __name__ == "__main__":
    run_alone(measure, add_arguments, __doc__ or "")
