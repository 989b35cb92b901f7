"""What a number of shards costs before any label: cutting the manifest, and its footer in every process that reads a shard.

    python -m bench.scaling shards --shards 20000 200000

A manifest has a row group for each shard, and Parquet's footer has an entry for every column of every row group, which whoever reads one shard
keeps. How many images a shard has makes no difference to that, so shards of one image are cut.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.plan import Synthetic
from bench.report import Figure, Part, Table, peak_memory, short
from manifests.build import build
from manifests.manifest import Manifest
from pipeline.plan import MANIFEST
from pipeline.store import LabelStore


def cut(folder: str) -> dict[str, float]:
    """The store of the manifest in ``folder``, in this process."""
    manifest = Manifest.open(f"{folder}/{MANIFEST}")
    before, cpu, begin = peak_memory(), _cpu(), time.perf_counter()
    LabelStore.create(f"{folder}/store", manifest, shard_size=1)
    return {"seconds": time.perf_counter() - begin, "cpu": _cpu() - cpu, "grown": peak_memory() - before}


def read(folder: str) -> dict[str, float]:
    """The records of two shards of that store, in this process."""
    process = psutil.Process()
    before, cpu, begin = process.memory_info().rss, _cpu(), time.perf_counter()
    store = LabelStore.open(f"{folder}/store")
    assert len(store.records(store.plan.shard(len(store.plan) // 2))) == 1
    first, cpu = time.perf_counter() - begin, _cpu() - cpu
    begin = time.perf_counter()
    store.records(store.plan.shard(len(store.plan) // 3))
    second, grown = time.perf_counter() - begin, process.memory_info().rss - before
    with Path(f"{folder}/store/{MANIFEST}").open("rb") as file:
        file.seek(-8, 2)
        footer = int.from_bytes(file.read(4), "little")
    return {"seconds": first, "cpu": cpu, "second": second, "grown": grown, "footer": footer}


def _cpu() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def measure(arguments: argparse.Namespace) -> Part:
    """Both for each number of shards, each in a process of its own."""
    rows = [
        [
            "shards",
            "cut, CPU s",
            "cut, memory, MB",
            "footer, MB",
            "first shard read, CPU s",
            "next, ms",
            "memory of a reader, MB",
        ]
    ]
    figures = []
    for shards in arguments.shards:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            build([Synthetic(count=shards)], f"{folder}/{MANIFEST}", seed=1)
            made, found = _in_its_own_process("cut", folder), _in_its_own_process("read", folder)
        each = [made["cpu"], made["grown"] / 1e6, found["footer"] / 1e6, found["cpu"], 1000 * found["second"]]
        rows.append([f"{shards:,}", *(short(value) for value in each), f"{found['grown'] / 1e6:.0f}"])
        figures = [
            Figure(name=f"{shards:,} shards: memory of a reader, a shard", value=found["grown"] / shards, unit="B"),
            Figure(name=f"{shards:,} shards: memory while cutting, a shard", value=made["grown"] / shards, unit="B"),
        ]
    how = "Shards of one image; `LabelStore.create`, then `LabelStore.records` of two shards. Memory is what the process grew by."
    return Part(title="Shards", how=how, figures=figures, tables=[Table(title="By number of shards:", rows=rows)])


def _in_its_own_process(step: str, folder: str) -> dict[str, float]:
    code = f"import json, bench.scaling.shards as s; print(json.dumps(s.{step}({folder!r})))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=int, nargs="+", default=[20_000, 200_000])
