"""A photo whose size is known before its pixels: what training reads, which cuts most photos smaller than they are.

The pixels are those of `pipeline.decode`, bit for bit where nothing is left out. A whole JPEG, which nearly every photo is, is
decoded by OpenCV: same library, half the time, and at a half, a quarter or an eighth of the size for a fraction of it.

Legend of shape suffixes: H, W height and width, 3 the channels red, green, blue.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from manifests.record import ImageRecord
from pipeline.decode import decode, identify, orientation_of, upright
from pipeline.errors import in_one_line
from pipeline.limits import Limits, PhotoError
from pipeline.photos import read_bytes, read_photo

#: OpenCV's flags for 1/1, 1/2, 1/4, 1/8. Its names say grey or BGR for all but the first; the flag for RGB overrules that.
_JPEG_FLAGS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}
_JPEG_END = b"\xff\xd9"


class EncodedPhoto:
    """``height``, ``width``: of the upright photo, in pixels."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        """Looks at the header. Raises PhotoError where the bytes are no photo, or one beyond the limits."""
        if not data:
            raise PhotoError("empty file: 0 bytes")
        image = identify(data)
        limits.check_pixels(*image.size)
        self._data = data
        self._limits = limits
        self._turned: int | None = None
        # A cut JPEG has no end marker; whether enough of it is there is for `decode` to tell. CMYK is its business as well.
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and data.rstrip(b"\0").endswith(_JPEG_END):
            self._turned = orientation_of(image)
            self.width, self.height = image.size[::-1] if self._turned in (5, 6, 7, 8) else image.size
        else:
            self._pixels_HW3 = decode(data, limits)[0]
            self.height, self.width = self._pixels_HW3.shape[:2]

    def pixels(self, *, shrink: float = 1.0) -> tuple[NDArray[np.uint8], int]:
        """uint8 RGB (H, W, 3), upright, any strides, and by what whole number its sides are smaller than the photo's: at most ``shrink``.

        Pixel (0, 0) covers that many photo pixels each way from the upper left corner on; the last row and column may cover
        less of the photo than of their square. Raises PhotoError.
        """
        if self._turned is None:
            return self._pixels_HW3, 1
        factor = max(factor for factor in _JPEG_FLAGS if factor <= max(shrink, 1.0))
        if self._turned != 1 and (self.height % factor or self.width % factor):
            factor = 1  # turned, the incomplete row or column would come first
        flags = _JPEG_FLAGS[factor] | cv2.IMREAD_IGNORE_ORIENTATION
        pixels_HW3 = cv2.imdecode(np.frombuffer(self._data, np.uint8), flags)
        if pixels_HW3 is None:
            return decode(self._data, self._limits)[0], 1
        return upright(pixels_HW3, self._turned), factor


class RenderedPhoto(EncodedPhoto):
    """A photo that never was a file."""

    def __init__(self, pixels_HW3: NDArray[np.uint8]) -> None:
        self._turned = None
        self._pixels_HW3 = pixels_HW3
        self.height, self.width = pixels_HW3.shape[:2]


def open_photo(record: ImageRecord, limits: Limits, data: bytes | None = None) -> EncodedPhoto:
    """The photo of ``record``: from ``data`` where its bytes are at hand, else from its URI.

    Raises PhotoError, and nothing else, whatever the file is.
    """
    if data is None and record.uri.startswith("scenes://"):
        return RenderedPhoto(read_photo(record, limits).pixels_HW3)
    try:
        return EncodedPhoto(read_bytes(record.uri, limits) if data is None else data, limits)
    except PhotoError:
        raise
    except Exception as error:  # decoders raise whatever they like on broken files
        raise PhotoError(f"corrupt: {in_one_line(error)}") from error
