"""Decoding one photo: from a file's bytes to upright RGB pixels, or a PhotoError that says why not.

    bytes -> header (pixel limit) -> pixels -> 8-bit RGB on white -> upright

Nothing here changes the decoder's global settings, so that `decode` may be called from any number of threads, in a program
that has settings of its own.

Legend of shape suffixes: H, W height and width, 3 the channels red, green, blue.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import in_one_line
from pipeline.limits import Limits, PhotoError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

#: What a photo may be, found by content: Pillow's name of the format -> the usual file ending. Deliberately a short list:
#: other plug-ins of Pillow start programs (EPS runs Ghostscript) or know no signature and would claim any bytes.
FORMATS = {
    "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff", "PPM": "ppm",
    "JPEG2000": "jp2", "AVIF": "avif",
}  # fmt: skip

#: How files begin that are often found under the name of a photo. Compared in lower case, white space skipped.
STRANGERS = (
    (b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<head", "HTML"), (b"<?xml", "XML"), (b"<svg", "SVG"),
    (b"%pdf", "PDF"), (b"version https://git-lfs", "a Git LFS pointer"), (b"pk\x03\x04", "a ZIP archive"),
    (b"{", "JSON or text"), (b"%!ps", "PostScript"),
)  # fmt: skip

_ORIENTATION_TAG = 0x0112
#: Of a JPEG without any pixel libjpeg invents the first block, 16 rows high at most: so many rows prove nothing.
_JPEG_BLOCK_ROWS = 16
#: End-of-image markers, beyond the longest JPEG segment (65535 bytes): the file may be cut in the middle of one.
_JPEG_ENDING = b"\xff\xd9" * 32768


def decode(data: bytes, limits: Limits) -> tuple[NDArray[np.uint8], str, str]:
    """Encoded bytes -> upright uint8 RGB pixels (H, W, 3), the usual file ending, and a note ("truncated: ...") or "".

    Raises PhotoError; on a broken file also whatever the decoder raises.
    """
    if not data:
        raise PhotoError("empty file: 0 bytes")
    image = identify(data)
    limits.check_pixels(*image.size)
    note = ""
    try:
        image.load()
    except (OSError, EOFError) as error:
        if "truncated" not in str(error).lower():
            raise
        image = _load_what_is_there(image, data)
        missing = _empty_rows(np.asarray(image))
        if missing and image.height - missing <= _JPEG_BLOCK_ROWS:
            raise PhotoError("corrupt: truncated within the first rows of pixels") from error
        note = f"truncated: {len(data)} bytes, {missing} of {image.height} rows are missing"
    pixels_HW3 = upright(_to_rgb(image), orientation_of(image))
    return np.ascontiguousarray(pixels_HW3), FORMATS[image.format or ""], note


# ------------------------------------------------------------------------------------------------ bytes -> image


def identify(data: bytes) -> ImageFile:
    """The image with its header read and no pixel decoded.

    Pillow's own `Image.open` compares every header with a global limit that belongs to the whole program; ours is an
    argument, so the plug-ins are asked directly.
    """
    from PIL import Image

    Image.init()
    broken: PhotoError | None = None
    for name in FORMATS:
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or accepts is None or accepts(data[:16]) is not True:
            continue
        try:
            return factory(io.BytesIO(data), "")
        except Image.DecompressionBombError as error:
            raise PhotoError(f"too many pixels: {in_one_line(error)}") from error
        except (SyntaxError, IndexError, TypeError, ValueError, KeyError, OSError, EOFError, struct.error) as error:
            broken = PhotoError(f"corrupt: the {name} header, {in_one_line(error)}")
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, what in STRANGERS:
        if start.startswith(beginning):
            raise PhotoError(f"not an image: {what}")
    raise broken or PhotoError(f"not an image: begins with {data[:12]!r}")


def _load_what_is_there(image: ImageFile, data: bytes) -> ImageFile:
    """The loaded image of a JPEG or PNG that ends too early; any other format raises what its decoder raises.

    Pillow's switch for this is global and so of no use between threads. libjpeg goes on when it sees an end marker (a
    progressive JPEG then shows all its rows, less sharp); the PNG decoder has already filled the rows that it was given.
    An interlaced PNG lacks pixels everywhere and is refused.
    """
    if image.format in ("JPEG", "MPO"):
        image = identify(data + _JPEG_ENDING)
    elif image.format == "PNG" and not image.info.get("interlace"):
        image.tile = []
    image.load()
    return image


def _empty_rows(pixels: NDArray[np.generic]) -> int:
    """How many rows at the bottom hold one single value: what a decoder leaves where the file had no more to say."""
    rows = pixels.reshape(pixels.shape[0], pixels.shape[1], -1)
    full = np.flatnonzero((rows != rows[-1, -1]).any(axis=(1, 2)))
    return len(rows) - 1 - int(full[-1]) if full.size else len(rows)


# ------------------------------------------------------------------------------------------------ image -> pixels


def _to_rgb(image: ImageFile) -> NDArray[np.uint8]:
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_to_8_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _to_8_bits(grey_HW: NDArray[np.generic]) -> NDArray[np.uint8]:
    """16-bit greys scaled by 255/65535; 32-bit and float greys that are in no such range stretched from low to high."""
    if grey_HW.dtype.kind == "u":  # mode I;16: exactly 65536 values
        return np.rint(np.arange(65536) / 257).astype(np.uint8)[grey_HW]
    values_HW = np.nan_to_num(grey_HW.astype(np.float64))
    low, high = (0.0, 65535.0)
    if values_HW.min() < low or values_HW.max() > high:
        low, high = float(values_HW.min()), float(values_HW.max())
    elif grey_HW.dtype.kind == "f":
        high = 1.0 if values_HW.max() <= 1 else 255.0 if values_HW.max() <= 255 else high
    return np.rint((values_HW - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)


def orientation_of(image: ImageFile) -> int:
    """Its EXIF orientation, 1 where it has none."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block is no reason to refuse the photo
        return 1


def upright(pixels_HW3: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the EXIF orientation (1 to 8; anything else counts as 1). Source: CIPA DC-008 (Exif 2.32), tag 0x0112."""
    match orientation:
        case 2:
            return pixels_HW3[:, ::-1]
        case 3:
            return pixels_HW3[::-1, ::-1]
        case 4:
            return pixels_HW3[::-1]
        case 5:
            return pixels_HW3.transpose(1, 0, 2)
        case 6:
            return np.rot90(pixels_HW3, -1)
        case 7:
            return pixels_HW3[::-1, ::-1].transpose(1, 0, 2)
        case 8:
            return np.rot90(pixels_HW3)
    return pixels_HW3
