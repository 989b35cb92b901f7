"""Drawing labels for people: one picture per label, and contact sheets of many.

Legend of shape suffixes: H, W the picture's (or the photo's) height and width, 3 RGB.
"""

from __future__ import annotations

import colorsys
import sys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Picture, Scores, Text, Words
from expert_zoo.spec import LabelSpec
from pipeline.decode import Limits, PhotoError, decode
from pipeline.lettering import RGB, cut, length, tag, text_tile, write
from pipeline.resample import resize_map

Image_HW3 = NDArray[np.uint8]

#: Wider (or taller) images are shown whole inside a picture of this aspect.
MAX_ASPECT = 2.0
#: (height, width) of an image of which nothing is known.
NO_SIZE = (3, 4)
#: Share of the class colour over the photo.
CLASS_OPACITY = 0.55
#: Boxes that the detector itself half doubts are stored, not drawn: a page of them hides the photo.
SHOWN_SCORE = 0.3
#: Boxes and words below this many are drawn; more only make a picture unreadable.
MAX_SHAPES = 300

#: Scores stand below each other, side by side only where there are more.
SCORE_LINES = 8

MARGIN_GREY: RGB = (128, 128, 128)
TILE_PAPER: dict[str, RGB] = {"failed": (250, 214, 209), "empty": (228, 232, 238), "no label": (238, 238, 232)}


