"""The address of a scene, scenes://<seed>/<index>?size=<pixels>, and the picture it stands for."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

from manifests.scenes.render import Rendering, render
from manifests.scenes.sampling import sample_world

_PATTERN = re.compile(r"scenes://(\d{1,18})/(\d{1,18})(?:\?size=(\d{1,4}))?")

DEFAULT_SIZE = 256

SMALL = 512
"""Up to this size 64 renderings are kept (23 bytes a pixel, so 0.4 GB at most), beyond it 2."""


def scene_uri(seed: int, index: int, size: int = DEFAULT_SIZE) -> str:
    """The address of scene `index` of `seed`, rendered `size` pixels a side."""
    return f"scenes://{seed}/{index}?size={size}"


def parse_scene_uri(uri: str) -> tuple[int, int, int]:
    """Seed, index and size of a scene's address; the size may be left out. Raises ValueError on anything else."""
    match = _PATTERN.fullmatch(uri)
    if match is None:
        raise ValueError(
            f"{uri!r} is no scene address; expected scenes://SEED/INDEX?size=PIXELS, as in scenes://7/42?size=256"
        )
    seed, index, size = match.groups(default=str(DEFAULT_SIZE))
    return int(seed), int(index), int(size)


def render_uri(uri: str) -> Rendering:
    """The rendering of a scene's address. Kept for a while, since one photo and six truth labels want the same one.

    Raises ValueError on what is no scene address. The arrays are shared between callers and cannot be written to.
    """
    seed, index, size = parse_scene_uri(uri)
    return _render_small(seed, index, size) if size <= SMALL else _render_large(seed, index, size)


def _render_for_all(seed: int, index: int, size: int) -> Rendering:
    rendering = render(sample_world(seed, index, size))
    for value in vars(rendering).values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return rendering


_render_small = lru_cache(maxsize=64)(_render_for_all)
_render_large = lru_cache(maxsize=2)(_render_for_all)
