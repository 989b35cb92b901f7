"""How well one label column agrees with another: what `audit --against` prints.

`compare` gives the accumulator for a pair of specs; it is fed one image at a time and keeps sums, histograms and (for
objects) one score per box, never a map. Maps are compared at the truth's size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from expert_zoo.labels import Instances, Label, Words
from expert_zoo.spec import LabelSpec
from pipeline import metrics
from pipeline.resample import resize_map

#: Median angles are read from a histogram of this bin width, in degrees.
ANGLE_BIN_DEGREES = 0.01
#: COCO counts at most this many boxes of one class in one image, best first.
MAX_BOXES = 100


class Headline(NamedTuple):
    """The one number of a result that a table of one column shows."""

    metric: str
    higher_is_better: bool


class Comparison(ABC):
    """Agreement of one column with another, image by image. Make one with `compare`."""

    headline: ClassVar[Headline]
    #: Whether `empty` is an answer that can be right or wrong (objects, words) or the absence of one (maps).
    empty_is_an_answer: ClassVar[bool] = False

    def __init__(self, spec: LabelSpec, truth_spec: LabelSpec) -> None:
        self.spec, self.truth_spec = spec, truth_spec
        self.compared = self.without_label = self.without_truth = 0

    def add(self, label: Label | None, truth_label: Label | None, height: int, width: int) -> None:
        """Count one image of ``height`` x ``width`` pixels (the original upright photo); None means that no row exists.

        A label that is missing, failed or breaks its spec is counted and kept out of every other number.
        """
        if not self._is_usable(self.truth_spec, truth_label, height, width):
            self.without_truth += 1
        elif not self._is_usable(self.spec, label, height, width):
            self.without_label += 1
        else:
            assert label is not None and truth_label is not None
            self.compared += 1
            self._add(label.value, truth_label.value)

    def result(self) -> dict[str, float]:
        """The metrics by name (NaN where nothing could be compared), then the counts of images.

        ``compared``; ``without_label``: the label is missing, failed, broken or (maps) empty; ``without_truth``: likewise
        the truth, whatever the label.
        """
        counts = {"compared": self.compared, "without_label": self.without_label, "without_truth": self.without_truth}
        return {**self._metrics(), **{name: float(count) for name, count in counts.items()}}

    def _is_usable(self, spec: LabelSpec, label: Label | None, height: int, width: int) -> bool:
        if label is None or not (label.status == "ok" or (label.status == "empty" and self.empty_is_an_answer)):
            return False
        return spec.problem_with(label, height=height, width=width) is None

    @abstractmethod
    def _add(self, value: Any, truth: Any) -> None: ...

    @abstractmethod
    def _metrics(self) -> dict[str, float]: ...


def compare(spec: LabelSpec, truth_spec: LabelSpec) -> Comparison:
    """The accumulator for labels of ``spec`` against labels of ``truth_spec``.

    Raises ValueError where no agreement is defined (captions, scores, photos; two different quantities; depths in
    different units; class lists without a common name).
    """
    match spec.quantity, truth_spec.quantity:
        case (("depth" | "inverse_depth"), "depth"):
            return DepthComparison(spec, truth_spec)
        case "normal", "normal":
            return NormalComparison(spec, truth_spec)
        case "edge", "edge":
            return EdgeComparison(spec, truth_spec)
        case "class", "class":
            return ClassComparison(spec, truth_spec)
        case "objects", "objects":
            return ObjectsComparison(spec, truth_spec)
        case "words", "words":
            return WordsComparison(spec, truth_spec)
    raise ValueError(
        f"no agreement is defined between {spec.quantity!r} and {truth_spec.quantity!r}; compare depth or inverse_depth "
        "with depth, or normal, edge, class, objects, words each with its own kind"
    )


class DepthComparison(Comparison):
    """``delta1``, ``abs_rel``: means over images. Inverse depth is first fitted to each image's truth."""

    headline = Headline("delta1", higher_is_better=True)

    def __init__(self, spec: LabelSpec, truth_spec: LabelSpec) -> None:
        super().__init__(spec, truth_spec)
        if spec.quantity == "depth" and spec.units != truth_spec.units:
            raise ValueError(f"depth in {spec.units!r} against depth in {truth_spec.units!r}; expected the same units")
        self._sums, self._images = np.zeros(2), 0

    def _add(self, value: Any, truth: Any) -> None:
        depth_HW = resize_map(value.values, *truth.values.shape[:2], how=self.spec.resample)
        if self.spec.quantity == "inverse_depth":
            farthest = self.truth_spec.value_range[1] if self.truth_spec.value_range else float(truth.values.max())
            depth_HW = metrics.align_inverse_depth(depth_HW, truth.values, farthest)
        errors = np.array(metrics.depth_errors(depth_HW, truth.values))
        if np.isfinite(errors).all():
            self._sums, self._images = self._sums + errors, self._images + 1

    def _metrics(self) -> dict[str, float]:
        delta1, abs_rel = (_ratio(float(total), self._images) for total in self._sums)
        return {"delta1": delta1, "abs_rel": abs_rel}


