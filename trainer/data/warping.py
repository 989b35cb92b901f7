"""A photo, a label map, boxes and polygons by a Geometry, each at its own resolution.

Legend of shape suffixes: H, W the raster that is read, S x S the training image, 3 red, green, blue; N boxes, K polygons.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.encoded_photo import EncodedPhoto
from trainer.data.geometry import Geometry, moved

#: The mean of CLIP's training photos: after normalisation, nothing.
OUTSIDE = (123, 117, 104)
#: A photo is blurred before it is made smaller: variance in source pixels per (m^2 - 1), where m is how many of them a pixel of the
#: result spans. 1/6 together with bilinear sampling is the triangle of an antialiased bilinear resize; 1/8 is sharper and lies
#: between that and bicubic, some 42 dB from each on real photos.
_BLUR = 1 / 8


def warped_photo(photo: EncodedPhoto, geometry: Geometry, size: int) -> NDArray[np.uint8]:
    """The photo as the training image shows it, S x S x 3, antialiased; outside of the photo is OUTSIDE. Raises PhotoError."""
    spanned = _spanned(geometry.pixels_23(source=(photo.width, photo.height), size=size))
    pixels_HW3, factor = photo.pixels(shrink=min(spanned))
    source = (photo.width / factor, photo.height / factor)
    matrix_23 = geometry.pixels_23(source=source, size=size)
    pixels_HW3, matrix_23 = _needed(pixels_HW3, matrix_23, size)
    pixels_HW3, matrix_23 = _halved(pixels_HW3, matrix_23)
    across, down = (math.sqrt(max(0.0, (m * m - 1) * _BLUR)) for m in _spanned(matrix_23))
    if max(across, down) > 0.2:
        kernel = tuple(2 * math.ceil(2 * sigma - 0.3) + 1 for sigma in (across, down))
        pixels_HW3 = cv2.GaussianBlur(
            pixels_HW3, kernel, sigmaX=max(across, 1e-6), sigmaY=max(down, 1e-6), borderType=cv2.BORDER_REPLICATE
        )
    image_SS3 = _sampled(pixels_HW3, matrix_23, size, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
    if not geometry.shows_photo_only:
        cv2.copyTo(_plain(size), (~inside(geometry, size)).view(np.uint8), image_SS3)
    return image_SS3


def warped_map(
    values: NDArray[np.unsignedinteger], geometry: Geometry, size: int, *, how: Literal["bilinear", "nearest"]
) -> NDArray[np.unsignedinteger]:
    """A label map of the whole photo, (H, W) or (H, W, 3), as the training image shows it.

    nearest: outside of the photo is the greatest value of the type, which class maps ignore. bilinear: outside is what lies nearest
    inside; `inside` tells which is which.
    """
    matrix_23 = geometry.pixels_23(source=(values.shape[1], values.shape[0]), size=size)
    if how == "bilinear":
        return _sampled(values, matrix_23, size, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
    nothing = int(np.iinfo(values.dtype).max)
    return _sampled(values, matrix_23, size, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, nothing)


def inside(geometry: Geometry, size: int) -> NDArray[np.bool_]:
    """Which pixels of the training image have their centres in the photo, S x S."""
    (a, b, c), (d, e, f) = geometry.to_photo_23.astype(np.float32)
    x_1S = (np.arange(size, dtype=np.float32)[None] + np.float32(0.5)) / np.float32(size)
    y_S1 = x_1S.T
    s_SS, t_SS = a * x_1S + (b * y_S1 + c), d * x_1S + (e * y_S1 + f)
    return (np.minimum(s_SS, t_SS) >= 0) & (np.maximum(s_SS, t_SS) <= 1)


def moved_boxes(boxes_N4: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Boxes in pixels of the photo (``geometry.width`` x ``geometry.height``) as boxes around them in the training image.

    xyxy in units of its sides, cut at its edges: what has left it has no width or no height.
    """
    left, top, right, bottom = (boxes_N4 / (geometry.width, geometry.height, geometry.width, geometry.height)).T
    points = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1).reshape(-1, 2)
    corners_N42 = moved(points, geometry.from_photo_23()).reshape(-1, 4, 2)
    found_N4 = np.concatenate([corners_N42.min(axis=1), corners_N42.max(axis=1)], axis=1)
    return found_N4.clip(0, 1).astype(np.float32)


def moved_polygons(polygons_K42: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Polygons in pixels of the photo as polygons in units of the training image's sides, not cut at its edges.

    Corners keep their order; in a mirrored image they run the other way round, as the letters do.
    """
    points = polygons_K42.reshape(-1, 2).astype(np.float64) / (geometry.width, geometry.height)
    return moved(points, geometry.from_photo_23()).reshape(-1, 4, 2).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _plain(size: int) -> NDArray[np.uint8]:
    return np.full((size, size, 3), OUTSIDE, np.uint8)


def _spanned(matrix_23: NDArray[np.float64]) -> tuple[float, float]:
    """How many pixels of the raster one of the training image spans, across and down."""
    (a, b, _), (d, e, _) = matrix_23.tolist()
    return math.hypot(a, b), math.hypot(d, e)


def _needed(
    pixels_HW3: NDArray[np.uint8], matrix_23: NDArray[np.float64], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The part of a raster that is looked at, with a margin for the blur, and the map into that part."""
    corners_42 = moved(np.array([[0.0, 0.0], [size - 1, 0.0], [0.0, size - 1], [size - 1, size - 1]]), matrix_23)
    ends_2 = np.array([pixels_HW3.shape[1], pixels_HW3.shape[0]])
    margin_2 = np.ceil(np.array(_spanned(matrix_23)) * 2) + 2
    first_2 = np.clip(np.floor(corners_42.min(axis=0)) - margin_2, 0, ends_2 - 1).astype(int)
    last_2 = np.clip(np.ceil(corners_42.max(axis=0)) + margin_2 + 1, first_2 + 1, ends_2).astype(int)
    part_HW3 = pixels_HW3[first_2[1] : last_2[1], first_2[0] : last_2[0]]
    return part_HW3, matrix_23 - np.array([[0, 0, first_2[0]], [0, 0, first_2[1]]])


def _halved(
    pixels_HW3: NDArray[np.uint8], matrix_23: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A raster that is far too fine, averaged over whole squares of its pixels, and the map into what is left."""
    factor = int(min(_spanned(matrix_23)) / 2)
    if factor < 2:
        return pixels_HW3, matrix_23
    height, width = (max(1, side // factor) for side in pixels_HW3.shape[:2])
    # What does not fill a square lies in the margin, or at the photo's edge, where it is less than a pixel of the result.
    whole_HW3 = pixels_HW3[: height * factor, : width * factor]
    smaller = cv2.resize(whole_HW3, (width, height), interpolation=cv2.INTER_AREA)
    halved_23 = matrix_23 / factor
    halved_23[:, 2] = (matrix_23[:, 2] + 0.5) / factor - 0.5
    return smaller, halved_23


def _sampled(
    values: NDArray, matrix_23: NDArray[np.float64], size: int, how: int, border: int, fill: int = 0
) -> NDArray:
    if values.ndim == 3:  # four channels go twice as fast as three, to the same result
        values = cv2.cvtColor(values, cv2.COLOR_RGB2RGBA)
    result = cv2.warpAffine(
        values, matrix_23, (size, size), flags=how | cv2.WARP_INVERSE_MAP, borderMode=border, borderValue=fill
    )
    return cv2.cvtColor(result, cv2.COLOR_RGBA2RGB) if result.ndim == 3 else result
