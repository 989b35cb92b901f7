"""How long it takes to find out what a large store lacks: listings of 172,000 committed cells, those of 11 million images.

    python -m bench.scan --cells 172000

The cells are receipts and data files made here, empty data files beside receipts of real size, since a scan only lists names:
three for each cell, as in a real store with dense labels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.report import Figure, Part, peak_memory, run_alone
from expert_zoo.catalog import create
from pipeline.lacking import missing_cells
from pipeline.plan import ShardPlan, shard_name
from pipeline.receipt import FileEntry, Receipt, Rows, Seconds, installed_packages
from pipeline.status import status
from pipeline.storage import open_storage
from pipeline.store import PLAN, LabelStore

EXPERTS = (
    "truth_depth", "truth_normal", "truth_edge", "truth_seg", "truth_detection", "truth_ocr", "image", "pocket_depth",
)  # fmt: skip
SHARD_SIZE = 512
GOAL = 5.0
REPEATS = 5


def make_store(folder: Path, cells: int) -> LabelStore:
    """A store in which every cell of eight columns is committed, without a photo or a label."""
    shards = cells // len(EXPERTS)
    plan = ShardPlan(manifest="0" * 64, images=shards * SHARD_SIZE, shard_size=SHARD_SIZE, seed=0)
    storage = open_storage(str(folder))
    storage.publish(PLAN, plan.model_dump_json().encode())
    store = LabelStore.open(str(folder))
    for name in EXPERTS:
        card = create(name).card
        store.add_column(card)
        column = folder / store.folder(card.column)
        for index in range(shards):
            stem = f"{shard_name(index)}.{index:012x}"
            (column / f"{shard_name(index)}.json").write_bytes(_receipt(card.column, index, stem, plan).to_bytes())
            (column / f"{stem}.parquet").touch()
            (column / f"{stem}.tar").touch()
    return store


def _receipt(column: str, shard: int, stem: str, plan: ShardPlan) -> Receipt:
    return Receipt(
        column=column,
        shard=shard,
        attempt=stem.split(".")[1],
        plan=plan.fingerprint,
        rows=Rows(ok=plan.shard_size),
        table=FileEntry(name=f"{stem}.parquet", bytes=0, sha256="0" * 64),
        tar=FileEntry(name=f"{stem}.tar", bytes=0, sha256="0" * 64),
        seconds=Seconds(),
        licence="none",
        commercial_use=True,
        committed_at="2026-01-01T00:00:00+00:00",
        host="bench",
        packages=installed_packages(),
    )


def status_alone(folder: str, failures: bool) -> dict[str, float]:
    """Seconds of `status`, and this process's peak memory before and after in bytes."""
    before = peak_memory()
    start = time.perf_counter()
    found = status(LabelStore.open(folder), failures=failures)
    return {
        "seconds": time.perf_counter() - start,
        "committed": found.committed,
        "before": before,
        "peak": peak_memory(),
    }


def _in_its_own_process(folder: str, *, failures: bool) -> dict[str, float]:
    code = f"import json, bench.scan as s; print(json.dumps(s.status_alone({folder!r}, {failures})))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def measure(arguments: argparse.Namespace) -> Part:
    """Seconds of `status` and of `missing_cells`, the median of several, each from a store opened anew."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        cells = make_store(Path(folder), arguments.cells).plan
        made = len(cells) * len(EXPERTS)
        looks, searches = [], []
        for _ in range(REPEATS):
            store = LabelStore.open(folder)
            start = time.perf_counter()
            found = status(store)
            looks.append(time.perf_counter() - start)
            assert found.committed == made, f"{found.committed} of {made} cells found"
            columns = list(store.columns())
            start = time.perf_counter()
            lacking = list(missing_cells(store, [*columns, "absent@0123456789"]))
            searches.append(time.perf_counter() - start)
            assert sum(len(missing) for _, missing in lacking) == len(cells), "one column is missing throughout"
        alone = _in_its_own_process(folder, failures=False)
        reading = _in_its_own_process(folder, failures=True)
        assert alone["committed"] == reading["committed"] == made
    look, search = sorted(looks)[REPEATS // 2], sorted(searches)[REPEATS // 2]
    goal = {"goal": "below 5"}
    how = (
        f"{made:,} committed cells in {len(EXPERTS)} columns of {len(cells):,} shards, {3 * made:,} files on a local disk "
        f"whose listings the system has in memory; the median of {REPEATS}. `missing_cells` is asked for one more column, "
        "which is missing throughout."
    )
    return Part(
        title="Scanning a store",
        how=how,
        figures=[
            Figure(name="status", value=look, unit="s", met=look < GOAL, **goal),
            Figure(name="missing cells", value=search, unit="s", met=search < GOAL, **goal),
            Figure(name="status, peak memory beyond the imports", value=_grown_by(alone), unit="MB"),
            Figure(name="status --failures, which reads every receipt", value=reading["seconds"], unit="s"),
            Figure(name="status --failures, peak memory beyond the imports", value=_grown_by(reading), unit="MB"),
        ],
    )


def _grown_by(found: dict[str, float]) -> float:
    return (found["peak"] - found["before"]) / 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", type=int, default=172_000)


if __name__ == "__main__":
    run_alone(measure, add_arguments, __doc__ or "")
