"""One image with its labels as a training image shows them: arrays of small types, ready to be put together with others.

Legend of shape suffixes: S the photo's side, s the labels', C channels, N objects, K words.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from expert_zoo.occlusion import instance_map
from expert_zoo.spec import LabelSpec
from pipeline.cell import CellReader
from trainer.data.geometry import Geometry
from trainer.data.warping import moved_boxes, moved_polygons, warped_map

#: Kinds of labels that are shown to a model as maps.
MAP_KINDS = ("map", "classes", "instances", "words")
#: The finest raster that objects are painted in, in units of the labels' side: a crop of a sixteenth of a photo.
_FINEST = 4


@dataclass(frozen=True, slots=True, eq=False)
class LabelExample:
    """One label at training size. Only what its kind has is not None.

    pixels_ssC: uint8 or uint16. map: as stored, times ``scale`` plus ``bias`` the value. classes: class ids, the greatest value of
        the type is none. instances, words: which object or word, from 0, the best first; the greatest value is none.
    class_ids_N, boxes_N4: of the objects that are seen, xyxy in units of the training image's sides.
    texts, corners_K42: of the words that are seen.
    """

    pixels_ssC: NDArray[np.unsignedinteger]
    scale: float = 1.0
    bias: float = 0.0
    class_ids_N: NDArray[np.int32] | None = None
    boxes_N4: NDArray[np.float32] | None = None
    texts: tuple[str, ...] | None = None
    corners_K42: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One image of a batch.

    photo_SS3: uint8 RGB. geometry: where it lies in its photo. labels: by modality, None where there is none: not committed, or
    failed. text: what the dataset's ``text_of`` made. item: see selection. position: in the epoch's order.
    """

    image_id: str
    position: int
    item: int
    photo_SS3: NDArray[np.uint8]
    geometry: Geometry
    labels: Mapping[str, LabelExample | None]
    captions: tuple[str, ...]
    text: Any = None
    replaced: tuple[str, ...] = field(default=())


class StoredLabel:
    """A label as it lies in an open cell."""

    def __init__(self, cell: CellReader, row: dict[str, Any]) -> None:
        self.cell = cell
        self.row = row

    @property
    def spec(self) -> LabelSpec:
        return self.cell.card.spec

    @functools.cached_property
    def pixels(self) -> NDArray[np.unsignedinteger]:
        """Of a map, as stored; decoded once. Raises DamagedCell."""
        return self.cell.pixels(self.row)


def label_example(
    label: StoredLabel | None, geometry: Geometry, size: int, *, depth: StoredLabel | None
) -> LabelExample | None:
    """``label`` as the training image shows it, size x size; None where there is none.

    geometry: with the photo's size in the pixels that boxes are in. depth: the label that tells which object is in front, if any.
    Raises DamagedCell.
    """
    if label is None or label.row["status"] == "failed":
        return None
    match label.spec.kind:
        case "map" | "classes":
            if label.row["status"] == "empty":
                return None
            pixels = warped_map(label.pixels, geometry, size, how=_how(label.spec))
            pixels_ssC = pixels[..., None] if pixels.ndim == 2 else pixels
            if label.spec.kind == "classes":
                return LabelExample(pixels_ssC)
            return LabelExample(pixels_ssC, scale=label.row["scale"], bias=label.row["bias"])
        case "instances":
            return _objects(label.row, geometry, size, depth)
        case "words":
            return _words(label.row, geometry, size)
    raise AssertionError(f"no way to show kind {label.spec.kind!r} as a map")


def _how(spec: LabelSpec) -> Any:
    assert spec.resample != "none", "LabelSpec says how every map resamples"
    return spec.resample


def _objects(row: dict[str, Any], geometry: Geometry, size: int, depth: StoredLabel | None) -> LabelExample:
    boxes_N4 = np.asarray(row["boxes"] or [], np.float32).reshape(-1, 4)
    class_ids_N = np.asarray(row["class_ids"] or [], np.int32)
    if not len(boxes_N4):
        return LabelExample(np.full((size, size, 1), 255, np.uint8), class_ids_N=class_ids_N, boxes_N4=boxes_N4)
    # Who hides whom is decided in the whole photo, so that no crop changes it; the raster is as fine as the training image.
    (a, b, _), (d, e, _) = geometry.to_photo_23.tolist()
    high, wide = (min(_FINEST * size, math.ceil(size / math.hypot(*across))) for across in ((d, e), (a, b)))
    quantity: Any = "inverse_depth" if depth is None else depth.spec.quantity
    # Values are a positive multiple of the stored integers, and all that counts is which is more.
    levels_HW: Any = None if depth is None or len(boxes_N4) < 2 else depth.pixels
    ids_hw = instance_map(
        boxes_N4,
        levels_HW,
        quantity=quantity,
        photo=(int(geometry.height), int(geometry.width)),
        size=(high, wide),
    )
    ids_ss, seen = _renumbered(warped_map(ids_hw, geometry, size, how="nearest"))
    return LabelExample(
        ids_ss[..., None], class_ids_N=class_ids_N[seen], boxes_N4=moved_boxes(boxes_N4[seen], geometry)
    )


def _words(row: dict[str, Any], geometry: Geometry, size: int) -> LabelExample:
    polygons_K42 = np.asarray(row["polygons"] or [], np.float32).reshape(-1, 4, 2)
    corners_K42 = moved_polygons(polygons_K42, geometry)
    dtype = np.uint8 if len(corners_K42) <= 255 else np.uint16
    ids_ss = np.full((size, size), np.iinfo(dtype).max, dtype)
    # Corners are places, cv2's points are pixel centres; 4 bits of each coordinate are a fraction.
    points_K42 = np.rint((corners_K42 * size - 0.5) * 16).clip(-(2**20), 2**20).astype(np.int32)
    for index in range(len(points_K42) - 1, -1, -1):  # the first word, which was read first, on top
        cv2.fillConvexPoly(ids_ss, points_K42[index], index, lineType=cv2.LINE_8, shift=4)
    ids_ss, seen = _renumbered(ids_ss)
    texts = row["texts"] or []
    return LabelExample(ids_ss[..., None], texts=tuple(texts[index] for index in seen), corners_K42=corners_K42[seen])


def _renumbered(ids_ss: NDArray[np.unsignedinteger]) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """The map with the ids that are seen numbered from 0 on, in their order, and what they were."""
    nothing = int(np.iinfo(ids_ss.dtype).max)
    counts = cv2.calcHist([ids_ss], [0], None, [nothing + 1], [0, nothing + 1]).ravel()
    seen = np.flatnonzero(counts[:nothing])
    few = len(seen) <= 255
    table = np.full(nothing + 1, 255 if few else 65535, np.uint8 if few else np.uint16)
    table[seen] = np.arange(len(seen))
    return cv2.LUT(ids_ss, table) if ids_ss.dtype == np.uint8 else table[ids_ss], seen
