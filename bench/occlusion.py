"""The occlusion-resolved instance map: boxes and an integral image against one full-size mask per box, on the same cases.

    python -m bench.occlusion --occlusion-cases 5

`by_masks` says the same rules (expert_zoo/occlusion.py) by masks; the tests hold both equal.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.report import Figure, Part, run_alone
from expert_zoo.occlusion import NONE_OF_255, NONE_OF_65535, depth_levels, instance_map

GOAL = 200.0
PHOTO = (360, 480)
TRAINING = (224, 224)
BOXES = 60
MOST_BOXES = 300
REPEATS, MASK_REPEATS = 50, 3

Mask = NDArray[np.bool_]
Boxes = NDArray[np.float32]
Depth = NDArray[np.float32]
Ids = NDArray[np.unsignedinteger]


def by_masks(
    boxes_N4: Boxes,
    depth_HW: Depth | None,
    *,
    quantity: Literal["depth", "inverse_depth"],
    photo: tuple[int, int],
    size: tuple[int, int],
) -> Ids:
    """`instance_map` with a mask for each box and every overlap looked up pixel by pixel."""
    levels_HW = np.zeros((1, 1), np.uint16) if depth_HW is None else depth_levels(depth_HW)
    sign = 1 if quantity == "inverse_depth" else -1
    whole: dict[int, Mask] = {}
    for name, box in enumerate(boxes_N4.tolist()):
        mask = _mask(box, photo, photo)
        if not any((mask & other).sum() / (mask | other).sum() > 0.95 for other in whole.values()):
            whole[name] = mask
    near = {}
    for name in whole:
        on_depth = _mask(boxes_N4[name].tolist(), photo, levels_HW.shape)
        near[name] = sign * (levels_HW * on_depth).sum(dtype=np.int64) / on_depth.sum()
    drawn = {name: _mask(boxes_N4[name].tolist(), photo, size) for name in whole}
    shown = {name: mask.copy() for name, mask in drawn.items()}
    for first in whole:
        for later in whole:
            if later <= first or not (drawn[first] & drawn[later]).any():
                continue
            if not (whole[first] & ~whole[later]).any():
                front, back = first, later
            elif not (whole[later] & ~whole[first]).any() or near[later] >= near[first]:
                front, back = later, first
            else:
                front, back = first, later
            shown[back] &= ~drawn[front]
    few = len(boxes_N4) <= NONE_OF_255
    ids_hw = np.full(size, NONE_OF_255 if few else NONE_OF_65535, np.uint8 if few else np.uint16)
    for name in sorted(whole, key=lambda name: (near[name], name)):
        ids_hw[drawn[name]] = name
    for name, mask in shown.items():
        ids_hw[mask] = name
    return ids_hw


def _mask(box: list[float], photo: tuple[int, int], grid: tuple[int, ...]) -> Mask:
    down, across = (
        _covered(box[axis] * (grid[1 - axis] / photo[1 - axis]), box[axis + 2] * (grid[1 - axis] / photo[1 - axis]), n)
        for axis, n in ((1, grid[0]), (0, grid[1]))
    )
    return down[:, None] & across


def _covered(low: float, high: float, count: int) -> Mask:
    """Which of ``count`` pixels have their centres between ``low`` and ``high``; none: the one that the middle lies in."""
    centres = np.arange(count) + 0.5
    inside = (centres >= low) & (centres < high)
    if not inside.any():
        inside[min(max(int(np.floor((low + high) / 2)), 0), count - 1)] = True
    return inside


def random_case(seed: int, count: int, *, photo: tuple[int, int] = PHOTO) -> tuple[Boxes, Depth]:
    """Boxes of 5 to 50 % of the photo's sides, some inside others, one in ten nearly seen twice; depth rises to the top, with noise."""
    rng = np.random.default_rng(seed)
    sides_2 = np.array([photo[1], photo[0]])
    size_N2 = sides_2 * np.exp(rng.uniform(np.log(0.05), np.log(0.5), (count, 2)))
    first_N2 = rng.uniform(0, 1, (count, 2)) * (sides_2 - size_N2)
    boxes_N4 = np.concatenate([first_N2, first_N2 + size_N2], axis=1)
    again = rng.integers(0, count // 2, count // 10)
    boxes_N4[-len(again) :] = boxes_N4[again] + rng.uniform(0, 1, (len(again), 4))
    y_H1, x_1W = np.ogrid[: photo[0], : photo[1]]
    depth_HW = 5 - y_H1 / 100 + np.sin(x_1W / 60 + seed) + rng.normal(0, 0.05, photo)
    return boxes_N4.clip(0, np.tile(sides_2, 2)).astype(np.float32), depth_HW.astype(np.float32)


def painted(way: Callable[..., Ids], boxes_N4: Boxes, depth_HW: Depth, size: tuple[int, int]) -> Ids:
    return way(boxes_N4, depth_HW, quantity="depth", photo=PHOTO, size=size)


def seconds(repeats: int, way: Callable[..., Ids], boxes_N4: Boxes, depth_HW: Depth, size: tuple[int, int]) -> float:
    """The best of ``repeats``, because other processes only ever add."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        painted(way, boxes_N4, depth_HW, size)
        best = min(best, time.perf_counter() - start)
    return best


def measure(arguments: argparse.Namespace) -> Part:
    """Both ways on the same cases."""
    import cv2

    cv2.setNumThreads(1)
    ratios, ours, small, most = [], [], [], []
    for seed in range(arguments.occlusion_cases):
        boxes_N4, depth_HW = random_case(seed, BOXES)
        many_N4, _ = random_case(seed, MOST_BOXES)
        assert np.array_equal(
            painted(instance_map, boxes_N4, depth_HW, PHOTO), painted(by_masks, boxes_N4, depth_HW, PHOTO)
        )
        ours.append(seconds(REPEATS, instance_map, boxes_N4, depth_HW, PHOTO))
        ratios.append(seconds(MASK_REPEATS, by_masks, boxes_N4, depth_HW, PHOTO) / ours[-1])
        small.append(seconds(REPEATS, instance_map, boxes_N4, depth_HW, TRAINING))
        most.append(seconds(REPEATS, instance_map, many_N4, depth_HW, TRAINING))
    ratio = float(np.median(ratios))
    how = (
        f"The median of {arguments.occlusion_cases} random images of {PHOTO[1]}x{PHOTO[0]} with a depth map of that size, each "
        f"way at its best of {REPEATS} runs (ours) and {MASK_REPEATS} (masks), one thread. The masks are boolean and a pair of "
        "boxes is looked at once, so they are quicker than the float masks of Prismer's code."
    )
    return Part(
        title="Occlusion-resolved instance map",
        how=how,
        figures=[
            Figure(
                name=f"masks over boxes, {BOXES} boxes at {PHOTO[1]}x{PHOTO[0]}",
                value=ratio,
                unit="ratio",
                goal="at least 200",
                met=ratio >= GOAL,
            ),
            Figure(name="of which ours", value=1e6 * float(np.median(ours)), unit="us"),
            Figure(name=f"ours, {BOXES} boxes to 224x224", value=1e6 * float(np.median(small)), unit="us"),
            Figure(name=f"ours, {MOST_BOXES} boxes to 224x224", value=1e6 * float(np.median(most)), unit="us"),
        ],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--occlusion-cases", type=int, default=5, help="random images")


if __name__ == "__main__":
    run_alone(measure, add_arguments, __doc__ or "")
