"""The expert `image`: the photo itself, kept beside its labels, so that a store can be trained from without the originals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Expert, Needs, Photo
from expert_zoo.labels import Label, Picture
from expert_zoo.resize import resize_long_side
from expert_zoo.spec import LabelSpec

#: libjpeg refuses to encode beyond this.
MAX_JPEG_SIDE = 65500


class Image(Expert):
    """Materialises the photo.

    long_side: None keeps the file's bytes as they came (a rendered photo, which never was a file, becomes a PNG). A number
        of pixels: every photo is encoded anew as JPEG from its upright RGB pixels, made smaller where its longer side
        exceeds that number, never enlarged.
    quality: of that JPEG, 1 to 100, as in libjpeg; without ``long_side`` it has no effect.

    Raises ValueError on other values.
    """

    needs: ClassVar[Needs] = Needs(batch_size=16)

    def __init__(self, *, long_side: int | None = None, quality: int = 90) -> None:
        if long_side is not None and (type(long_side) is not int or not 1 <= long_side <= MAX_JPEG_SIDE):
            raise ValueError(
                f"image: long_side is {long_side!r}; expected 1 to {MAX_JPEG_SIDE} pixels, or null to keep the file"
            )
        if type(quality) is not int or not 1 <= quality <= 100:
            raise ValueError(f"image: quality is {quality!r}; expected a whole number from 1 to 100")
        self.long_side = long_side
        self.quality = quality
        kept = long_side is None
        self.card = ExpertCard(
            name="image",
            summary="The photo itself: the file as it came, or a smaller JPEG of it.",
            network="none",
            preprocessing={"long_side": long_side, "filter": None if kept else "area, never enlarged"},
            processing={
                "encoding": "the file's own bytes; PNG where the photo was rendered" if kept else "JPEG 4:2:0, upright",
                "quality": None if kept else quality,
            },
            spec=LabelSpec(
                kind="image",
                quantity="photo",
                units="8-bit RGB",
                convention="as it came: apply the EXIF orientation, labels are upright" if kept else "upright, no EXIF",
                resample="bilinear",
            ),
            licence="of each photo",
            commercial_use=True,
        )

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        """One Picture per photo, in order."""
        return [Label.ok(self._picture(photo)) for photo in photos]

    def _picture(self, photo: Photo) -> Picture:
        if self.long_side is not None:
            small_HW3 = resize_long_side(photo.pixels_HW3, self.long_side)
            return Picture(_encode(small_HW3, "JPEG", quality=self.quality, subsampling="4:2:0"), "jpg")
        if photo.data is None:
            return Picture(_encode(photo.pixels_HW3, "PNG"), "png")
        return Picture(photo.data, _usual_ending(photo.format))


def _usual_ending(ending: str) -> str:
    ending = ending.lower().lstrip(".")
    return {"jpeg": "jpg", "tif": "tiff"}.get(ending, ending)


def _encode(pixels_HW3: NDArray[np.uint8], kind: str, **options: int | str) -> bytes:
    from PIL import Image as PillowImage

    buffer = io.BytesIO()
    PillowImage.fromarray(pixels_HW3).save(buffer, kind, **options)
    return buffer.getvalue()
