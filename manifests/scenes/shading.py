"""Colour of visible points: solid textures, the word on the board, diffuse and glossy light, hard shadows, contact darkening.

Shapes: N points; vectors are triples of (N,) arrays. Colours are linear light, (N, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import cos, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from manifests.scenes.solids import Array, Solid, Vector
from manifests.scenes.world import Lamp, Sign, Texture

LETTER_ROWS = 40
"""Height of a capital in the raster of a word, in texels; the renderer's supersampling does the rest."""


def paint(texture: Texture, point: Vector) -> NDArray[np.float32]:
    """Albedo of the texture at points of its own coordinates."""
    first = np.array(texture.first, dtype=np.float32)
    if texture.pattern == "plain":
        return np.broadcast_to(first, (len(point[0]), 3))
    mix = pattern_weight(texture, point)[:, None]
    return first + mix * (np.array(texture.second, dtype=np.float32) - first)


def pattern_weight(texture: Texture, point: Vector) -> Array:
    """Share of the second albedo, in [0, 1]."""
    x, y, z = point
    rate = np.float32(1.0 / texture.scale)
    c, s = np.float32(cos(texture.angle)), np.float32(sin(texture.angle))
    if texture.pattern == "striped":
        # Rings up a solid: a tilted plane family that is never parallel to the floor's plane.
        phase = (y * c + (x + z) * s) * rate
        return (phase - np.floor(phase) > 0.5).astype(np.float32)
    if texture.pattern == "checkered":
        u, v = (x * c - z * s) * rate, (x * s + z * c) * rate
        cells = np.floor(u + 0.01) + np.floor(y * rate + 0.01) + np.floor(v + 0.01)
        return np.mod(cells, 2.0).astype(np.float32)
    if texture.pattern == "planks":
        u, v = (x * c - z * s) * rate, (x * s + z * c) * rate * np.float32(0.17)
        row = np.floor(u)
        v = v + 0.37 * row
        tone = np.mod(np.sin(row * 12.9898 + np.floor(v) * 78.233) * 43.5453, 1.0)
        seam = (u - row < 0.05) | (v - np.floor(v) < 0.012)
        return np.where(seam, np.float32(1.0), 0.55 * tone).astype(np.float32)
    if texture.pattern == "tiles":
        u, v = (x * c - z * s) * rate, (x * s + z * c) * rate
        return ((u - np.floor(u) < 0.05) | (v - np.floor(v) < 0.05)).astype(np.float32)
    assert texture.pattern == "speckled", texture.pattern
    waves = np.sin(2.1 * rate * x + 1.3 * rate * y + 0.7) * np.sin(1.7 * rate * z - 2.3 * rate * y + 1.9)
    waves += 0.6 * np.sin(4.7 * rate * y - 3.9 * rate * x + 0.4) * np.sin(5.1 * rate * x + 4.3 * rate * z)
    return np.clip(0.5 + 1.2 * waves, 0.0, 1.0).astype(np.float32)


@lru_cache(maxsize=256)
def word_raster(word: str) -> NDArray[np.float32]:
    """Ink coverage of the word in [0, 1], cropped to its ink; capitals are about LETTER_ROWS high."""
    font = ImageFont.load_default(size=LETTER_ROWS * 1.4)
    left, top, right, bottom = font.getbbox(word, stroke_width=1)
    canvas = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8), 0)
    ImageDraw.Draw(canvas).text((4 - left, 4 - top), word, fill=255, font=font, stroke_width=1)
    box = canvas.getbbox()
    assert box is not None, word
    ink = np.asarray(canvas.crop(box), dtype=np.float32) / 255.0
    ink.setflags(write=False)
    return ink


def word_extent(sign: Sign) -> tuple[float, float]:
    """Half width and half height (metres) of the word on the board; it keeps its proportions and a margin to the sides."""
    rows, columns = word_raster(sign.word).shape
    width = min(columns / rows * sign.letter_height, 0.92 * sign.width)
    return width / 2, width / 2 * rows / columns


