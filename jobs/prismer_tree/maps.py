"""Labels as the released code of Prismer keeps them: pictures of 8 bits, of the photo's size.

    depth           inverse depth, stretched from its least (0) to its greatest value (255): near is bright
    normal          x to the left, y up, z to the viewer, from -1 (0) to 1 (255)
    edge            stretched likewise and turned: dark lines on white
    seg_coco, ...   class ids; 255: none of them
    obj_detection   which object is seen, the best first from 0; 255: none
    ocr_detection   which word is seen, likewise

What is missing is written so that its loader survives: no bytes at all for depth, edge and objects, which it knows as missing; a
black picture for normals, on which it would fail; 255 everywhere for classes, for it would take nothing for class 0, a person.

Legend of shape suffixes: h, w the photo's height and width, K words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from expert_zoo.occlusion import instance_map
from expert_zoo.spec import LabelSpec
from pipeline.png import write_png
from pipeline.resample import resize_map

NOTHING = 255
#: As many as one byte tells apart, beside NOTHING.
MOST = 255
_SMALL = 1e-6

Size = tuple[int, int]
Grey_hw = NDArray[np.uint8]


def depth_png(pixels: NDArray[np.unsignedinteger], spec: LabelSpec, row: Mapping[str, Any], size: Size) -> bytes:
    """pixels: as stored. Of depth in metres the inverse."""
    values = pixels.astype(np.float32)
    if spec.quantity == "depth":
        values = 1 / np.maximum(np.float32(row["scale"]) * values + np.float32(row["bias"]), _SMALL)
    return _resized(_bytes(_stretched(values)), size)


def edge_png(pixels: NDArray[np.unsignedinteger], size: Size) -> bytes:
    return _resized(NOTHING - _bytes(_stretched(pixels.astype(np.float32))), size)


def normal_png(pixels: NDArray[np.unsignedinteger], row: Mapping[str, Any], size: Size) -> bytes:
    normals = (row["scale"] * pixels + row["bias"]) * np.array([-1.0, 1.0, 1.0])
    return _resized(_bytes(0.5 * normals + 0.5), size)


def class_png(pixels: NDArray[np.unsignedinteger], size: Size) -> bytes:
    return write_png(resize_map(np.minimum(pixels, NOTHING).astype(np.uint8), *size, how="nearest"))


def missing_png(expert: str, size: Size) -> bytes:
    """What stands for a label that is not there."""
    match expert:
        case "normal":
            return write_png(np.zeros((*size, 3), np.uint8))
        case "seg_coco" | "seg_ade":
            return write_png(np.full(size, NOTHING, np.uint8))
    return b""


def object_ids(
    row: Mapping[str, Any],
    depth_HW: NDArray[np.unsignedinteger] | None,
    quantity: Literal["depth", "inverse_depth"],
    size: Size,
) -> Grey_hw:
    """Which of the boxes every pixel shows. depth_HW: of the image's own depth label, as stored; None: the later box is in front."""
    boxes_N4 = np.asarray(row["boxes"][:MOST], np.float32).reshape(-1, 4)
    levels_HW: Any = depth_HW
    ids_hw: Grey_hw = instance_map(
        boxes_N4, levels_HW, quantity=quantity, photo=(row["height"], row["width"]), size=size
    ).astype(np.uint8)
    return ids_hw


def word_ids(row: Mapping[str, Any], size: Size) -> Grey_hw:
    """Which of the words every pixel shows; the first one on top."""
    scale = np.array([size[1] / row["width"], size[0] / row["height"]])
    corners_K42 = np.asarray(row["polygons"][:MOST], np.float64).reshape(-1, 4, 2) * scale
    ids_hw = np.full(size, NOTHING, np.uint8)
    # Corners are places, cv2's points are pixel centres; 4 bits of each coordinate are a fraction.
    points_K42 = np.rint((corners_K42 - 0.5) * 16).clip(-(2**20), 2**20).astype(np.int32)
    for index in range(len(points_K42) - 1, -1, -1):
        cv2.fillConvexPoly(ids_hw, points_K42[index], index, lineType=cv2.LINE_8, shift=4)
    return ids_hw


def seen(ids_hw: Grey_hw) -> list[int]:
    """The ids in a map but NOTHING, in order."""
    found: list[int] = np.flatnonzero(np.bincount(ids_hw.ravel(), minlength=NOTHING + 1)[:NOTHING]).tolist()
    return found


def _resized(pixels: NDArray[np.uint8], size: Size) -> bytes:
    # As bytes already: a photo may have many times the pixels of its label, and numbers of four bytes would fill the memory.
    return write_png(resize_map(pixels, *size, how="bilinear"))


def _stretched(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1e-12)


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
