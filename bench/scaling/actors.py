"""Images a second of 1, 4, 16 and 64 simulated GPU workers over what as many would do if nothing were between them.

    python -m bench.scaling actors --workers 1 4 16 64

A whole job for each number, in a process of its own: `jobs.labelling.label` on a local Ray that is told of so many GPUs. The workers sleep
as long as a real expert takes (simulated.py), so that they fit on a few cores; photos are tiny, so that decoding them is not what is
measured. What is measured is whether driver, Ray and commits keep so many workers busy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import psutil

from bench.report import Figure, Part, Table, peak_memory
from jobs.job import Job
from jobs.labelling import label

#: A photo of seg_coco took one core of a busy machine so long.
SECONDS = 1 / 0.48
GOAL = 0.95
#: Of a worker: it sleeps.
CPUS = 0.125
#: How often a local Ray is started: its own limit of 15 s for a part of it is short where other programs have both cores.
TRIES = 40
#: What it can do without.
FEW_PARTS = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
#: Seconds that Ray gives processes to start, on a machine that has few cores for many of them.
SLOW_START = {
    "RAY_raylet_start_wait_time_s": "60",
    "RAY_worker_register_timeout_seconds": "1800",
    "RAY_worker_maximum_startup_concurrency": "24",
    "RAY_worker_niceness": "0",  # as the driver; Ray's own 15 more would starve them beside other programs
}
Diary = list[list[tuple[float, float, int]]]


def run_once(folder: Path, workers: int, units: int, shard_size: int, seconds: float) -> dict[str, float]:
    """One job of ``units`` a worker; seconds and images of its stretches, and what driver and Ray took."""
    started = time.time()
    images = workers * units * shard_size
    _write_photos(folder / "photos", images)
    (folder / "diary").mkdir()
    options = {"seconds": seconds, "diary": str(folder / "diary"), "workers": workers}
    with simulated_ray(cpus=max(1, math.ceil(workers * CPUS)), gpus=workers) as address:
        job = Job.model_validate(
            {
                "store": str(folder / "store"),
                "images": [{"source": "folder", "path": str(folder / "photos")}],
                "experts": [{"simulated": {"use": "bench.scaling.simulated:Simulated", **options}}],
                "shard_size": shard_size,
                "packs": [{"experts": ["simulated"], "cpus": CPUS, "gpus": 1, "actors": workers}],
                "patience": {"loading": 7200.0, "floor": 3600.0},  # so many processes start slowly on few cores
                "ray": {"address": address},
            }
        )
        looked = _Look(folder / "diary", workers)
        summary = label(job, lambda line: print(line, file=sys.stderr, flush=True))
        looked.stop()
    assert summary.complete, f"not complete: {summary.to_json()}"
    diary = _read(folder / "diary")
    assert sum(n for one in diary for _, _, n in one) == images, "every image once"
    return (
        stretches(diary)
        | looked.found
        | {
            "images": images,
            "start_up": min(one[0][0] for one in diary) - started,
            "working": summary.working,
            "driver_peak": peak_memory(),
        }
    )


def stretches(diary: Diary) -> dict[str, float]:
    """Of what every worker wrote down: the time in which all had work and images of it; the time from the first begin to the last end."""
    begin, end = max(one[0][0] for one in diary), min(one[-1][1] for one in diary)
    steady = sum(
        images * max(0.0, min(last, end) - max(first, begin)) / (last - first)
        for one in diary
        for first, last, images in one
    )
    first, last = min(one[0][0] for one in diary), max(one[-1][1] for one in diary)
    return {"steady_seconds": end - begin, "steady_images": steady, "all_seconds": last - first, "tail": last - end}


@contextmanager
def simulated_ray(*, cpus: int, gpus: int = 0) -> Iterator[str]:
    """The address of a local Ray that is told of so many CPUs and GPUs; tried again where a busy machine does not start it in time."""
    from ray.cluster_utils import Cluster

    for left in reversed(range(TRIES)):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=2**30, **FEW_PARTS)
            break
        except Exception:  # told by a plain one
            cluster.shutdown()
            if not left:
                raise
            time.sleep(10.0)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


class _Look:
    """Looks at the machine once all workers are at work: CPU seconds of driver and Ray while they are, memory of the workers in the middle."""

    def __init__(self, diary: Path, workers: int) -> None:
        self.found: dict[str, float] = {}
        self._diary, self._workers = diary, workers
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while len([one for one in self._diary.iterdir() if one.stat().st_size]) < self._workers:
            if self._done.wait(1.0):
                return
        me, begin = psutil.Process(), time.time()
        before: list[float] = []
        while not self._done.wait(1.0):  # the last look that is whole counts: Ray ends with the job
            with suppress(psutil.Error):
                children = [c for c in me.children(recursive=True) if c.status() != psutil.STATUS_ZOMBIE]
                now = [_cpu(one) for one in (me, *(c for c in children if c.name() in ("raylet", "gcs_server")))]
                before = before or now
                took = [late - early for late, early in zip(now, before, strict=True)]
                self.found |= {"driver_cpu": took[0], "ray_cpu": sum(took[1:]), "looked": time.time() - begin}
                if "worker_memory" not in self.found:
                    workers = [child for child in children if "MapWorker" in " ".join(child.cmdline())]
                    assert workers, "they are at work"
                    self.found["worker_memory"] = sum(one.memory_full_info().pss for one in workers) / len(workers)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _read(folder: Path) -> Diary:
    diary: Diary = []
    for path in folder.iterdir():
        lines = [line.split() for line in path.read_text().splitlines()]
        diary.append([(float(begin), float(end), int(images)) for begin, end, images in lines])
    return [one for one in diary if one]


def _write_photos(folder: Path, count: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:06d}.png"), random.integers(0, 255, (4, 6, 3), np.uint8))


def measure(arguments: argparse.Namespace) -> Part:
    """A job for each number of workers."""
    found = {workers: _in_its_own_process(workers, arguments) for workers in arguments.workers}
    ideal = 1 / arguments.seconds
    figures = []
    for workers, one in found.items():
        ratio = one["steady_images"] / one["steady_seconds"] / (workers * ideal)
        name = f"{workers} workers: throughput over ideal"
        figures.append(Figure(name=name, value=ratio, unit="ratio", goal=f"at least {GOAL}", met=ratio >= GOAL))
    how = (
        f"Workers that sleep {arguments.seconds:.3g} s an image; {arguments.units} units of {arguments.shard_size} images of 6 x 4 pixels for "
        "each. Ideal is the number of workers over the seconds an image. The ratio is over the time in which every worker had work."
    )
    return Part(title="Workers", how=how, figures=figures, tables=[_table(found, ideal)])


def _table(found: dict[int, dict[str, float]], ideal: float) -> Table:
    rows: list[Sequence[str]] = [["", *(str(workers) for workers in found)]]

    def row(name: str, values: Sequence[str]) -> None:
        rows.append([name, *values])

    each = list(found.items())
    row("ideal, images/s", [f"{n * ideal:.2f}" for n, _ in each])
    row("while all have work, images/s", [f"{one['steady_images'] / one['steady_seconds']:.2f}" for _, one in each])
    row("that over ideal", [f"{one['steady_images'] / one['steady_seconds'] / n / ideal:.3f}" for n, one in each])
    row(
        "first begin to last end over ideal",
        [f"{one['images'] / one['all_seconds'] / n / ideal:.3f}" for n, one in each],
    )
    row(
        "first unit begun to end of the job over ideal",
        [f"{one['images'] / one['working'] / n / ideal:.3f}" for n, one in each],
    )
    row("all have work, s", [f"{one['steady_seconds']:.0f}" for _, one in each])
    row("tail: first idle to last end, s", [f"{one['tail']:.1f}" for _, one in each])
    row("start-up, all workers ready, s", [f"{one['start_up']:.0f}" for _, one in each])
    row("driver, CPU s a 1000 s", [f"{1000 * one['driver_cpu'] / one['looked']:.0f}" for _, one in each])
    row("raylet and GCS, CPU s a 1000 s", [f"{1000 * one['ray_cpu'] / one['looked']:.0f}" for _, one in each])
    row("driver, peak memory, MB", [f"{one['driver_peak'] / 1e6:.0f}" for _, one in each])
    row("a worker's memory (its share of what is shared), MB", [f"{one['worker_memory'] / 1e6:.0f}" for _, one in each])
    return Table(title="By number of workers:", rows=rows)


def _in_its_own_process(workers: int, arguments: argparse.Namespace) -> dict[str, float]:
    print(f"{workers} workers ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        call = (
            f"a.run_once(a.Path({folder!r}), {workers}, {arguments.units}, {arguments.shard_size}, {arguments.seconds})"
        )
        code = f"import json, bench.scaling.actors as a; print('found', json.dumps({call}))"
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=os.environ | SLOW_START
        )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("found "))
    print(line, file=sys.stderr, flush=True)
    return dict(json.loads(line.removeprefix("found ")))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--units", type=int, default=4, help="a worker")
    parser.add_argument("--shard-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="an image")
