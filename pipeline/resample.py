"""Resizing label maps. A map covers the full image extent, so pixel centres lie at (i + 0.5) * scale."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def resize_map(values: NDArray, height: int, width: int, *, how: str) -> NDArray:
    """``values`` (H, W) or (H, W, C) at ``height`` x ``width``; ``how`` is LabelSpec.resample: bilinear or nearest.

    Bilinear clamps at the border and does not prefilter. Nearest takes the pixel that holds the new centre.
    """
    old_height, old_width = values.shape[:2]
    if (old_height, old_width) == (height, width):
        return values
    if how == "nearest":
        # OpenCV's own nearest takes the pixel at i * scale: half a pixel up and left of where it should be.
        rows = ((np.arange(height) + 0.5) * old_height / height).astype(np.intp)
        columns = ((np.arange(width) + 0.5) * old_width / width).astype(np.intp)
        return values[rows[:, None], columns]
    assert how == "bilinear", how
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