class NormalComparison(Comparison):
    """``mean_angle``, ``median_angle`` (degrees) and shares of pixels below three angles, pooled over all pixels."""

    headline = Headline("mean_angle", higher_is_better=False)
    limits: ClassVar = (11.25, 22.5, 30.0)

    def __init__(self, spec: LabelSpec, truth_spec: LabelSpec) -> None:
        super().__init__(spec, truth_spec)
        self._histogram = np.zeros(round(180 / ANGLE_BIN_DEGREES), np.int64)
        self._within, self._sum, self._pixels = np.zeros(len(self.limits), np.int64), 0.0, 0

    def _add(self, value: Any, truth: Any) -> None:
        angles = metrics.angles(
            resize_map(value.values, *truth.values.shape[:2], how=self.spec.resample), truth.values
        ).ravel()
        bins = np.minimum((angles / ANGLE_BIN_DEGREES).astype(np.int64), len(self._histogram) - 1)
        self._histogram += np.bincount(bins, minlength=len(self._histogram))
        self._within += [int((angles < limit).sum()) for limit in self.limits]
        self._sum, self._pixels = self._sum + float(angles.sum()), self._pixels + angles.size

    def _metrics(self) -> dict[str, float]:
        half = int(np.searchsorted(np.cumsum(self._histogram), self._pixels / 2))
        median = (half + 0.5) * ANGLE_BIN_DEGREES if self._pixels else float("nan")
        shares = {
            f"within_{limit:g}": _ratio(int(count), self._pixels)
            for limit, count in zip(self.limits, self._within, strict=True)
        }
        return {"mean_angle": _ratio(self._sum, self._pixels), "median_angle": median, **shares}


class EdgeComparison(Comparison):
    """``f1``, ``precision``, ``recall`` at one fixed threshold, from pixel counts pooled over images."""

    headline = Headline("f1", higher_is_better=True)

    def __init__(self, spec: LabelSpec, truth_spec: LabelSpec) -> None:
        super().__init__(spec, truth_spec)
        self._counts = np.zeros(4, np.int64)

    def _add(self, value: Any, truth: Any) -> None:
        edges_HW = resize_map(value.values, *truth.values.shape[:2], how=self.spec.resample)
        self._counts += metrics.edge_matches(edges_HW, truth.values)

    def _metrics(self) -> dict[str, float]:
        return _precision_recall(*self._counts.tolist())


class ClassComparison(Comparison):
    """``mean_iou`` over the classes that occur in the truth, and ``pixel_accuracy``, from one pooled confusion matrix.

    Classes are matched by name. Where the lists differ, only names on both count, and what is called by a name the truth
    does not know is wrong. Pixels of no class in the truth are wrong for whoever names them, but have no score themselves.
    """

    headline = Headline("mean_iou", higher_is_better=True)

    def __init__(self, spec: LabelSpec, truth_spec: LabelSpec) -> None:
        super().__init__(spec, truth_spec)
        truth_id_of = _truth_ids(spec, truth_spec)
        classes = len(truth_spec.class_names)
        self._truth_id = np.full(np.iinfo(np.uint16).max + 1, classes, np.int64)
        self._truth_id[: len(truth_id_of)] = np.where(truth_id_of < 0, classes, truth_id_of)
        self._judged = np.zeros(classes, bool)
        self._judged[truth_id_of[truth_id_of >= 0]] = True
        self._confusion = np.zeros(
            (classes + 1, classes + 1), np.int64
        )  # rows: truth; the last is "none of the classes"

    def _add(self, value: Any, truth: Any) -> None:
        size = len(self._confusion)
        ids_HW = resize_map(value.ids_HW, *truth.ids_HW.shape, how=self.spec.resample)
        rows = np.minimum(truth.ids_HW.astype(np.int64), size - 1)
        pairs = rows * size + self._truth_id[ids_HW]
        self._confusion += np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)

    def _metrics(self) -> dict[str, float]:
        right = self._confusion.diagonal()[:-1]
        true, predicted = self._confusion.sum(1)[:-1], self._confusion.sum(0)[:-1]
        present = self._judged & (true > 0)
        ious = right[present] / (true + predicted - right)[present]
        return {
            "mean_iou": float(ious.mean()) if ious.size else float("nan"),
            "pixel_accuracy": _ratio(int(right[present].sum()), int(true[present].sum())),
            "classes": float(present.sum()),
        }


