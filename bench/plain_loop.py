"""The best plain loop: the same experts on the same cores, no Ray, no store, no commit; labels are encoded and dropped.

Three ways to use the cores, of which the fastest is what the job is held against:

    processes   a process per core, each with its own experts, one thread each; batches from a shared queue
    threads     one process, a thread per core, each with its own experts, one thread inside each network
    inside      one process, one thread that labels, the networks themselves using all cores; PNGs encoded beside it

Each runs in processes of its own, because how many threads a library uses is decided when it is loaded. The clock starts when
all experts are loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import Label

BATCH = 16

_experts: list[Expert] = []
"""Of a process of the pool."""


def processes(paths: Sequence[Path], names: Sequence[str], cores: int) -> float:
    """Seconds for all ``paths`` with a process per core."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(cores + 1)
    with _threads_inside(1), context.Pool(cores, _load_and_wait, (list(names), barrier)) as pool:
        barrier.wait()
        start = time.perf_counter()
        done = sum(pool.imap_unordered(_label_in_pool, _batches(paths), chunksize=1))
        seconds = time.perf_counter() - start
        assert done >= len(paths), f"{done} labels of {len(paths)} photos"
        pool.close()
        pool.join()
    return seconds


def threads(paths: Sequence[Path], names: Sequence[str], cores: int) -> float:
    """Seconds for all ``paths`` with a thread per core in one process."""
    return _in_a_process(_run_threads, paths, names, cores, inside=1)


def inside(paths: Sequence[Path], names: Sequence[str], cores: int) -> float:
    """Seconds for all ``paths`` with one labelling thread whose networks use all cores."""
    return _in_a_process(_run_inside, paths, names, cores, inside=cores)


WAYS: dict[str, Callable[[Sequence[Path], Sequence[str], int], float]] = {
    "processes": processes,
    "threads": threads,
    "inside": inside,
}


def load_experts(names: Sequence[str]) -> list[Expert]:
    """The experts called ``names``, loaded on the CPU; cv2 keeps to one thread, as it does in a worker of Ray."""
    import cv2

    from expert_zoo.catalog import create

    cv2.setNumThreads(1)
    experts = [create(name) for name in names]
    for expert in experts:
        expert.load("cpu")
    return experts


def read(path: Path) -> Photo:
    """Decoded the short way: no limits, no EXIF, no second chance for a broken file."""
    import io

    import numpy as np
    from PIL import Image

    data = path.read_bytes()
    pixels_HW3 = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return Photo(image_id=path.stem, uri=str(path), pixels_HW3=pixels_HW3, data=data, format=path.suffix[1:])


def encode_and_drop(expert: Expert, labels: Sequence[Label]) -> int:
    """How many labels there were, each brought into the form that a file would have."""
    from pipeline.codec import encode

    for label in labels:
        if label.value is not None:
            encode(expert.card.spec, label.value)
    return len(labels)


def label_batch(experts: Sequence[Expert], paths: Sequence[Path]) -> int:
    """How many photos were labelled by all ``experts``."""
    photos = [read(path) for path in paths]
    for expert in experts:
        labels: list[Label] = []
        for first in range(0, len(photos), expert.needs.batch_size):
            labels += expert.label(photos[first : first + expert.needs.batch_size])
        encode_and_drop(expert, labels)
    return len(photos)


def _load_and_wait(names: list[str], barrier: Barrier) -> None:
    _experts.extend(load_experts(names))
    barrier.wait()


def _label_in_pool(paths: Sequence[Path]) -> int:
    return label_batch(_experts, paths)


def _run_threads(paths: Sequence[Path], names: Sequence[str], cores: int) -> float:
    packs = [load_experts(names) for _ in range(cores)]
    to_come = _batches(paths)
    start = time.perf_counter()

    def work(pack: list[Expert]) -> None:
        for batch in iter(lambda: next(to_come, None), None):
            label_batch(pack, batch)

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(work, packs))
    return time.perf_counter() - start


def _run_inside(paths: Sequence[Path], names: Sequence[str], cores: int) -> float:
    experts = load_experts(names)
    start = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        encoding = []
        for batch in _batches(paths):
            photos = list(pool.map(read, batch))
            for expert in experts:
                for first in range(0, len(photos), expert.needs.batch_size):
                    labels = expert.label(photos[first : first + expert.needs.batch_size])
                    encoding.append(pool.submit(encode_and_drop, expert, labels))
        for encoded in encoding:
            encoded.result()
        return time.perf_counter() - start


def _in_a_process(
    run: Callable[[Sequence[Path], Sequence[str], int], float],
    paths: Sequence[Path],
    names: Sequence[str],
    cores: int,
    *,
    inside: int,
) -> float:
    with _threads_inside(inside), multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds: float = pool.apply(run, (list(paths), list(names), cores))
        pool.close()
        pool.join()
    return seconds


def _batches(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    return iter([paths[first : first + BATCH] for first in range(0, len(paths), BATCH)])


@contextmanager
def _threads_inside(count: int) -> Iterator[None]:
    """For processes started in the block: how many threads a network uses."""
    before: dict[str, Any] = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update({name: str(count) for name in before})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