def paint_board(sign: Sign, point: Vector, base: NDArray[np.float32]) -> NDArray[np.float32]:
    """The board's front with a painted border and the word; `point` in the board's own coordinates, y from its lower edge."""
    x, y, z = point
    front = z > sign.THICKNESS / 2 - 1e-3
    across = sign.width / 2 - np.abs(x)
    height = sign.top - sign.bottom
    rim = front & ((np.minimum(across, np.minimum(y, height - y)) < 0.025) | ~front)
    ink = np.where(rim, np.float32(1.0), np.float32(0.0))
    raster = word_raster(sign.word)
    rows, columns = raster.shape
    half_w, half_h = word_extent(sign)
    u = (x + half_w) * (columns / (2 * half_w)) - 0.5
    v = (sign.text_middle + half_h - (y + sign.bottom)) * (rows / (2 * half_h)) - 0.5
    hit = np.flatnonzero(front & (u > -1) & (u < columns) & (v > -1) & (v < rows))
    ink[hit] = np.maximum(ink[hit], bilinear(raster, u[hit], v[hit]))
    return base + ink[:, None] * (np.array(sign.ink, dtype=np.float32) - base)


def bilinear(raster: NDArray[np.float32], u: Array, v: Array) -> Array:
    """Raster at column u, row v (0 at the first texel's centre); 0 outside."""
    padded = np.pad(raster, 1)
    u, v = u + 1.0, v + 1.0
    i, j = np.floor(v).astype(np.intp), np.floor(u).astype(np.intp)
    i, j = np.clip(i, 0, padded.shape[0] - 2), np.clip(j, 0, padded.shape[1] - 2)
    fu, fv = (u - j).astype(np.float32), (v - i).astype(np.float32)
    upper = padded[i, j] * (1 - fu) + padded[i, j + 1] * fu
    lower = padded[i + 1, j] * (1 - fu) + padded[i + 1, j + 1] * fu
    return upper * (1 - fv) + lower * fv


def lit(
    lamp: Lamp,
    point: Vector,
    normal: Vector,
    owner: NDArray[np.int16],
    solids: Sequence[Solid],
) -> tuple[Array, Vector]:
    """Cosine of the lamp's light where it arrives (0 in shadow) and the unit direction to the lamp.

    `owner` is the index of the solid that each point lies on, -1 for the room: convex solids do not shadow themselves beyond
    turning away from the lamp.
    """
    to = tuple(np.float32(c) - p for c, p in zip((lamp.x, lamp.y, lamp.z), point, strict=True))
    distance = np.sqrt(to[0] * to[0] + to[1] * to[1] + to[2] * to[2])
    unit = (to[0] / distance, to[1] / distance, to[2] / distance)
    cosine = np.maximum(normal[0] * unit[0] + normal[1] * unit[1] + normal[2] * unit[2], np.float32(0.0))
    # Normalised so that a point 4 m away gets the lamp's power; falls off more softly than 1/r^2, as rooms with bright walls do.
    cosine = cosine * (np.float32(lamp.power * 1.6) / (np.float32(0.6) + distance * distance * np.float32(0.0625)))
    for k, solid in enumerate(solids):
        # Only rays that pass the solid's bounding sphere are worth the exact test.
        cx, cy, cz = solid.centre
        gx, gy, gz = np.float32(cx) - point[0], np.float32(cy) - point[1], np.float32(cz) - point[2]
        along = gx * unit[0] + gy * unit[1] + gz * unit[2]
        miss2 = gx * gx + gy * gy + gz * gz - along * along
        near = (miss2 < np.float32(solid.radius**2)) & (along > 0) & (cosine > 0) & (owner != k)
        rays = np.flatnonzero(near)
        if len(rays) == 0:
            continue
        origin = (point[0][rays], point[1][rays], point[2][rays])
        entry, leave = solid.span(origin, (unit[0][rays], unit[1][rays], unit[2][rays]))
        blocked = (entry < leave) & (leave > 1e-3) & (entry < distance[rays])
        cosine[rays[blocked]] = 0.0
    return cosine, unit


def contact(point: Vector, solids: Sequence[Solid]) -> Array:
    """Share of ambient light left on floor points near the feet of solids, in (0, 1]."""
    left = np.ones_like(point[0])
    for solid in solids:
        if solid.y > 0.0:
            continue
        reach = max(solid.half_x, 0.04) * 1.7
        gap2 = (point[0] - np.float32(solid.x)) ** 2 + (point[2] - np.float32(solid.z)) ** 2
        near = np.flatnonzero(gap2 < reach * reach)
        if len(near):
            fade = 1.0 - gap2[near] / np.float32(reach * reach)
            left[near] *= 1.0 - np.float32(0.6) * fade * fade
    return left
