"""Scenes rendered a second with a process per core, and images a second of every expert on one core.

python -m bench.scenes --scenes 400
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence

from bench.plain_loop import BATCH, load_experts
from bench.report import Figure, Part, Table, cores, run_alone
from bench.throughput import EXPERTS
from expert_zoo.expert import Photo
from manifests.scenes import render, render_uri, sample_world, scene_uri

SEED = 9200
GOAL = 20.0


def _render(index: int) -> int:
    return int(render(sample_world(SEED, index, 256)).photo_HW3.shape[0])


def rendered_per_second(scenes: int, processes: int) -> float:
    """Scenes a second, ground truth included; the processes are started and have rendered one each before the clock."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_render, range(processes), chunksize=1)
        start = time.perf_counter()
        pool.map(_render, range(scenes), chunksize=8)
        return scenes / (time.perf_counter() - start)


def expert_rates(names: Sequence[str], scenes: int) -> list[list[str]]:
    """A table: load seconds, images a second. Runs in a process that was told to use one thread."""
    uris = [scene_uri(SEED, index) for index in range(scenes)]
    photos = [
        Photo(image_id=f"s{i}", uri=uri, pixels_HW3=render_uri(uri).photo_HW3, data=b"", format="jpg")
        for i, uri in enumerate(uris)
    ]
    rows = [["expert", "load, s", "images/s", "ms per image"]]
    for name in names:
        start = time.perf_counter()
        (expert,) = load_experts([name])
        loading = time.perf_counter() - start
        expert.label(photos[:BATCH])
        start = time.perf_counter()
        for first in range(0, len(photos), expert.needs.batch_size):
            expert.label(photos[first : first + expert.needs.batch_size])
        each = (time.perf_counter() - start) / len(photos)
        rows.append([name, f"{loading:.2f}", f"{1 / each:,.0f}", f"{1000 * each:.2f}"])
    return rows


def measure(arguments: argparse.Namespace) -> Part:
    """Rendering with all cores, then experts one after the other on one."""
    rate = rendered_per_second(arguments.scenes, cores())
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows = pool.apply(expert_rates, ([name for name in EXPERTS if name != "image"], arguments.expert_photos))
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before
    how = (
        f"{arguments.scenes} scenes of 256 x 256 pixels with all their ground truth, {cores()} processes; then every expert "
        f"alone on {arguments.expert_photos} scenes in one process with one thread, after a first batch. `image` only hands "
        "the file's bytes on."
    )
    return Part(
        title="Scenes and experts",
        how=how,
        figures=[
            Figure(name="scenes rendered", value=rate, unit="scenes/s", goal="at least 20", met=rate >= GOAL),
            Figure(name="scenes rendered per core", value=rate / cores(), unit="scenes/s"),
        ],
        tables=[Table(title="Experts on one core:", rows=rows)],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--expert-photos", type=int, default=64)


if __name__ == "__main__":
    run_alone(measure, add_arguments, __doc__ or "")
