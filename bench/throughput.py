"""End to end: images a second of `expert-labels label` over those of the best plain loop with the same experts and cores.

    python -m bench.throughput --images 256

Both read the same JPEG and PNG files, run the same experts and encode the same PNGs. The job alone also has Ray, checks every
label, writes and syncs files, and commits cells. The two take turns, so that a machine that slows down slows both; the ratio is
the median over the turns. Loading and starting are left out of both and reported by themselves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.photos import write_photos
from bench.plain_loop import WAYS
from bench.report import Figure, Part, Table, cores, run_alone

EXPERTS = ("image", "pocket_depth", "pocket_normal", "pocket_edge", "pocket_seg", "pocket_detection", "ocr")
PHASES = ("read", "wait", "compute", "encode", "write")
GOAL = 0.9
#: The three plain loops are tried on so many photos; the best of them then runs on all.
TRIED_ON = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """One run of the job. ``wall``: of the whole command; ``working``: from the first unit begun to the end."""

    wall: float
    working: float
    seconds: dict[str, dict[str, float]]


def run_job(folder: Path, photos: Path, store: Path, experts: Sequence[str], shard_size: int) -> JobRun:
    """Labels ``photos`` into ``store`` by the command line, in a process of its own as a user would. RuntimeError if it fails."""
    job = folder / "job.yaml"
    job.write_text(
        yaml.safe_dump(
            {
                "store": str(store),
                "images": [{"source": "folder", "path": str(photos)}],
                "experts": list(experts),
                "shard_size": shard_size,
                "ray": {"cpus": cores()},
            }
        )
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "label", str(job), "--json"], capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"`expert-labels label` ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    seconds = {column.split("@")[0]: about["seconds"] for column, about in found["columns"].items()}
    return JobRun(wall=wall, working=found["seconds"]["working"], seconds=seconds)


def measure_in(folder: Path, arguments: argparse.Namespace) -> Part:
    """As `measure`; leaves the last store in ``folder``/store."""
    paths = write_photos(folder / "photos", arguments.images, size=arguments.size)
    experts, count = arguments.experts, len(paths)
    few = paths[:TRIED_ON]
    tried = {way: len(few) / run(few, experts, cores()) for way, run in WAYS.items()}
    best = max(tried, key=lambda way: tried[way])
    runs: list[JobRun] = []
    plain: list[float] = []
    ratios: list[float] = []
    for turn in range(arguments.turns):
        store = folder / "store" if turn == arguments.turns - 1 else folder / f"store-{turn}"
        runs.append(run_job(folder, folder / "photos", store, experts, arguments.shard_size))
        plain.append(WAYS[best](paths, experts, cores()))
        ratios.append(plain[-1] / runs[-1].working)
    ratio = statistics.median(ratios)
    middle = sorted(runs, key=lambda run: run.working)[len(runs) // 2]
    start_up = statistics.median(run.wall - run.working for run in runs)
    shards = -(-count // arguments.shard_size)
    how = (
        f"{count} scenes of {arguments.size} x {arguments.size} pixels as JPEG and PNG files; experts {', '.join(experts)}; "
        f"{cores()} cores; {shards} shards of {arguments.shard_size} ({shards / cores():g} a worker, so that no worker is "
        f"left alone at the end). {arguments.turns} turns of job and plain loop, ratios {', '.join(f'{r:.3f}' for r in ratios)}. "
        f"The plain loop is the best of three ways: {best}."
    )
    figures = [
        Figure(name="job over plain loop", value=ratio, unit="ratio", goal="at least 0.9", met=ratio >= GOAL),
        Figure(name="job", value=statistics.median(count / run.working for run in runs), unit="images/s"),
        Figure(
            name=f"plain loop, {best}",
            value=statistics.median(count / seconds for seconds in plain),
            unit="images/s",
        ),
        *(
            Figure(name=f"plain loop, {way}, tried once on {len(few)} photos", value=rate, unit="images/s")
            for way, rate in tried.items()
        ),
        Figure(name="start-up of the job (command to first photo)", value=start_up, unit="s"),
    ]
    return Part(title="Throughput", how=how, figures=figures, tables=[_phases(middle, count)])


def _phases(run: JobRun, images: int) -> Table:
    rows = [["expert", *PHASES]]
    rows += [[name, *(f"{1000 * spent[p] / images:.1f}" for p in PHASES)] for name, spent in run.seconds.items()]
    totals = [sum(spent[phase] for spent in run.seconds.values()) for phase in PHASES]
    rows.append(["all", *(f"{1000 * total / images:.1f}" for total in totals)])
    per_image = 1000 * run.working * cores() / images
    return Table(
        title=f"Where the job's time went, from its receipts, in ms per image (a core has {per_image:.1f} ms per image; wait and "
        "compute are the model's thread, the others run beside it):",
        rows=rows,
    )


def measure(arguments: argparse.Namespace) -> Part:
    """Job and plain loop by turns."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return measure_in(Path(folder), arguments)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--shard-size", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--experts", nargs="+", default=list(EXPERTS))


if __name__ == "__main__":
    run_alone(measure, add_arguments, __doc__ or "")
