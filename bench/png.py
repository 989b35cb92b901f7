"""PNGs of our own label maps: milliseconds to write and to read and bytes per setting, so that PNG_FLAGS and FILTER are a measured choice.

    python -m bench.png --png-scenes 32

A setting is judged by the time that a core spends, once to write and in every epoch to read, and by the bytes that a store keeps. No setting loses anything, which is
checked here on every map. "pocket" maps are a network's, noisy in their last bits; "truth" maps are the renderer's, clean.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any library that reads it: one core is measured

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.report import Figure, Part, Table, run_alone
from expert_zoo.catalog import create
from expert_zoo.expert import Photo
from manifests.scenes import render_uri, scene_uri
from pipeline.codec import encode
from pipeline.png import FILTER, PNG_FLAGS, read_png

KINDS = ("depth", "normal", "edge", "seg")
STRATEGIES = {
    "default": cv2.IMWRITE_PNG_STRATEGY_DEFAULT,
    "filtered": cv2.IMWRITE_PNG_STRATEGY_FILTERED,
    "huffman": cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY,
    "rle": cv2.IMWRITE_PNG_STRATEGY_RLE,
    "fixed": cv2.IMWRITE_PNG_STRATEGY_FIXED,
}
FILTERS = {
    "none": cv2.IMWRITE_PNG_FILTER_NONE,
    "sub": cv2.IMWRITE_PNG_FILTER_SUB,
    "up": cv2.IMWRITE_PNG_FILTER_UP,
    "average": cv2.IMWRITE_PNG_FILTER_AVG,
    "paeth": cv2.IMWRITE_PNG_FILTER_PAETH,
}
CHOSEN = f"level 1, rle, filter {next(name for name, value in FILTERS.items() if value == FILTER)}"
REPEATS = 5
SEED = 9100

Pixels = NDArray[Any]
Flags = Sequence[int]


def settings() -> dict[str, Flags]:
    """Name -> flags: every strategy with libpng's own choice of row filters, then run lengths with each single filter."""
    found: dict[str, Flags] = {}
    for level in (1, 6):
        for name, strategy in STRATEGIES.items():
            if level == 1 or name in ("default", "filtered"):
                flags = (cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_STRATEGY, strategy)
                found[f"level {level}, {name}"] = flags
    for name, row_filter in FILTERS.items():
        found[f"level 1, rle, filter {name}"] = (*PNG_FLAGS, cv2.IMWRITE_PNG_FILTER, row_filter)
    return found


def maps_of(family: str, photos: Sequence[Photo]) -> dict[str, list[Pixels]]:
    """Kind -> the maps that the experts of ``family`` store for ``photos``, in the channel order of cv2."""
    found = {}
    for kind in KINDS:
        expert = create(f"{family}_{kind}")
        expert.load("cpu")
        members = [encode(expert.card.spec, label.value)[1] for label in expert.label(photos) if label.value]
        found[kind] = [_decoded(np.frombuffer(png or b"", np.uint8)) for png in members]
    return found


def _decoded(png: Pixels) -> Pixels:
    pixels = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    assert pixels is not None, "the codec wrote no PNG"
    return pixels


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one map: milliseconds of a core to write it and to read it, and bytes."""

    writing: float
    reading: float
    bytes: float


def cost(maps: Sequence[Pixels], flags: Flags) -> Cost:
    """Each the best of REPEATS, because other processes only ever add."""
    writing = reading = float("inf")
    for _ in range(REPEATS):
        start = time.thread_time()
        encoded = [cv2.imencode(".png", pixels, flags)[1].tobytes() for pixels in maps]
        middle = time.thread_time()
        found = [read_png(data) for data in encoded]
        writing, reading = min(writing, middle - start), min(reading, time.thread_time() - middle)
    for pixels, again in zip(maps, found, strict=True):
        assert again is not None and np.array_equal(again[..., ::-1] if again.ndim == 3 else again, pixels), "lossy"
    count = len(maps)
    return Cost(1000 * writing / count, 1000 * reading / count, sum(map(len, encoded)) / count)


def measure(arguments: argparse.Namespace) -> Part:
    """Every setting on every kind of map."""
    cv2.setNumThreads(1)
    uris = [scene_uri(SEED, index) for index in range(arguments.png_scenes)]
    photos = [Photo(image_id=f"s{i}", uri=uri, pixels_HW3=render_uri(uri).photo_HW3) for i, uri in enumerate(uris)]
    tables: list[Table] = []
    figures: list[Figure] = []
    for family in ("pocket", "truth"):
        maps = maps_of(family, photos)
        costs = {(n, kind): cost(maps[kind], flags) for n, flags in settings().items() for kind in KINDS}
        rows = [["setting", *KINDS]]
        for name in settings():
            cells = []
            for kind in KINDS:
                found = costs[name, kind]
                text = f"{found.writing:.2f} / {found.reading:.2f} ms {found.bytes / 1000:.1f} kB"
                cells.append(f"**{text}**" if name == CHOSEN else text)
            rows.append([name, *cells])
        tables.append(
            Table(
                title=f"Maps of {family} experts, per map, to write / to read; in bold what `pipeline/png.py` does:",
                rows=rows,
            )
        )
        if family == "pocket":
            figures = [figure for kind in KINDS for figure in _against_default(kind, costs)]
    how = (
        f"{len(photos)} maps of each kind at 256 x 256 pixels, one core, the best of {REPEATS} rounds in CPU time; OpenCV "
        f"{cv2.__version__}. The ratios are for maps of pocket experts against level 6, libpng's default. Where no filter is named, libpng tries all "
        "five on every row."
    )
    return Part(title="PNG encoding", how=how, figures=figures, tables=tables)


def _against_default(kind: str, costs: dict[tuple[str, str], Cost]) -> list[Figure]:
    ours, default = costs[CHOSEN, kind], costs["level 6, default", kind]
    label = f"{kind}: ours over libpng's default"
    return [
        Figure(name=f"{label}, writing", value=ours.writing / default.writing, unit="ratio"),
        Figure(name=f"{label}, reading", value=ours.reading / default.reading, unit="ratio"),
        Figure(name=f"{label}, bytes", value=ours.bytes / default.bytes, unit="ratio"),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--png-scenes", type=int, default=32, help="maps of each kind")


if __name__ == "__main__":
    run_alone(measure, add_arguments, __doc__ or "")