def paint(
    spec: LabelSpec,
    label: Label | None,
    photo_HW3: Image_HW3 | None,
    *,
    height: int,
    image_size: tuple[int, int] | None = None,
) -> Image_HW3:
    """One label as an RGB picture of ``height`` pixels, in the photo's aspect (within MAX_ASPECT, else letter-boxed).

    Depth and inverse depth look alike: near is bright. Normals are (n + 1) / 2, edges dark on white; classes, boxes and
    words lie over the photo (over grey where it is None). What is empty, failed or absent (None) is a tile that says so.

    ``image_size``: (height, width) of the upright original, in whose pixels boxes and polygons are; default: the photo's.
    """
    size = image_size or ((photo_HW3.shape[0], photo_HW3.shape[1]) if photo_HW3 is not None else NO_SIZE)
    inner_height, inner_width, width = _fit(size, height)
    if label is None or label.status != "ok":
        return _status_tile(label, height, width)
    under_HW3 = show_photo(photo_HW3, inner_height, inner_width)
    match label.value:
        case DenseMap(values):
            picture = _paint_map(spec, values, inner_height, inner_width)
        case ClassMap(ids_HW):
            picture = _paint_classes(spec, ids_HW, under_HW3)
        case Instances():
            picture = _paint_boxes(spec, label.value, under_HW3, size)
        case Words():
            picture = _paint_words(label.value, under_HW3, size)
        case Text(text, log_prob):
            return text_tile(f'"{text}"', f"log p = {log_prob:.2f}", height, width)
        case Scores(values_N):
            told = [f"{number}: {value:.3f}" for number, value in enumerate(values_N.tolist(), start=1)]
            across = -(-len(told) // SCORE_LINES)
            lines = "\n".join(" | ".join(told[n : n + across]) for n in range(0, len(told), across))
            return text_tile(lines, "one score a caption", height, width)
        case Picture():
            try:
                picture = show_photo(picture_pixels(label.value), inner_height, inner_width)
            except PhotoError as error:
                return text_tile(str(error), "failed", height, width, TILE_PAPER["failed"])
        case _:
            raise AssertionError(f"no way to paint {type(label.value).__name__}")
    return _framed(picture, height, width)


def paint_photo(
    photo_HW3: Image_HW3 | None, *, height: int, reason: str = "", image_size: tuple[int, int] | None = None
) -> Image_HW3:
    """The photo alone, at the size that `paint` gives its labels; for None a tile with the ``reason`` why."""
    size = image_size or ((photo_HW3.shape[0], photo_HW3.shape[1]) if photo_HW3 is not None else NO_SIZE)
    inner_height, inner_width, width = _fit(size, height)
    if photo_HW3 is None:
        return text_tile(reason, "no photo", height, width, TILE_PAPER["failed"])
    return _framed(show_photo(photo_HW3, inner_height, inner_width), height, width)


def picture_pixels(picture: Picture) -> Image_HW3:
    """The decoded photo of an ``image`` label, upright RGB, however large: its job let it in. Raises PhotoError."""
    return decode(picture.data, Limits(max_pixels=sys.maxsize, max_bytes=sys.maxsize))[0]


def show_photo(photo_HW3: Image_HW3 | None, height: int, width: int) -> Image_HW3:
    """The photo at exactly that size; plain grey for None."""
    if photo_HW3 is None:
        return np.full((height, width, 3), MARGIN_GREY, np.uint8)
    return _scaled(photo_HW3, height, width)


def class_colour(class_id: int) -> RGB:
    """A fixed colour per class id; neighbours in the list are far apart in hue."""
    hue = (0.08 + class_id * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.6, 0.95)[class_id % 3], (0.95, 1.0, 0.7)[class_id // 3 % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def contact_sheet(rows: Sequence[tuple[str, Sequence[tuple[str, Image_HW3]]]], *, gap: int = 6) -> Image_HW3:
    """One image a row: its (title, picture) pairs side by side, untouched, with the row's caption below.

    Column titles stand once on top. Columns are as wide as their widest picture, rows as high as their highest.
    Raises ValueError when there is no row, or rows differ in their titles.
    """
    if not rows or not rows[0][1]:
        raise ValueError("a contact sheet needs at least one row with one picture")
    titles = [title for title, _ in rows[0][1]]
    for caption, pictures in rows:
        if [title for title, _ in pictures] != titles:
            raise ValueError(
                f"row {caption!r} has other columns than the first, {', '.join(titles)}; expected the same"
            )
    size = 13
    strip = size + 2 * gap
    widths = [max(pictures[column][1].shape[1] for _, pictures in rows) for column in range(len(titles))]
    heights = [max(picture.shape[0] for _, picture in pictures) for _, pictures in rows]
    lefts = np.cumsum([gap, *(width + gap for width in widths)]).tolist()
    image = Image.new("RGB", (lefts[-1], strip + sum(height + strip + gap for height in heights)), (255, 255, 255))
    for title, left, width in zip(titles, lefts, widths, strict=False):
        write(image, (left, gap), cut(title, size, width), size)
    top = strip
    for (caption, pictures), height in zip(rows, heights, strict=True):
        for (_, picture), left in zip(pictures, lefts, strict=False):
            image.paste(Image.fromarray(picture), (left, top))
        write(image, (gap, top + height + gap // 2), cut(caption, size, lefts[-1] - 2 * gap), size, (90, 90, 90))
        top += height + strip + gap
    return np.asarray(image)


def _paint_map(spec: LabelSpec, values: NDArray, height: int, width: int) -> Image_HW3:
    if spec.quantity == "edge":
        # A line thinner than a shrunken pixel fades with the shrinking; give most of that back. Of what stands out, only: a
        # network that finds some edge everywhere would be black otherwise.
        shown = _scaled(values, height, width)
        usual, gain = float(np.median(shown)), min(2.0, max(1.0, values.shape[0] / height))
        return _grey(1.0 - np.clip(usual + gain * (shown - usual), 0, 1))
    shown = _scaled(values, height, width)
    if spec.quantity == "normal":
        return np.clip((shown + 1.0) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    if spec.quantity in ("depth", "inverse_depth"):
        return _paint_nearness(shown, is_depth=spec.quantity == "depth")
    low, high = spec.value_range or (float(shown.min()), float(shown.max()))
    picture = np.clip((shown - low) / max(high - low, 1e-12), 0, 1)
    return _grey(picture) if picture.ndim == 2 else (picture * 255).astype(np.uint8)


def _paint_nearness(values_HW: NDArray, *, is_depth: bool) -> Image_HW3:
    known = values_HW > 0 if is_depth and (values_HW > 0).any() else np.ones(values_HW.shape, bool)
    nearness_HW = 1.0 / np.maximum(values_HW, max(values_HW[known].min(), 1e-6)) if is_depth else values_HW
    low, high = np.percentile(nearness_HW[known], (1, 99))
    levels = np.clip((nearness_HW - low) / (high - low), 0, 1) if high > low else np.full(values_HW.shape, 0.5)
    # The root spreads what is far, where most of an image lies and the colour map is darkest.
    picture = cv2.applyColorMap((255 * np.sqrt(levels)).astype(np.uint8), cv2.COLORMAP_INFERNO)
    picture[~known] = 0
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _paint_classes(spec: LabelSpec, ids_HW: NDArray, under_HW3: Image_HW3) -> Image_HW3:
    height, width = under_HW3.shape[:2]
    shown_HW = resize_map(ids_HW, height, width, how="nearest")
    picture = under_HW3.copy()
    ids, counts = np.unique(shown_HW[shown_HW != spec.ignore], return_counts=True)
    for class_id in ids.tolist():
        where = shown_HW == class_id
        colour = CLASS_OPACITY * np.array(class_colour(class_id))
        picture[where] = ((1 - CLASS_OPACITY) * under_HW3[where] + colour).astype(np.uint8)
    image = Image.fromarray(picture)
    size = max(9, height // 18)
    line = size + 4
    largest = ids[np.argsort(-counts, kind="stable")][: min(6, max(1, height // 2 // line))].tolist()
    for row, class_id in enumerate(largest):
        top = height - (len(largest) - row) * line - 1
        tag(image, (2, top), spec.class_names[class_id], class_colour(class_id), size)
    return np.asarray(image)


def _paint_boxes(spec: LabelSpec, value: Instances, under_HW3: Image_HW3, size: tuple[int, int]) -> Image_HW3:
    image = Image.fromarray(under_HW3)
    draw = ImageDraw.Draw(image)
    scale_x, scale_y = image.width / size[1], image.height / size[0]
    text_size, stroke = max(9, image.height // 18), max(1, image.height // 90)
    sure = int((value.scores_N >= SHOWN_SCORE).sum())
    for row in reversed(range(min(sure, MAX_SHAPES))):  # the best last, on top
        left, top, right, bottom = np.rint(value.boxes_N4[row] * (scale_x, scale_y, scale_x, scale_y)).tolist()
        colour = class_colour(int(value.class_ids_N[row]))
        # Edges lie on pixel boundaries: a box over the whole image ends with its last pixel.
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=stroke)
        name = f"{spec.class_names[int(value.class_ids_N[row])]} {float(value.scores_N[row]):.2f}"
        tag(image, (left, top - text_size - 4 if top > text_size + 4 else top), name, colour, text_size)
    return np.asarray(image)


def _paint_words(value: Words, under_HW3: Image_HW3, size: tuple[int, int]) -> Image_HW3:
    # Paler photo: the words are what matters here.
    image = Image.fromarray((under_HW3 // 2 + 110).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    scale_xy = np.array((image.width / size[1], image.height / size[0]))
    for polygon_42, text in list(zip(value.polygons_N42, value.texts, strict=True))[:MAX_SHAPES]:
        corners = [(float(x), float(y)) for x, y in polygon_42 * scale_xy]
        draw.polygon(corners, outline=(0, 120, 60), fill=(232, 247, 236))
        (left, top), (right, bottom) = np.min(corners, axis=0), np.max(corners, axis=0)
        text_size = int(np.clip((bottom - top) * 0.8, 7, 0.12 * image.height + 7))
        while text_size > 7 and length(text, text_size) > 1.05 * (right - left):
            text_size -= 1
        write(image, (left + 1, (top + bottom) / 2), text, text_size, (0, 60, 30), middle=True)
    return np.asarray(image)


def _status_tile(label: Label | None, height: int, width: int) -> Image_HW3:
    status = "no label" if label is None else label.status
    reason = "not in the store" if label is None else label.reason or "nothing found"
    return text_tile(reason, status, height, width, TILE_PAPER[status])


def _fit(image_size: tuple[int, int], height: int) -> tuple[int, int, int]:
    """(height, width) of the image inside a picture of ``height``, and that picture's width."""
    image_height, image_width = image_size
    wanted = height * image_width / image_height
    width = round(min(max(wanted, height / MAX_ASPECT), height * MAX_ASPECT))
    if wanted > width:
        return max(1, round(width * image_height / image_width)), width, width
    return height, max(1, round(wanted)), width


def _framed(picture: Image_HW3, height: int, width: int) -> Image_HW3:
    if picture.shape[:2] == (height, width):
        return picture
    frame = np.full((height, width, 3), MARGIN_GREY, np.uint8)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return frame


def _scaled(values: NDArray, height: int, width: int) -> NDArray:
    """Averaged where it shrinks, bilinear where it grows: for pictures only, labels are resized by `resize_map`."""
    if values.shape[:2] == (height, width):
        return values
    shrinks = values.shape[0] >= height and values.shape[1] >= width
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _grey(levels_HW: NDArray) -> Image_HW3:
    return np.repeat((levels_HW * 255 + 0.5).astype(np.uint8)[..., None], 3, axis=2)
