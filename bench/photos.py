"""Rendered scenes as JPEG and PNG files in a folder, so that reading and decoding are part of what is measured."""

from __future__ import annotations

from functools import partial
from multiprocessing import get_context
from pathlib import Path

from bench.report import cores

SEED = 9000
#: One photo in four is a PNG.
PNG_EVERY = 4
QUALITY = 92


def write_photos(folder: Path, count: int, *, size: int) -> list[Path]:
    """``count`` scenes of ``size`` pixels a side as files in ``folder``; returns their paths, sorted."""
    folder.mkdir(parents=True, exist_ok=True)
    with get_context("spawn").Pool(cores()) as pool:
        return sorted(pool.map(partial(_write, folder, size), range(count), chunksize=8))


def _write(folder: Path, size: int, index: int) -> Path:
    from PIL import Image

    from manifests.scenes import render, sample_world

    picture = Image.fromarray(render(sample_world(SEED, index, size)).photo_HW3)
    path = folder / f"{index:06d}.{'png' if index % PNG_EVERY == 0 else 'jpg'}"
    if path.suffix == ".png":
        picture.save(path)
    else:
        picture.save(path, quality=QUALITY)
    return path