class ObjectsComparison(Comparison):
    """``ap50``: COCO average precision at IoU 0.5, and ``recall50``; both means over the classes that occur in the truth.

    Classes are matched by name; boxes of names that the truth does not know are left out. Keeps five bytes a box.
    """

    headline = Headline("ap50", higher_is_better=True)
    empty_is_an_answer = True

    def __init__(self, spec: LabelSpec, truth_spec: LabelSpec) -> None:
        super().__init__(spec, truth_spec)
        self._truth_id_of = _truth_ids(spec, truth_spec)
        self._truths: dict[int, int] = defaultdict(int)
        self._scores: dict[int, bytearray] = defaultdict(bytearray)  # float32
        self._hits: dict[int, bytearray] = defaultdict(bytearray)  # bool

    def _add(self, value: Instances | None, truth: Instances | None) -> None:
        boxes_N4, scores_N, ids_N = _boxes(value)
        truth_boxes_M4, _, truth_ids_M = _boxes(truth)
        ids_N = self._truth_id_of[ids_N]
        for class_id in np.union1d(ids_N[ids_N >= 0], truth_ids_M).tolist():
            mine = np.flatnonzero(ids_N == class_id)
            mine = mine[np.argsort(-scores_N[mine], kind="stable")][:MAX_BOXES]
            true_M4 = truth_boxes_M4[truth_ids_M == class_id]
            self._truths[class_id] += len(true_M4)
            self._scores[class_id] += scores_N[mine].astype(np.float32).tobytes()
            self._hits[class_id] += metrics.match_boxes(boxes_N4[mine], true_M4).tobytes()

    def _metrics(self) -> dict[str, float]:
        precisions, recalls = [], []
        for class_id in (class_id for class_id, truths in self._truths.items() if truths):
            scores = np.frombuffer(self._scores[class_id], np.float32)
            hits = np.frombuffer(self._hits[class_id], np.bool_)
            precisions.append(metrics.average_precision(scores, hits, self._truths[class_id]))
            recalls.append(float(hits.sum()) / self._truths[class_id])
        return {
            "ap50": _ratio(sum(precisions), len(precisions)),
            "recall50": _ratio(sum(recalls), len(recalls)),
            "objects": float(sum(self._truths.values())),
        }


class WordsComparison(Comparison):
    """``recall``, ``precision``, ``f1`` of words read exactly (case aside, any order) and in the right place, pooled."""

    headline = Headline("recall", higher_is_better=True)
    empty_is_an_answer = True

    def __init__(self, spec: LabelSpec, truth_spec: LabelSpec) -> None:
        super().__init__(spec, truth_spec)
        self._matched = self._read = self._true = 0

    def _add(self, value: Words | None, truth: Words | None) -> None:
        words, boxes_N4 = _words(value)
        truth_words, truth_boxes_M4 = _words(truth)
        self._matched += metrics.match_words(words, boxes_N4, truth_words, truth_boxes_M4)
        self._read, self._true = self._read + len(words), self._true + len(truth_words)

    def _metrics(self) -> dict[str, float]:
        return {
            **_precision_recall(self._matched, self._read, self._matched, self._true),
            "words": float(self._true),
        }


def _truth_ids(spec: LabelSpec, truth_spec: LabelSpec) -> NDArray[np.int64]:
    """For every class id of ``spec`` the truth's id of that name, -1 where the truth does not know it."""
    ids = {name: class_id for class_id, name in enumerate(truth_spec.class_names)}
    found = np.array([ids.get(name, -1) for name in spec.class_names], np.int64)
    if (found < 0).all():
        raise ValueError(
            f"no class name is common to {', '.join(spec.class_names[:5])}, ... and {', '.join(truth_spec.class_names[:5])}, "
            "...; expected at least one"
        )
    return found


def _boxes(value: Instances | None) -> tuple[NDArray, NDArray, NDArray]:
    if value is None:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
    return value.boxes_N4, value.scores_N, value.class_ids_N


def _words(value: Words | None) -> tuple[list[str], NDArray[np.float64]]:
    return metrics.split_words(value.polygons_N42, value.texts) if value else ([], np.zeros((0, 4)))


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")


def _precision_recall(right: int, predicted: int, found: int, true: int) -> dict[str, float]:
    """F1 first. Precision is NaN where nothing was predicted, recall where nothing is there; F1 is then 0 or NaN."""
    precision, recall = _ratio(right, predicted), _ratio(found, true)
    if predicted and true:
        f1 = 2 * precision * recall / (precision + recall) if right and found else 0.0
    else:
        f1 = 0.0 if predicted or true else float("nan")
    return {"f1": f1, "precision": precision, "recall": recall}
