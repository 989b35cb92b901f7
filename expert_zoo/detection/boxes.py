"""From a detector's boxes, in shares of the photo, to a label in its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expert_zoo.expert import Photo
from expert_zoo.labels import Label, instances


def detections(
    boxes_N4: NDArray[np.float32], scores_N: NDArray[np.float32], class_ids_N: NDArray[np.integer], photo: Photo
) -> Label:
    """An ``ok`` label of objects, best first, or ``empty``.

    ``boxes_N4``: centre x, centre y, width, height in shares of the photo (0 to 1), as the descendants of DETR say them; what
    reaches beyond the photo is cut off, and a box of which nothing is left is no object.
    """
    centres_N2, halves_N2 = boxes_N4[:, :2], boxes_N4[:, 2:] / 2
    shares_N4 = np.clip(np.concatenate([centres_N2 - halves_N2, centres_N2 + halves_N2], axis=1), 0, 1)
    pixels_N4 = shares_N4 * np.array([photo.width, photo.height] * 2, np.float32)
    kept = (pixels_N4[:, 2:] > pixels_N4[:, :2]).all(axis=1)
    return instances(pixels_N4[kept].tolist(), scores_N[kept].tolist(), class_ids_N[kept].tolist())


def checked_score(expert: str, min_score: object) -> float:
    """``min_score`` of a detector. Raises ValueError unless it is a number from 0 to 1."""
    if isinstance(min_score, bool) or not isinstance(min_score, int | float) or not 0 <= min_score <= 1:
        raise ValueError(f"{expert}: min_score is {min_score!r}; expected a number from 0 to 1")
    return float(min_score)


def overlaps(boxes_N4: NDArray[np.float32]) -> NDArray[np.float32]:
    """N x N: intersection over union of every box with every other; boxes as in `detections`."""
    low_N2, high_N2 = boxes_N4[:, :2] - boxes_N4[:, 2:] / 2, boxes_N4[:, :2] + boxes_N4[:, 2:] / 2
    sides_NN2 = np.minimum(high_N2[:, None], high_N2) - np.maximum(low_N2[:, None], low_N2)
    shared_NN = np.clip(sides_NN2, 0, None).prod(axis=2)
    areas_N = boxes_N4[:, 2] * boxes_N4[:, 3]
    return shared_NN / np.maximum(areas_N[:, None] + areas_N - shared_NN, np.finfo(np.float32).tiny)
