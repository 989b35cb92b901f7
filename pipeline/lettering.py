"""Writing text into pictures: with the font that comes with Pillow, in escapes where that font has no glyph."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

RGB = tuple[int, int, int]

INK: RGB = (25, 25, 25)
PAPER: RGB = (246, 246, 243)
#: No picture holds more.
MAX_CHARACTERS = 2000


def text_tile(text: str, heading: str, height: int, width: int, paper: RGB = PAPER) -> NDArray[np.uint8]:
    """A plain tile with a heading and wrapped text, cut off with dots where it does not fit."""
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    size = max(10, height // 14)
    margin, line = max(4, height // 24), round(size * 1.3)
    draw.text((margin, margin), printable(heading), fill=(95, 95, 95), font=font(size))
    lines = wrapped(text, size, width - 2 * margin)
    rows = max(0, (height - 2 * margin) // line - 1)
    for row, words in enumerate(lines[:rows]):
        cut = row == rows - 1 and len(lines) > rows
        draw.text((margin, margin + (row + 1) * line), words[:-3] + "..." if cut else words, fill=INK, font=font(size))
    return np.asarray(image)


def printable(text: str) -> str:
    """``text`` in characters that the font has; others as escapes (\\xe9, \\u4e2d), never as empty boxes."""
    folded = " ".join(text.split())
    return "".join(c if _has_glyph(c) else c.encode("unicode_escape", "backslashreplace").decode() for c in folded)


def wrapped(text: str, size: int, width: int) -> list[str]:
    """The printable form of ``text`` in lines of at most ``width`` pixels at that font size; long words are broken."""
    lines: list[str] = []
    current, face = "", font(size)
    for word in printable(text[:MAX_CHARACTERS]).split(" "):
        longer = f"{current} {word}" if current else word
        if face.getlength(longer) <= width:
            current = longer
            continue
        if current:
            lines.append(current)
        while len(word) > 1 and face.getlength(word) > width:
            fits = next(n for n in range(len(word), 0, -1) if n == 1 or face.getlength(word[:n]) <= width)
            lines.append(word[:fits])
            word = word[fits:]
        current = word
    return [*lines, current] if current else lines


def tag(image: Image.Image, at: tuple[float, float], text: str, colour: RGB, size: int) -> None:
    """Text on a plate of ``colour`` whose top left is ``at``, moved inwards where it would leave the image."""
    shown, face, draw = printable(text), font(size), ImageDraw.Draw(image)
    width, height = face.getlength(shown) + 5, size + 3
    left, top = max(0, min(at[0], image.width - width - 1)), max(0, min(at[1], image.height - height - 1))
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    ink = (255, 255, 255) if luma < 140 else (0, 0, 0)
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    draw.text((left + 3, top + height / 2), shown, fill=ink, font=face, anchor="lm")


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface at ``size`` pixels."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    # The font that comes with Pillow draws one and the same box for everything that it lacks.
    return character == " " or bytes(font(16).getmask(character)) != bytes(font(16).getmask("\uffff"))
