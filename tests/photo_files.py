"""A maker of photo files, good, odd and bad, for every test that wants to see what happens to them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HTML = b"<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What reading one file must come to: the upright ``size`` (width, height) with a note that begins with ``note``,
    or, where ``code`` is set, a PhotoError of that code."""

    size: tuple[int, int] = (0, 0)
    note: str = ""
    code: str = ""


def picture(width: int = 64, height: int = 48, seed: int = 0) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: smooth, and different in every corner, channel and row, so that no flip goes unseen."""
    y_HW, x_HW = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 255 * x_HW / max(width - 1, 1)
    green = 255 * y_HW / max(height - 1, 1)
    blue = 127 + 100 * np.sin(0.2 * x_HW + 0.11 * y_HW + seed)
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


def encode(pixels: NDArray[np.uint8], kind: str = "JPEG", **options: object) -> bytes:
    """The pixels as a file's bytes, by Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(upright: NDArray[np.uint8], orientation: int, kind: str = "JPEG", **options: object) -> bytes:
    """A file whose stored pixels are turned such that its EXIF orientation makes them ``upright`` again."""
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(np.ascontiguousarray(stored), kind, exif=exif.tobytes(), **options)


def bomb(width: int = 30000, height: int = 30000) -> bytes:
    """A PNG of a hundred bytes whose header states width x height."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def animation(kind: str) -> bytes:
    """Three frames of different content; the first is `picture()`."""
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=100, **options)
    return buffer.getvalue()


def make_bad_folder(folder: Path) -> dict[str, Expectation]:
    """Fill ``folder`` with one file of every kind of the issue's list; what must come of each, by name.

    "directory.jpg" (a directory) and "fifo.jpg" are no files: a source may as well leave them out. "unreadable.jpg" has no
    permission at all, which the superuser does not notice: its expectation is then that of a good photo.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rgb = picture()
    good = Expectation(size=(64, 48))
    large = encode(picture(320, 240), quality=90)
    large_png = encode(picture(320, 240), "PNG")
    rgba = np.dstack([rgb, np.arange(64, dtype=np.uint8)[None].repeat(48, 0) * 4])
    grey = rgb[:, :, 0]
    palette = Image.fromarray(rgb).quantize(16)
    palette_file = io.BytesIO()
    palette.save(palette_file, "PNG", transparency=0)
    bits, cmyk = io.BytesIO(), io.BytesIO()
    Image.fromarray(grey).convert("1").save(bits, "PNG")
    Image.fromarray(rgb).convert("CMYK").save(cmyk, "JPEG")
    files: dict[str, tuple[bytes, Expectation]] = {
        "good.jpg": (encode(rgb), good),
        "same content.jpg": (encode(rgb), good),
        "empty.jpg": (b"", Expectation(code="empty file")),
        "html.jpg": (HTML, Expectation(code="not an image")),
        "noise.jpg": (bytes(range(256)) * 4, Expectation(code="not an image")),
        "truncated.jpg": (large[: len(large) // 2], Expectation(size=(320, 240), note="truncated")),
        "truncated.png": (large_png[: len(large_png) // 2], Expectation(size=(320, 240), note="truncated")),
        "header only.jpg": (large[:60], Expectation(code="corrupt")),
        "bomb.png": (bomb(), Expectation(code="too many pixels")),
        "one pixel.png": (encode(picture(1, 1), "PNG"), Expectation(size=(1, 1))),
        "strip.png": (encode(picture(20000, 10), "PNG"), Expectation(size=(20000, 10))),
        "sixteen bit.png": (encode(grey.astype(np.uint16) * 257, "PNG"), good),
        "palette.png": (palette_file.getvalue(), good),
        "cmyk.jpg": (cmyk.getvalue(), good),
        "rgba.png": (encode(rgba, "PNG"), good),
        "rgba.webp": (encode(rgba, "WEBP", lossless=True), good),
        "grey.jpg": (encode(grey), good),
        "grey alpha.png": (encode(np.dstack([grey, rgba[:, :, 3]]), "PNG"), good),
        "one bit.png": (bits.getvalue(), good),
        "animation.gif": (animation("GIF"), good),
        "animation.webp": (animation("WEBP"), good),
        "turned.jpg": (with_orientation(rgb, 6), good),
        "really a png.jpg": (encode(rgb, "PNG"), good),
        "picture.bmp": (encode(rgb, "BMP"), good),
        "picture.tiff": (encode(rgb, "TIFF"), good),
        "ünïcode 名前 🙂.jpg": (encode(rgb), good),
        "new\nline, #hash?and%41.jpg": (encode(rgb), good),
        "UPPER.JPG": (encode(rgb), good),
        "unreadable.jpg": (encode(rgb), good if os.geteuid() == 0 else Expectation(code="unreadable")),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    (folder / "unreadable.jpg").chmod(0)
    (folder / "directory.jpg").mkdir()
    os.mkfifo(folder / "fifo.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    expected = {name: expectation for name, (_, expectation) in files.items()}
    expected["directory.jpg"] = expected["fifo.jpg"] = Expectation(code="not a file")
    expected["loop.jpg"] = Expectation(code="unreadable")
    return expected
