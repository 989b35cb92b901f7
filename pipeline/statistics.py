"""Statistics of a cell: what its labels look like on the whole, in a few numbers that its receipt carries.

They are computed by the threads that encode, from values that are at hand there, and summed by the one that writes. All are
means over rows, so cells of any size compare; `expert-labels audit --drift` compares them.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Picture, Scores, Text, Value, Words
from expert_zoo.spec import Kind, LabelSpec

#: Classes that a receipt names, the most frequent first.
TOP_CLASSES = 8
#: Digits that a receipt keeps: more would only be noise.
DIGITS = 6
#: How `LabelSpec.problem_with` says that a value is no number; such a label becomes a failed row.
_NOT_FINITE = ("NaN or infinite", "not finite")
_REAL: tuple[Kind, ...] = ("map", "text", "score")
_COUNTED: tuple[Kind, ...] = ("instances", "words")


class Statistics(BaseModel):
    """A cell in numbers. ``numbers``: by name, docs/store-format.md has them all; ``classes``: share of the most frequent classes
    by class id: of the pixels that have one, or of the objects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: dict[str, float] = Field(default_factory=dict)
    classes: dict[str, float] = Field(default_factory=dict)


class Facts(NamedTuple):
    """What one row adds: numbers to average, a weight for each class, a text to compare with the others."""

    numbers: dict[str, float]
    classes: dict[int, float] = {}  # noqa: RUF012
    text: str | None = None


def facts_of(spec: LabelSpec, label: Label, size: tuple[int | None, int | None]) -> Facts:
    """Of one label for a photo of ``size`` (height, width). Under a millisecond for a map of 480 x 480 on one core."""
    if label.status == "failed":
        broken = spec.kind in _REAL and any(words in label.reason for words in _NOT_FINITE)
        return Facts({"not_finite": 1.0} if broken else {})
    none = {"not_finite": 0.0} if spec.kind in _REAL else {}
    if label.value is None:
        return Facts(none | ({"per_image": 0.0, "coverage": 0.0} if spec.kind in _COUNTED else {}))
    found = _facts(spec, label.value, (size[0] or 1) * (size[1] or 1))
    return found._replace(numbers=none | found.numbers)


def _facts(spec: LabelSpec, value: Value, area: int) -> Facts:
    match value:
        case DenseMap(values):
            return Facts(_of_map(values))
        case ClassMap(ids_HW):
            return _of_classes(spec, ids_HW)
        case Instances(boxes_N4, scores_N, class_ids_N):
            sizes_N = (boxes_N4[:, 2] - boxes_N4[:, 0]) * (boxes_N4[:, 3] - boxes_N4[:, 1])
            numbers = {
                "per_image": float(len(sizes_N)),
                "coverage": min(1.0, float(sizes_N.sum()) / area),
                "score": float(scores_N.mean()),
            }
            return Facts(numbers, dict(Counter(class_ids_N.tolist())))
        case Words(polygons_N42, texts, scores_N):
            x_N4, y_N4 = polygons_N42[:, :, 0], polygons_N42[:, :, 1]
            twice_N = (x_N4 * np.roll(y_N4, -1, 1) - y_N4 * np.roll(x_N4, -1, 1)).sum(1)
            numbers = {
                "per_image": float(len(texts)),
                "coverage": min(1.0, float(np.abs(twice_N).sum()) / 2 / area),
                "score": float(scores_N.mean()),
                "characters": float(np.mean([len(text) for text in texts])),
            }
            return Facts(numbers)
        case Text(text, log_prob):
            return Facts({"words": float(len(text.split())), "log_prob": float(log_prob)}, text=text)
        case Scores(values_N):
            ends = {"mean": float(values_N.mean()), "highest": float(values_N.max())} if len(values_N) else {}
            return Facts({"per_image": float(len(values_N)), **ends})
        case Picture(data, _):
            return Facts({"bytes": float(len(data))})


def _of_map(values: np.ndarray) -> dict[str, float]:
    mean_C, spread_C = (found.ravel() for found in cv2.meanStdDev(values))  # numpy takes 16 ms for three channels
    numbers = {"constant": float(not spread_C.any())}
    if len(mean_C) == 1:
        return numbers | {"mean": float(mean_C[0]), "spread": float(spread_C[0])}
    for channel, (mean, spread) in enumerate(zip(mean_C.tolist(), spread_C.tolist(), strict=True)):
        numbers |= {f"mean_{channel}": mean, f"spread_{channel}": spread}
    return numbers


def _of_classes(spec: LabelSpec, ids_HW: np.ndarray) -> Facts:
    counts = np.bincount(ids_HW.ravel())
    present = {int(found): int(counts[found]) for found in np.flatnonzero(counts)}
    ignored = present.pop(spec.ignore, 0) if spec.ignore is not None else 0
    numbers = {
        "constant": float(len(present) + bool(ignored) == 1),
        "coverage": 1 - ignored / ids_HW.size,
        "distinct": float(len(present)),
    }
    return Facts(numbers, {found: count / ids_HW.size for found, count in present.items()})


class Sums:
    """Adds up the facts of a cell's rows. One thread, in manifest order, so that the same labels give the same numbers."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._classes: Counter[int] = Counter()
        self._texts: set[int] = set()
        self._told = 0

    def add(self, facts: Facts) -> None:
        for name, number in facts.numbers.items():
            self._sums[name] += number  # type: ignore[assignment]
            self._rows[name] += 1
        for found, weight in facts.classes.items():
            self._classes[found] += weight  # type: ignore[assignment]
        if facts.text is not None:
            self._texts.add(hash(facts.text))
            self._told += 1

    @property
    def statistics(self) -> Statistics:
        numbers = {name: total / self._rows[name] for name, total in self._sums.items()}
        if self._told:
            numbers["distinct"] = len(self._texts) / self._told
        total = float(sum(self._classes.values()))
        shares = {found: weight / total for found, weight in self._classes.most_common()} if total else {}
        if shares:
            numbers["entropy"] = -sum(share * math.log2(share) for share in shares.values())
        return Statistics(
            numbers={name: _short(number) for name, number in numbers.items() if math.isfinite(number)},
            classes={str(found): _short(share) for found, share in list(shares.items())[:TOP_CLASSES]},
        )


def _short(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
