"""Augmentation: what is drawn by chance for a training image: a crop, a mirror, and operations on geometry or colour.

Source of operations and ranges: Cubuk et al., "RandAugment", arXiv:1909.13719; which of them, and how strong, after Prismer's
recipe (arXiv:2303.02506). Unlike there, all geometry is one map: nothing is resampled twice, and what lies beyond the crop but
within the photo is seen where an image is turned, rather than black corners.

Legend of shape suffixes: H, W the training image, 3 red, green, blue; 23 an affine map.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.data.chance import Chance
from trainer.data.geometry import IDENTITY, Affine_23, Geometry, after, box_of_middle, cropped

Operation = Literal[
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
    "autocontrast", "equalize", "brightness", "sharpness",
]  # fmt: skip
OPERATIONS: tuple[Operation, ...] = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
    "autocontrast", "equalize", "brightness", "sharpness",
)  # fmt: skip
COLOURS: tuple[Operation, ...] = ("autocontrast", "equalize", "brightness", "sharpness")
#: At magnitude 10: a share of the side, a share of the side, degrees. Either sign is as likely.
SHEAR, TRANSLATE, ROTATE = 0.3, 0.33, 30.0
#: Factors of brightness and sharpness at magnitudes 0 and 10; at 5 they change nothing.
FACTORS = (0.1, 1.9)
_TRIES = 10

Photo_HW3 = NDArray[np.uint8]


class Augmentation(BaseModel):
    """scale: share of the photo's area that a crop has; a draw beyond 1 cannot be cut and is drawn again. aspect: its width over
    its height. operations: how many of ``among`` follow one another, each as likely. magnitude: their strength, 0 to 10.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: tuple[float, float] = (0.5, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = Field(0.5, ge=0, le=1)
    operations: int = Field(2, ge=0)
    magnitude: float = Field(5.0, ge=0, le=10)
    among: tuple[Operation, ...] = Field(OPERATIONS, min_length=1)

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        for name, (low, high) in (("scale", self.scale), ("aspect", self.aspect)):
            if not 0 < low <= high:
                raise ValueError(f"{name} {low} to {high}; expected positive numbers, the smaller one first")
        if self.scale[0] > 1:
            raise ValueError(f"scale from {self.scale[0]}; no crop is larger than its photo")
        return self

    def draw(self, chance: Chance, *, height: float, width: float) -> tuple[Geometry, list[Operation]]:
        """The geometry of one training image, and the changes of colour to make to it, in order."""
        to_photo_23 = cropped(self._crop(chance, height, width))
        if chance.flip(self.flip):
            to_photo_23 = after(np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), to_photo_23)
        colours: list[Operation] = []
        for _ in range(self.operations):
            operation = self.among[chance.below(len(self.among))]
            sign = -1.0 if chance.flip() else 1.0
            if operation in COLOURS:
                colours.append(operation)
            else:
                # The later operation is the nearer one to the training image, from which the map starts.
                to_photo_23 = after(_step_23(operation, sign * self.magnitude / 10), to_photo_23)
        return Geometry(to_photo_23, height, width), colours

    def _crop(self, chance: Chance, height: float, width: float) -> tuple[float, float, float, float]:
        """Left, top, width, height in units of the photo's sides: as torchvision's RandomResizedCrop, without whole pixels."""
        for _ in range(_TRIES):
            area = chance.uniform(*self.scale)
            aspect = math.exp(chance.uniform(*(math.log(limit) for limit in self.aspect)))
            across = math.sqrt(area * aspect * height / width)
            down = math.sqrt(area / aspect * width / height)
            left, top = chance.uniform(), chance.uniform()
            if across <= 1 and down <= 1:
                return left * (1 - across), top * (1 - down), across, down
        aspect = min(max(width / height, self.aspect[0]), self.aspect[1]) * height / width
        return box_of_middle(min(1.0, aspect), min(1.0, 1 / aspect))

    def recoloured(self, photo_HW3: Photo_HW3, colours: list[Operation]) -> Photo_HW3:
        """The photo with these changes made."""
        low, high = FACTORS
        factor = low + (high - low) * self.magnitude / 10
        for colour in colours:
            photo_HW3 = _recoloured(photo_HW3, colour, factor)
        return photo_HW3


def _step_23(operation: Operation, strength: float) -> Affine_23:
    """From an image that the operation has changed to the one before; strength -1 to 1, a square of side 1."""
    match operation:
        case "shear_x":
            return np.array([[1.0, strength * SHEAR, 0.0], [0.0, 1.0, 0.0]])
        case "shear_y":
            return np.array([[1.0, 0.0, 0.0], [strength * SHEAR, 1.0, 0.0]])
        case "translate_x":
            return np.array([[1.0, 0.0, strength * TRANSLATE], [0.0, 1.0, 0.0]])
        case "translate_y":
            return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, strength * TRANSLATE]])
        case "rotate":
            cos, sin = math.cos(math.radians(strength * ROTATE)), math.sin(math.radians(strength * ROTATE))
            return np.array([[cos, -sin, (1 - cos + sin) / 2], [sin, cos, (1 - cos - sin) / 2]])
    return IDENTITY


def _recoloured(photo_HW3: Photo_HW3, colour: Operation, factor: float) -> Photo_HW3:
    import cv2

    if colour == "sharpness":
        if factor == 1.0:
            return photo_HW3
        blurred = photo_HW3.copy()
        kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
        blurred[1:-1, 1:-1] = cv2.filter2D(photo_HW3, -1, kernel)[1:-1, 1:-1]
        return cv2.addWeighted(photo_HW3, factor, blurred, 1 - factor, 0)
    if colour == "brightness":
        if factor == 1.0:
            return photo_HW3
        table = np.clip(np.arange(256) * factor, 0, 255).astype(np.uint8)
        return cv2.LUT(photo_HW3, table)
    counts_3 = [cv2.calcHist([photo_HW3], [channel], None, [256], [0, 256]).ravel() for channel in range(3)]
    tables = [(_stretching if colour == "autocontrast" else _levelling)(counts) for counts in counts_3]
    return cv2.LUT(photo_HW3, np.stack(tables, axis=1)[None])


def _stretching(counts: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A table that makes a channel's darkest value 0 and its brightest 255."""
    values = np.flatnonzero(counts)
    low, high = int(values[0]), int(values[-1])
    if low == high:
        return np.arange(256, dtype=np.uint8)
    return np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def _levelling(counts: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A table after which a channel's values are about equally frequent."""
    whole = counts.astype(np.int64)
    present = whole[whole > 0]
    step = int(whole.sum() - present[-1]) // 255
    if step == 0:
        return np.arange(256, dtype=np.uint8)
    below = np.cumsum(whole) - whole
    return np.minimum((step // 2 + below) // step, 255).astype(np.uint8)
