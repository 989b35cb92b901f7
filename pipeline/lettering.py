"""Writing text into pictures, in any script that there is a typeface for; in escapes where there is none.

Typefaces are asked in turn: the one that comes with Pillow; FiraGO, from the package pymupdf-fonts (SIL Open Font License), for
Latin with all its accents, Greek, Cyrillic, Arabic, Hebrew, Thai, Georgian and Devanagari; and for Chinese, Japanese and Korean,
whose typefaces are too large to come along, the file that EXPERT_LABELS_FONT names, or one of those that systems have.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import JobError

RGB = tuple[int, int, int]

INK: RGB = (25, 25, 25)
PAPER: RGB = (246, 246, 243)
#: No picture holds more.
MAX_CHARACTERS = 2000
#: Names a typeface for what the others lack.
FONT_VARIABLE = "EXPERT_LABELS_FONT"
#: What systems call theirs: Linux, macOS, Windows. Pillow looks for them where these keep fonts.
SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "SourceHanSans.ttc", "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc", "wqy-zenhei.ttc", "unifont.otf", "PingFang.ttc", "Arial Unicode.ttf", "msyh.ttc",
)  # fmt: skip

Face = ImageFont.FreeTypeFont | ImageFont.ImageFont


def text_tile(text: str, heading: str, height: int, width: int, paper: RGB = PAPER) -> NDArray[np.uint8]:
    """A plain tile with a heading and wrapped text, cut off with dots where it does not fit. A new line begins where ``text`` has one."""
    image = Image.new("RGB", (width, height), paper)
    size = max(10, height // 14)
    margin, line = max(4, height // 24), round(size * 1.3)
    write(image, (margin, margin), cut(heading, size, width - 2 * margin), size, (95, 95, 95))
    lines = [part for whole in text.split("\n") for part in wrapped(whole, size, width - 2 * margin)]
    rows = max(0, (height - 2 * margin) // line - 1)
    for row, words in enumerate(lines[:rows]):
        shown = words[:-3] + "..." if row == rows - 1 and len(lines) > rows else words
        write(image, (margin, margin + (row + 1) * line), shown, size, INK)
    return np.asarray(image)


def write(
    image: Image.Image, at: tuple[float, float], text: str, size: int, ink: RGB = INK, *, middle: bool = False
) -> None:
    """``text`` in its printable form with its upper left corner ``at``, or with ``middle`` the middle of its left side."""
    draw = ImageDraw.Draw(image)
    left, top = at
    # Typefaces differ in how far letters hang below the upper edge of their line: all stand on one base line.
    base = top + (0.35 * size if middle else 0.95 * size)
    for run, face in _runs(printable(text)):
        if isinstance(_font(face, size), ImageFont.FreeTypeFont):
            draw.text((left, base), run, fill=ink, font=_font(face, size), anchor="ls")
        else:
            draw.text((left, top), run, fill=ink, font=_font(face, size))
        left += _font(face, size).getlength(run)


def length(text: str, size: int) -> float:
    """Pixels that the printable form of ``text`` is wide."""
    return sum(_font(face, size).getlength(run) for run, face in _runs(printable(text)))


def printable(text: str) -> str:
    """``text`` in characters that some typeface has; others as escapes (\\u4e2d), never as empty boxes."""
    folded = " ".join(text.split())
    return "".join(
        c if _face_of(c) is not None else c.encode("unicode_escape", "backslashreplace").decode() for c in folded
    )


def cut(text: str, size: int, width: int) -> str:
    """As much of ``text`` as fits ``width`` pixels, with dots where that is not all."""
    lines = wrapped(text, size, width)
    return lines[0][:-3] + "..." if len(lines) > 1 else "".join(lines)


def wrapped(text: str, size: int, width: int) -> list[str]:
    """The printable form of ``text`` in lines of at most ``width`` pixels at that font size; long words are broken."""
    lines: list[str] = []
    current = ""
    for word in printable(text[:MAX_CHARACTERS]).split(" "):
        longer = f"{current} {word}" if current else word
        if length(longer, size) <= width:
            current = longer
            continue
        if current:
            lines.append(current)
        while len(word) > 1 and length(word, size) > width:
            fits = next(n for n in range(len(word), 0, -1) if n == 1 or length(word[:n], size) <= width)
            lines.append(word[:fits])
            word = word[fits:]
        current = word
    return [*lines, current] if current else lines


def tag(image: Image.Image, at: tuple[float, float], text: str, colour: RGB, size: int) -> None:
    """Text on a plate of ``colour`` whose top left is ``at``, moved inwards where it would leave the image."""
    width, height = length(text, size) + 5, size + 3
    left, top = max(0, min(at[0], image.width - width - 1)), max(0, min(at[1], image.height - height - 1))
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    ImageDraw.Draw(image).rectangle((left, top, left + width, top + height), fill=colour)
    write(image, (left + 3, top + height / 2), text, size, (255, 255, 255) if luma < 140 else (0, 0, 0), middle=True)


# ---- typefaces


def font(size: int) -> Face:
    """Pillow's own typeface at ``size`` pixels: for text that is ours, in English."""
    return _font(0, size)


def _runs(text: str) -> Iterator[tuple[str, int]]:
    """Pieces of printable text with the typeface of each: a word's own, where one has all of it."""
    run, face = "", 0
    for word in text.split(" "):
        whole = next((n for n in range(len(_faces())) if all(_has_glyph(n, c) for c in word)), None)
        for character in word if whole is None else [word]:
            own = whole if whole is not None else _face_of(character) or 0
            if own != face and run:
                yield run, face
                run = ""
            run, face = run + character, own
        run += " "
    if run[:-1]:
        yield run[:-1], face


@lru_cache(maxsize=4096)
def _face_of(character: str) -> int | None:
    """The first typeface that has it."""
    return next((number for number in range(len(_faces())) if _has_glyph(number, character)), None)


@lru_cache(maxsize=16384)
def _has_glyph(face: int, character: str) -> bool:
    # A typeface draws one and the same box for everything that it lacks.
    if character == " ":
        return True
    return bytes(_font(face, 16).getmask(character)) != bytes(_font(face, 16).getmask("\uffff"))


@lru_cache(maxsize=256)
def _font(face: int, size: int) -> Face:
    where = _faces()[face]
    if where is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(where if isinstance(where, str) else io.BytesIO(where), size)


@lru_cache(maxsize=1)
def _faces() -> tuple[str | bytes | None, ...]:
    """The typefaces' files, or where these are; None is Pillow's own."""
    from pymupdf_fonts import fontbuffers

    found: list[str | bytes | None] = [None, fontbuffers["figo"]()]
    named = os.environ.get(FONT_VARIABLE)
    for name in [named] if named else SYSTEM_FONTS:
        try:
            found.append(str(ImageFont.truetype(name, 16).path))
            break
        except OSError as error:
            if named:
                raise JobError(
                    f"{FONT_VARIABLE} is {named}, which is no typeface ({error}); expected a file .ttf, .otf or .ttc"
                ) from error
    return tuple(found)
