"""From lines of text to words, the same way for every expert that reads: rows in reading order, lines cut at their spaces.

The recognisers read lines. The label holds words, because that is what is trained on (one text embedding per region): each word's
corners are interpolated between those of its line at the places where the recogniser saw its characters, each word's score is
the mean of its own characters'. Scripts without spaces (Chinese, Japanese) stay whole lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expert_zoo.labels import Label, words
from expert_zoo.spec import LabelSpec

#: Pixels: the released pipeline of Prismer (NVlabs/prismer, experts/ocr_detection) squashes every photo to a square.
PRISMER_SIDE = 480
#: It drops words whose characters' mean score is below this.
PRISMER_MIN_SCORE = 0.80
#: What of its acceptance (charnet/modeling/postprocessing.py) holds for another network, and what does not, for a card.
PRISMER_RULES: dict[str, str] = {
    "case": "lower",
    "acceptance": "mean score of a word's characters, as the released pipeline; its thresholds of 0.5 for word regions and 0.25 "
    "for characters are CharNet's own heat maps' and have no counterpart here",
    "lexicon": "none: words of 0.80 to 0.98 (0.90 where not all letters) stay as read; the released pipeline replaces them "
    "by the nearest of 87,645 English words at 0, 1 or 2 edits, or drops them",
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Line:
    """A line of text as read.

    corners_42: clockwise from the top left of the reading direction, in any pixels. text: in the order of the line.
    places_K: of each character that is no space, its centre as a share of the line's length, 0 to 1, rising.
    scores: of each character, spaces included, 0 to 1; what stands beyond the text's length is ignored.
    """

    corners_42: NDArray[np.float64]
    text: str
    places_K: NDArray[np.float64]
    scores: Sequence[float]


def words_spec(*, lower_case: bool) -> LabelSpec:
    """What the words of these experts mean."""
    return LabelSpec(
        kind="words",
        quantity="words",
        units="pixels of the upright image",
        convention="x right, y down; corners clockwise from the reading direction's top left; "
        + ("text in lower case" if lower_case else "text as read"),
    )


def words_of(
    lines: Sequence[Line],
    *,
    min_score: float,
    to_photo: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    spelling: Callable[[str], str] = str,
    right_to_left: bool = False,
) -> Label:
    """The words of ``lines`` that score at least ``min_score``, in reading order; ``empty`` where there are none.

    lines: in any order. to_photo: moves corners (4 x 2) from the lines' pixels to those of the photo. spelling: what becomes of
    each word. right_to_left: the words of a line, and the lines of a row, follow one another leftwards.
    """
    polygons: list[Any] = []
    texts: list[str] = []
    scores: list[float] = []
    onwards = -1 if right_to_left else 1
    for row in _rows([line.corners_42 for line in lines]):
        for text, corners_42, score in [word for n in row[::onwards] for word in [*_cut(lines[n])][::onwards]]:
            if score >= min_score:
                polygons.append(to_photo(corners_42))
                texts.append(spelling(text))
                scores.append(score)
    return words(polygons, texts, scores)


def squashed(pixels_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo as PRISMER_SIDE x PRISMER_SIDE pixels, whatever its shape: Pillow's bilinear filter, as the released pipeline."""
    from PIL import Image

    square = Image.fromarray(pixels_HW3).resize((PRISMER_SIDE, PRISMER_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(square)


def _rows(quads: Sequence[NDArray[np.float64]]) -> list[list[int]]:
    """Indices of the lines by rows, the rows from top to bottom, in a row from left to right.

    A line belongs to a row while its centre is within half a line's height of where the row's first line points: rows of a
    tilted page stay together. Lines that run more down than across are rows of their own.
    """
    centres = [quad.mean(axis=0) for quad in quads]
    rows: list[list[int]] = []
    for line in sorted(range(len(quads)), key=lambda i: (centres[i][1], centres[i][0], i)):
        rows_here = [row for row in rows if _points_at(quads[row[0]], centres[row[0]], centres[line])]
        if rows_here:
            rows_here[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda i: (centres[i][0], i)) for row in rows]


def _points_at(quad_42: NDArray[np.float64], centre: NDArray[np.float64], point: NDArray[np.float64]) -> bool:
    across, down = (quad_42[1] + quad_42[2] - quad_42[0] - quad_42[3]) / 2
    if abs(down) >= abs(across):
        return False
    height = float(np.linalg.norm(quad_42[3] + quad_42[2] - quad_42[0] - quad_42[1])) / 2
    expected = centre[1] + (point[0] - centre[0]) * down / across
    return bool(abs(point[1] - expected) < height / 2)


def _cut(line: Line) -> Iterator[tuple[str, NDArray[np.float64], float]]:
    """(text, corners, score) of each word of a line."""
    places, quad_42 = line.places_K, line.corners_42
    assert len(places) == sum(not char.isspace() for char in line.text) and len(line.scores) >= len(line.text), line
    half = (places[-1] - places[0]) / (len(places) - 1) / 2 if len(places) > 1 else 0.5
    start = char = 0
    for text in line.text.split():
        start = line.text.index(text, start)
        end = char + len(text)
        # The first and last word take the line's own ends, the others half a character beyond their outermost centres.
        low = max(places[char] - half, (places[char - 1] + places[char]) / 2) if char else 0.0
        high = min(places[end - 1] + half, (places[end - 1] + places[end]) / 2) if end < len(places) else 1.0
        corners_42 = np.stack(
            [_along(quad_42, low, 0), _along(quad_42, high, 0), _along(quad_42, high, 1), _along(quad_42, low, 1)]
        )
        yield text, corners_42, float(np.mean(line.scores[start : start + len(text)]))
        start, char = start + len(text), end


def _along(quad_42: NDArray[np.float64], share: float, down: int) -> NDArray[np.float64]:
    """The point at ``share`` of the way (0 to 1) along the upper (``down`` 0) or lower (1) edge of a line."""
    begin, end = (quad_42[3], quad_42[2]) if down else (quad_42[0], quad_42[1])
    return begin + (end - begin) * min(max(share, 0.0), 1.0)
