"""The address of a scene, scenes://<seed>/<index>?size=<pixels>, and the picture it stands for."""

from __future__ import annotations

import re
from functools import lru_cache

from manifests.scenes.render import Rendering, render
from manifests.scenes.sampling import sample_world

_PATTERN = re.compile(r"scenes://(\d{1,18})/(\d{1,18})(?:\?size=(\d{1,4}))?")

DEFAULT_SIZE = 256


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


@lru_cache(maxsize=64)
def render_uri(uri: str) -> Rendering:
    """The rendering of a scene's address. Kept for a while, since one photo and six truth labels want the same one.

    Raises ValueError on what is no scene address. The arrays are shared between callers and cannot be written to.
    """
    rendering = render(sample_world(*parse_scene_uri(uri)))
    for array in (
        rendering.photo_HW3,
        rendering.depth_HW,
        rendering.normal_HW3,
        rendering.edge_HW,
        rendering.class_HW,
        rendering.instance_HW,
        rendering.boxes_K4,
        rendering.class_ids_K,
        rendering.polygons_P42,
    ):
        array.setflags(write=False)
    return rendering
