"""The occlusion-resolved instance map: which detected object every pixel shows, painted from boxes and depth when a sample is read.

Rules, in order, those of Prismer (arXiv:2303.02506) and its released code:

1. A box that overlaps an earlier kept one by more than 0.95 (intersection over union, whatever their classes) is dropped.
2. Of two boxes, one wholly inside the other: the inner one is in front.
3. Else the box whose mean depth, over all of the box, is nearer is in front; of equal means the later box.
4. A pixel shows the box that is in front of all others there. Rules 2 and 3 can go round in a ring (A inside B, B nearer than
   C, C nearer than A): where no box is in front of all others, rule 3 alone decides.

Rounding, one rule for all grids: a box covers the pixels whose centres it contains (left and upper edge included, right and
lower edge not), but at least the one row and the one column that its own centre lies in. Rules 1 and 2 look at pixels of the
photo, rule 3 at pixels of the depth map, rule 4 at those of the result: so what is dropped and what is in front of what depends
neither on the depth map's resolution nor on the result's.

Depth is rounded to 65536 levels from its least to its greatest value first, so that sums are whole numbers and means that
ought to be equal are. No mask is ever made for a box: overlaps come from the boxes' corners, means from one integral image, and
the result from painting rectangles, the nearest last. What that gets wrong are boxes inside nearer ones; those are painted
again.

Shapes: H x W pixels of the depth map, h x w of the result, N boxes, K boxes kept.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

#: Rule 1, as a fraction of whole numbers: 19 / 20.
DUPLICATE: Final = (19, 20)
#: Ids that mean that no object is there, for up to 255 and up to 65535 boxes: what class maps ignore, too.
NONE_OF_255, NONE_OF_65535 = 255, 65535
LEVELS = 65535

Ints = NDArray[np.int64]


def instance_map(
    boxes_N4: NDArray[np.float32],
    depth_HW: NDArray[np.float32] | None,
    *,
    quantity: Literal["depth", "inverse_depth"],
    photo: tuple[int, int],
    size: tuple[int, int],
) -> NDArray[np.unsignedinteger]:
    """Ids h x w: for every pixel the index of the box it shows, or the greatest value of the type where there is none.

    boxes_N4: xyxy in pixels of the photo, best first, as in labels.Instances; an id is the index here, whatever is dropped.
    depth_HW: a depth label's values, of any resolution, over the whole photo; None where there is none: then all boxes are
        equally far.
    quantity: of the depth label's spec: is the larger value farther (depth) or nearer (inverse_depth)?
    photo, size: (height, width) of the photo and of the result.

    uint8 for up to 255 boxes, else uint16. Raises ValueError on more than 65535 boxes.
    """
    count = len(boxes_N4)
    if count > NONE_OF_65535:
        raise ValueError(f"{count} boxes in one image; expected at most {NONE_OF_65535}")
    few = count <= NONE_OF_255
    ids_hw = np.full(size, NONE_OF_255 if few else NONE_OF_65535, np.uint8 if few else np.uint16)
    if count == 0:
        return ids_hw
    grids = (photo, size) if depth_HW is None else (photo, size, depth_HW.shape)
    on_photo_N4, on_map_N4, *on_depth = (covered_pixels(boxes_N4, photo=photo, grid=grid) for grid in grids)

    shared_NN, area_N = _shared_pixels(on_photo_N4)
    kept_K = _without_duplicates(shared_NN, area_N)
    inside_KK = (shared_NN == area_N[:, None])[np.ix_(kept_K, kept_K)]
    np.fill_diagonal(inside_KK, False)
    near_K = np.zeros(len(kept_K))
    if depth_HW is not None:
        near_K = _mean_levels(depth_HW, on_depth[0][kept_K]) * (1 if quantity == "inverse_depth" else -1)
    pixels_K4 = on_map_N4[kept_K]
    order_K = np.argsort(near_K, kind="stable")
    for k, (left, top, right, bottom) in zip(kept_K[order_K].tolist(), pixels_K4[order_K].tolist(), strict=True):
        ids_hw[top:bottom, left:right] = k
    _paint_inner_again(ids_hw, kept_K, pixels_K4, inside_KK, order_K)
    return ids_hw


def _paint_inner_again(
    ids_hw: NDArray[np.unsignedinteger], kept_K: Ints, pixels_K4: Ints, inside_KK: NDArray[np.bool_], order_K: Ints
) -> None:
    """Rule 2, where the nearest was painted last: each box inside a nearer one gets the pixels where no other is in front of it.

    All other pixels are right already: the nearest box there has none inside it, or there is a ring.
    """
    place_K = np.empty_like(order_K)
    place_K[order_K] = np.arange(len(order_K))
    nearer_KK = place_K[:, None] > place_K
    in_front_KK = inside_KK | (nearer_KK & ~inside_KK.T)
    inner = np.flatnonzero((inside_KK & ~nearer_KK).any(axis=1))
    starts, ends = pixels_K4[inner, None, :2], pixels_K4[inner, None, 2:]
    touching = ((starts < pixels_K4[:, 2:]) & (pixels_K4[:, :2] < ends)).all(axis=2)
    rectangles = pixels_K4.tolist()
    for k, hiding_K in zip(inner.tolist(), touching & in_front_KK[:, inner].T, strict=True):
        left, top, right, bottom = rectangles[k]
        shown = np.ones((bottom - top, right - left), bool)
        for other in np.flatnonzero(hiding_K).tolist():
            x0, y0, x1, y1 = rectangles[other]
            shown[max(y0 - top, 0) : y1 - top, max(x0 - left, 0) : x1 - left] = False
        ids_hw[top:bottom, left:right][shown] = kept_K[k]


def covered_pixels(boxes_N4: NDArray[np.float32], *, photo: tuple[int, int], grid: tuple[int, ...]) -> Ints:
    """First and one past the last pixel of each box in ``grid``, a raster of (height, width) pixels over the whole photo.

    N x 4, xyxy; never empty, never outside.
    """
    ends_2 = np.array([grid[1], grid[0]])
    boxes_N22 = boxes_N4.reshape(-1, 2, 2) * (ends_2 / (photo[1], photo[0]))
    first_N2, last_N2 = np.ceil(boxes_N22 - 0.5).clip(0, ends_2).astype(np.int64).transpose(1, 0, 2)
    thin_N2 = last_N2 <= first_N2
    if thin_N2.any():
        centre_N2 = np.floor(boxes_N22.mean(axis=1)).clip(0, ends_2 - 1).astype(np.int64)
        first_N2 = np.where(thin_N2, centre_N2, first_N2)
        last_N2 = np.where(thin_N2, centre_N2 + 1, last_N2)
    return np.concatenate([first_N2, last_N2], axis=1)


def _shared_pixels(pixels_N4: Ints) -> tuple[Ints, Ints]:
    """Pixels that each two boxes share, N x N, and those of each box."""
    first_N2, last_N2 = pixels_N4[:, :2], pixels_N4[:, 2:]
    width_NN, height_NN = (
        np.minimum.outer(last_N2[:, axis], last_N2[:, axis]) - np.maximum.outer(first_N2[:, axis], first_N2[:, axis])
        for axis in (0, 1)
    )
    shared_NN = np.maximum(width_NN, 0) * np.maximum(height_NN, 0)
    return shared_NN, np.prod(last_N2 - first_N2, axis=1)


def _without_duplicates(shared_NN: Ints, area_N: Ints) -> Ints:
    """Indices of the boxes that rule 1 keeps."""
    part, whole = DUPLICATE
    alike_NN = shared_NN * (whole + part) > part * (area_N[:, None] + area_N)
    kept_N = np.ones(len(area_N), bool)
    for later in np.flatnonzero(np.tril(alike_NN, -1).any(axis=1)).tolist():
        kept_N[later] = not (alike_NN[later, :later] & kept_N[:later]).any()
    return np.flatnonzero(kept_N)


def _mean_levels(depth_HW: NDArray[np.float32], pixels_K4: Ints) -> NDArray[np.float64]:
    """Mean depth of each box in levels: the quotient of two whole numbers, so equal means are equal to the last bit."""
    import cv2

    sums = cv2.integral(depth_levels(depth_HW), sdepth=cv2.CV_64F)
    left, top, right, bottom = pixels_K4.T
    sums_K = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    means_K: NDArray[np.float64] = sums_K / ((right - left) * (bottom - top))
    return means_K


def depth_levels(depth_HW: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Depth as whole numbers, 0 where it is least, 65535 where it is greatest; all 0 where it is the same everywhere."""
    import cv2

    low, high, _, _ = cv2.minMaxLoc(depth_HW)
    if high == low:
        return np.zeros(depth_HW.shape, np.uint16)
    levels_HW: NDArray[np.uint16] = cv2.normalize(depth_HW, None, 0, LEVELS, cv2.NORM_MINMAX, cv2.CV_16U)
    return levels_HW
