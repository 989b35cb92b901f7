"""What one expert said of one image.

A `Label` is ``ok`` (with a value), ``empty`` (the expert looked and nothing is there) or ``failed`` (with a reason).
Absence is never encoded as a value: no blank maps, no sentinel boxes.

Legend of shape suffixes: H, W height and width of the map (any resolution; a map always covers the full extent of the
image), C channels, N number of objects, words or captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["ok", "empty", "failed"]


@dataclass(frozen=True, slots=True, eq=False)
class DenseMap:
    """A real number (or vector) for every pixel: depth, normals, edges.

    ``values``: float32, (H, W) or (H, W, C), in the units and range that the expert's LabelSpec states.
    """

    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ClassMap:
    """A class id for every pixel. ``ids_HW``: uint8 or uint16, indices into LabelSpec.class_names or its ``ignore``."""

    ids_HW: NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """Detected objects, best first.

    ``boxes_N4``: float32 xyxy in pixels of the original upright image, edges on pixel boundaries, so that a box over the
    whole image is (0, 0, width, height). ``scores_N``: float32 in [0, 1]. ``class_ids_N``: int32 into class_names.
    ``masks``: None, or one PNG (bytes, 1 channel, 0 or 255, size of the box rounded outwards) per object.
    """

    boxes_N4: NDArray[np.float32]
    scores_N: NDArray[np.float32]
    class_ids_N: NDArray[np.int32]
    masks: tuple[bytes, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Text found in the image.

    ``polygons_N42``: float32 corners (x, y), clockwise from the reading direction's top left, in pixels of the original
    upright image. ``texts``: one string per polygon. ``scores_N``: float32 in [0, 1].
    """

    polygons_N42: NDArray[np.float32]
    texts: tuple[str, ...]
    scores_N: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Text:
    """A generated caption and the sum of its tokens' log-probabilities (natural logarithm, <= 0)."""

    text: str
    log_prob: float


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """One number per caption of the image, in the caption order of its record, and one more of a generated text where the spec's
    convention says so. ``values_N``: float32.
    """

    values_N: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Picture:
    """The photo itself as encoded bytes; ``format`` is the usual file ending in lower case without dot (jpg, png)."""

    data: bytes
    format: str


Value = DenseMap | ClassMap | Instances | Words | Text | Scores | Picture


@dataclass(frozen=True, slots=True)
class Label:
    """One expert's answer for one image. Use the three constructors; ``note`` on an ok label marks e.g. a cut file."""

    status: Status
    value: Value | None = None
    reason: str = ""

    @classmethod
    def ok(cls, value: Value, note: str = "") -> Label:
        return cls("ok", value, note)

    @classmethod
    def empty(cls, note: str = "") -> Label:
        return cls("empty", None, note)

    @classmethod
    def failed(cls, reason: str) -> Label:
        """``reason``: "code: detail", where the code (a few words, no colon) is what summaries count by."""
        assert reason, "a failed label needs a reason"
        return cls("failed", None, reason)


def instances(boxes: Sequence[Sequence[float]], scores: Sequence[float], class_ids: Sequence[int]) -> Label:
    """An ``ok`` label of detected objects, best first, or ``empty`` when there are none."""
    if len(boxes) == 0:
        return Label.empty()
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    return Label.ok(
        Instances(
            boxes_N4=np.asarray(boxes, np.float32).reshape(-1, 4)[order],
            scores_N=np.asarray(scores, np.float32)[order],
            class_ids_N=np.asarray(class_ids, np.int32)[order],
        )
    )


def words(polygons: Sequence[Sequence[Sequence[float]]], texts: Sequence[str], scores: Sequence[float]) -> Label:
    """An ``ok`` label of words in the given (reading) order, or ``empty`` when there are none."""
    if len(texts) == 0:
        return Label.empty()
    return Label.ok(
        Words(
            polygons_N42=np.asarray(polygons, np.float32).reshape(-1, 4, 2),
            texts=tuple(texts),
            scores_N=np.asarray(scores, np.float32),
        )
    )
