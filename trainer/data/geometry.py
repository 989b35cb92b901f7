"""Geometry: one affine map from a training image to its photo, for the photo and for every label at its own resolution.

All places are in units of the sides, so that they do not depend on a resolution: (0, 0) is an image's upper left corner, (1, 1)
its lower right one, and the centre of pixel (column i, row j) of w x h lies at ((i + 0.5) / w, (j + 0.5) / h).

Legend of shape suffixes: 23 an affine map (x' = a x + b y + c; y' = d x + e y + f), K points, N boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Affine_23 = NDArray[np.float64]
IDENTITY: Affine_23 = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
#: How a photo becomes a square where nothing is drawn by chance: its sides' ratio given up, or what overhangs cut off.
Fit = Literal["squash", "centre"]


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """``to_photo_23``: where a place of the (square) training image lies in the photo; places outside of 0..1 are outside of it.

    ``height``, ``width``: of the photo, in whatever pixels; only their ratio matters.
    """

    to_photo_23: Affine_23
    height: float
    width: float

    @classmethod
    def fitted(cls, fit: Fit, *, height: float, width: float) -> Geometry:
        """The whole photo squashed, or the largest square from its middle."""
        if fit == "squash":
            return cls(IDENTITY, height, width)
        side = min(height, width)
        return cls(cropped(box_of_middle(side / width, side / height)), height, width)

    @property
    def shows_photo_only(self) -> bool:
        """Whether nothing outside of the photo is seen."""
        corners_42 = moved(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), self.to_photo_23)
        return bool((corners_42 >= -1e-9).all() and (corners_42 <= 1 + 1e-9).all())

    def from_photo_23(self) -> Affine_23:
        """The map the other way."""
        matrix_22 = np.linalg.inv(self.to_photo_23[:, :2])
        return np.hstack([matrix_22, -matrix_22 @ self.to_photo_23[:, 2:]])

    def pixels_23(self, *, source: tuple[float, float], size: int) -> Affine_23:
        """From the indices (x, y) of a pixel of the ``size`` x ``size`` training image to those in a raster of the photo.

        source: (width, height) of the photo in pixels of that raster. Indices mean centres: index 0 is half a pixel from the edge.
        """
        (a, b, c), (d, e, f) = self.to_photo_23.tolist()
        across, down = source[0] / size, source[1] / size
        return np.array(
            [
                [a * across, b * across, (a + b) * across / 2 + c * source[0] - 0.5],
                [d * down, e * down, (d + e) * down / 2 + f * source[1] - 0.5],
            ]
        )

    def turn_22(self) -> NDArray[np.float64]:
        """How directions turn from the photo to the training image, x to the right and y up: a rotation, perhaps mirrored.

        What squashes or shears is no motion of a camera, so of the map's linear part only the nearest orthogonal one counts
        (its polar factor): a crop of any shape turns nothing, a mirrored one changes the sign of x.
        """
        to_photo_22 = np.diag([self.width, self.height]) @ self.to_photo_23[:, :2]
        left_22, _, right_22 = np.linalg.svd(np.linalg.inv(to_photo_22))
        turn_22: NDArray[np.float64] = left_22 @ right_22
        return turn_22 * np.array([[1.0, -1.0], [-1.0, 1.0]])  # image rows run down


def box_of_middle(width: float, height: float) -> tuple[float, float, float, float]:
    """Left, top, width, height of a box in the middle of the photo."""
    return (1 - width) / 2, (1 - height) / 2, width, height


def cropped(box: tuple[float, float, float, float]) -> Affine_23:
    """To the photo from a training image that shows the box (left, top, width, height) of it."""
    left, top, width, height = box
    return np.array([[width, 0.0, left], [0.0, height, top]])


def after(first_23: Affine_23, then_23: Affine_23) -> Affine_23:
    """The map that does ``first_23`` and then ``then_23``."""
    result = then_23[:, :2] @ first_23
    result[:, 2] += then_23[:, 2]
    return result


def moved(points_K2: NDArray[np.float64], by_23: Affine_23) -> NDArray[np.float64]:
    """Points, K x 2, by an affine map."""
    result: NDArray[np.float64] = points_K2 @ by_23[:, :2].T + by_23[:, 2]
    return result
