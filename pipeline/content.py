"""What is in a photo's file, for finding duplicates: its SHA-256, and a perceptual hash that survives resizing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from manifests.duplicates import Seen
from pipeline.decode import decode
from pipeline.limits import Limits, PhotoError
from pipeline.photos import read_bytes

_SIDE = 32
#: Root mean square of the 64 coefficients, in grey levels of 0 to 255, below which a picture is flat and says nothing.
_FLAT = 2.0


@dataclass(frozen=True, slots=True)
class LookAtFiles:
    """Looks at photos by their URIs, as `manifests.build.build` wants it. Picklable."""

    limits: Limits

    def __call__(self, uris: Sequence[str], near: bool) -> list[Seen]:
        """What each file is; ``problem`` is the code of the PhotoError for one that cannot be read.

        A file that can be read and not decoded has a SHA-256 and no perceptual hash: labelling it will say why.
        """
        return [self._look(uri, near) for uri in uris]

    def _look(self, uri: str, near: bool) -> Seen:
        try:
            data = read_bytes(uri, self.limits)
        except (PhotoError, MemoryError) as error:
            return Seen(problem=str(error).partition(":")[0] or "out of memory")
        sha256 = hashlib.sha256(data).hexdigest()
        if not near:
            return Seen(sha256)
        try:
            pixels_HW3, _, _ = decode(data, self.limits)
        except Exception:  # decoders raise whatever they like on broken files
            return Seen(sha256)
        return Seen(sha256, perceptual_hash(pixels_HW3))


def perceptual_hash(pixels_HW3: np.ndarray) -> str:
    """64 bits of a picture (uint8 RGB) as 16 hexadecimal digits; "" for one that is next to flat.

    The picture in grey, squashed to 32 x 32 by averaging; its discrete cosine transform; of the coefficients with vertical
    and horizontal frequencies 1 to 8 (in half waves), which bits are positive. Row by row, the highest bit first. It is the
    well-known "pHash" but for the row and the column of frequency 0 and for the threshold, which is 0 in place of the
    median: coefficients without a constant part are positive and negative alike.
    """
    grey_HW = cv2.cvtColor(pixels_HW3, cv2.COLOR_RGB2GRAY)
    small_SS = cv2.resize(grey_HW, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low_88 = cv2.dct(small_SS)[1:9, 1:9] / _SIDE
    if float(np.sqrt(np.mean(low_88**2))) * 8 < _FLAT:
        return ""
    return np.packbits(low_88.ravel() > 0).tobytes().hex()
