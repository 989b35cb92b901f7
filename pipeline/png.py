"""Label maps as PNG files and back.

Written by OpenCV, every row as its difference to the row above. Such a PNG is read here by its rows, with a faster inflate than
PNG libraries use, in half of their time; any other PNG is read by OpenCV.

Legend of shape suffixes: H, W height and width, 3 the channels red, green, blue.
"""

from __future__ import annotations

import struct
from collections import deque

import cv2
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

#: Measured on our maps by `python -m bench.png` (docs/benchmarks.md). Run lengths alone: what a network says of a pixel is
#: noise in its last bits, in which searching for longer matches costs twice the time and finds nothing. One row filter: left to
#: itself, libpng tries all five on every row. The row above: other filters are some per cent smaller on some kinds of maps, but a
#: label is written once and read in every epoch, and this one is undone row by row.
PNG_FLAGS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
FILTER = cv2.IMWRITE_PNG_FILTER_UP

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Of the header chunk: length, name, width, height, bit depth, colour type, compression, filter, interlace.
_HEADER = struct.Struct(">I4sIIBBBBB")
_CHUNK = struct.Struct(">I4s")
_GREY, _RGB = 0, 2
_AS_IT_IS, _ROW_ABOVE = 0, 2
_InflateError: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stubs call the class an instance
#: What a header may promise: no label is larger, and a broken one would have us ask for all memory.
_MOST_BYTES = 1 << 30


def write_png(pixels: NDArray[np.unsignedinteger]) -> bytes:
    """(H, W) or (H, W, 3) RGB, uint8 or uint16, as PNG. Loses nothing; releases the interpreter lock while it works."""
    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else np.ascontiguousarray(pixels)
    done, data = cv2.imencode(".png", pixels, (*PNG_FLAGS, cv2.IMWRITE_PNG_FILTER, FILTER))
    assert done, f"PNG encoding failed for {pixels.shape} {pixels.dtype}"
    return bytes(data.tobytes())


def read_png(data: bytes) -> NDArray[np.unsignedinteger] | None:
    """The pixels of a PNG, uint8 or uint16: (H, W) of a grey one, (H, W, 3) RGB of a coloured one. None where it is none."""
    pixels = _by_rows(data)
    if pixels is not None:
        return pixels
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    return (
        cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
        if found is not None and found.ndim == 3 and found.shape[2] == 3
        else found
    )


def _by_rows(data: bytes) -> NDArray[np.unsignedinteger] | None:
    """The pixels of a whole PNG as `write_png` writes them; None for all others."""
    if len(data) < 33 or not data.startswith(_SIGNATURE):
        return None
    _, name, width, height, bits, colour, *method = _HEADER.unpack_from(data, len(_SIGNATURE))
    if name != b"IHDR" or bits not in (8, 16) or colour not in (_GREY, _RGB) or method != [0, 0, 0]:
        return None
    row_bytes = width * (bits // 8) * (3 if colour == _RGB else 1)
    size = height * (row_bytes + 1)
    if not 0 < size < _MOST_BYTES:
        return None
    try:
        rows = np.frombuffer(isal_zlib.decompress(_compressed(data), bufsize=size), np.uint8)
    except (_InflateError, struct.error):
        return None
    if len(rows) != size:
        return None
    rows = rows.reshape(height, row_bytes + 1)
    if rows[0, 0] not in (_AS_IT_IS, _ROW_ABOVE) or (rows[1:, 0] != _ROW_ABOVE).any():
        return None
    pixels = rows[:, 1:].copy()
    lines = list(pixels)
    deque(map(np.add, lines[1:], lines, lines[1:]), maxlen=0)  # row after row, each added to the sum above it, in place
    shape = (height, width, 3) if colour == _RGB else (height, width)
    return (pixels.view(">u2").astype(np.uint16) if bits == 16 else pixels).reshape(shape)


def _compressed(data: bytes) -> bytes:
    """What the chunks IDAT hold. Raises struct.error where a chunk breaks off."""
    pieces, place = [], len(_SIGNATURE)
    name = b""
    while name != b"IEND":
        length, name = _CHUNK.unpack_from(data, place)
        if name == b"IDAT":
            pieces.append(data[place + 8 : place + 8 + length])
        place += length + 12
    return b"".join(pieces)
