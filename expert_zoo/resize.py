"""Making a photo smaller, without a network library."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def resize_long_side(pixels_HW3: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """The photo with its longer side at most ``long_side`` pixels, the sides' ratio kept, each side at least 1 pixel.

    Area averaging, so that no detail aliases; never enlarges: a photo that is small enough comes back as it is.
    pixels_HW3: uint8, height x width x 3.
    """
    height, width = pixels_HW3.shape[:2]
    longest = max(height, width)
    if longest <= long_side:
        return pixels_HW3
    import cv2

    size = (max(1, round(width * long_side / longest)), max(1, round(height * long_side / longest)))
    return cv2.resize(pixels_HW3, size, interpolation=cv2.INTER_AREA)
