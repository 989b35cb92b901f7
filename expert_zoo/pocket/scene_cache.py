"""Rendered scenes on disk as memory-mapped arrays, so that training never waits for the renderer.

Shapes: N scenes, H = W = SIZE, K = MOST_THINGS rows of boxes (unused rows have class id -1).
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.scenes import render, sample_world

SIZE = 256
MOST_THINGS = 7
EDGE_BIT = 0x80

LAYOUT: dict[str, tuple[tuple[int, ...], str]] = {
    "photo": ((SIZE, SIZE, 3), "uint8"),
    "depth": ((SIZE, SIZE), "float16"),
    "normal": ((SIZE, SIZE, 3), "int8"),
    "classes": ((SIZE, SIZE), "uint8"),
    "boxes": ((MOST_THINGS, 4), "float32"),
    "things": ((MOST_THINGS,), "int8"),
}
"""Of one scene: depth in metres; normals times 127; class ids with EDGE_BIT set on edges; boxes xyxy in pixels; class ids of boxes."""


def open_cache(folder: Path, count: int, mode: Any = "r") -> dict[str, NDArray[Any]]:
    """The arrays of a cache, by name, each with `count` scenes along the first axis."""
    return {
        name: np.memmap(folder / f"{name}.bin", dtype=dtype, mode=mode, shape=(count, *shape))
        for name, (shape, dtype) in LAYOUT.items()
    }


def fill_cache(folder: Path, *, seed: int, count: int, workers: int) -> dict[str, NDArray[Any]]:
    """Render scenes 0..count-1 of a seed into `folder`, unless they are there already, and open them."""
    done = folder / f"seed-{seed}-count-{count}"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        open_cache(folder, count, "w+")
        step = 50
        tasks = [(folder, seed, count, start, min(start + step, count)) for start in range(0, count, step)]
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
            for _ in pool.map(_render_range, tasks):
                pass
        done.touch()
    return open_cache(folder, count)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


def _render_range(task: tuple[Path, int, int, int, int]) -> None:
    folder, seed, count, start, stop = task
    arrays = open_cache(folder, count, "r+")
    for index in range(start, stop):
        rendering = render(sample_world(seed, index, SIZE))
        arrays["photo"][index] = rendering.photo_HW3
        arrays["depth"][index] = rendering.depth_HW
        arrays["normal"][index] = np.rint(rendering.normal_HW3 * 127)
        arrays["classes"][index] = rendering.class_HW | (rendering.edge_HW * EDGE_BIT)
        n = len(rendering.class_ids_K)
        arrays["boxes"][index, :n] = rendering.boxes_K4
        arrays["things"][index] = -1
        arrays["things"][index, :n] = rendering.class_ids_K
