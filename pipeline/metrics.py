"""The numbers behind an audit: one prediction against one truth, as plain arrays of the same size.

Legend of shape suffixes: H, W height and width of the truth, N predicted, M true boxes or words.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

#: An edge is a pixel of at least this probability.
EDGE_THRESHOLD = 0.5
#: Two edge pixels match within this share of the image diagonal (BSDS: Martin et al., TPAMI 2004, section 3).
EDGE_TOLERANCE = 0.0075
#: Blur before non-maximum suppression (pixels): gives the plateau of a thick edge one ridge, keeps lines 2 px apart.
EDGE_BLUR_PX = 0.7
#: Two boxes of a word overlap when their intersection over union is above this.
WORD_OVERLAP = 0.1


def depth_errors(depth_HW: NDArray, truth_HW: NDArray) -> tuple[float, float]:
    """(delta1, absolute relative error) over the pixels whose truth is positive (Eigen et al., NIPS 2014, section 4).

    delta1 is the share of pixels with max(depth / truth, truth / depth) < 1.25; a depth of 0 or less is never within.
    NaN for both where no pixel has a truth.
    """
    known = truth_HW > 0
    depth, truth = depth_HW[known].astype(np.float64), truth_HW[known].astype(np.float64)
    if truth.size == 0:
        return float("nan"), float("nan")
    within = (depth < 1.25 * truth) & (truth < 1.25 * depth)
    return float(within.mean()), float((np.abs(depth - truth) / truth).mean())


def align_inverse_depth(inverse_HW: NDArray, truth_HW: NDArray, farthest: float) -> NDArray[np.float64]:
    """Depth in the truth's units from a relative inverse depth (larger is nearer) of unknown scale and shift.

    Scale and shift are the least-squares fit to 1 / truth over the pixels whose truth is positive; aligned values below
    1 / ``farthest`` are lifted to it (Ranftl et al., MiDaS, TPAMI 2022, section 5).
    """
    known = truth_HW > 0
    relative, target = inverse_HW[known].astype(np.float64), 1.0 / truth_HW[known].astype(np.float64)
    if target.size == 0:
        return np.zeros(inverse_HW.shape)
    spread = relative.var()
    scale = ((relative - relative.mean()) * (target - target.mean())).mean() / spread if spread > 0 else 0.0
    shift = target.mean() - scale * relative.mean()
    return 1.0 / np.maximum(scale * inverse_HW.astype(np.float64) + shift, 1.0 / farthest)


def angles(normals_HW3: NDArray, truth_HW3: NDArray) -> NDArray[np.float32]:
    """Angle between two normals in degrees, (H, W); both are brought to unit length first. A zero vector is 90 degrees off."""
    a, b = _unit(normals_HW3), _unit(truth_HW3)
    # 2 atan2(|a - b|, |a + b|) keeps its digits at small angles, where the arc cosine loses half of them.
    return np.degrees(2 * np.arctan2(_lengths(a - b), _lengths(a + b)))


def thin_edges(edges_HW: NDArray) -> NDArray[np.bool_]:
    """One-pixel lines where an edge map of probabilities is at least EDGE_THRESHOLD.

    Non-maximum suppression across the ridge, whose normal is the Hessian's eigenvector of strongest negative curvature
    (Steger, TPAMI 1998, section 2): along x for steep lines (one pixel a row), along y for flat ones (one a column).
    """
    blurred = cv2.GaussianBlur(edges_HW.astype(np.float32), (0, 0), EDGE_BLUR_PX, borderType=cv2.BORDER_REPLICATE)
    xx, yy = (cv2.Sobel(blurred, cv2.CV_32F, *order, ksize=3) for order in ((2, 0), (0, 2)))
    # |normal's x| >= |normal's y|: the eigenvector's angle is atan2(2 xy, xx - yy) / 2 and its dominant axis needs no xy.
    steep = xx <= yy
    padded = np.pad(blurred, 1, mode="constant", constant_values=-1.0)
    # Strict on one side only: of two equal neighbours exactly one stays.
    across_x = (blurred > padded[1:-1, :-2]) & (blurred >= padded[1:-1, 2:])
    across_y = (blurred > padded[:-2, 1:-1]) & (blurred >= padded[2:, 1:-1])
    return np.where(steep, across_x, across_y) & (edges_HW >= EDGE_THRESHOLD)


def edge_matches(edges_HW: NDArray, truth_HW: NDArray) -> tuple[int, int, int, int]:
    """(predicted pixels near a true one, predicted, true pixels near a predicted one, true), as pixel counts.

    The prediction is thinned, the truth taken as it is from EDGE_THRESHOLD on. Near is within EDGE_TOLERANCE of the image
    diagonal. Matching is by distance transform, so one pixel may serve several: slightly kinder than the one-to-one
    assignment of the BSDS benchmark, which matters only where lines are doubled within the tolerance.
    """
    predicted, true = thin_edges(edges_HW), truth_HW >= EDGE_THRESHOLD
    reach = EDGE_TOLERANCE * float(np.hypot(*truth_HW.shape))
    near_true, near_predicted = (_distance_to(mask) <= reach for mask in (true, predicted))
    return (
        int((predicted & near_true).sum()), int(predicted.sum()), int((true & near_predicted).sum()), int(true.sum())
    )  # fmt: skip


def box_overlaps(boxes_N4: NDArray, truth_M4: NDArray) -> NDArray[np.float64]:
    """Intersection over union of xyxy boxes, (N, M)."""
    a, b = boxes_N4.astype(np.float64)[:, None], truth_M4.astype(np.float64)[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = sides.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def match_boxes(boxes_N4: NDArray, truth_M4: NDArray, threshold: float = 0.5) -> NDArray[np.bool_]:
    """Which boxes (best first, one class) are hits, (N,): each takes the free true box it overlaps most, if enough."""
    overlaps = box_overlaps(boxes_N4, truth_M4)
    hits = np.zeros(len(boxes_N4), bool)
    for row, overlap_M in enumerate(overlaps):
        if len(overlap_M) and overlap_M.max() >= threshold:
            hits[row] = True
            overlaps[:, overlap_M.argmax()] = -1.0
    return hits


def average_precision(scores_N: NDArray, hits_N: NDArray, truths: int) -> float:
    """Area under the precision-recall curve, read at 101 recalls (COCO; Lin et al., ECCV 2014, and its evaluation code)."""
    assert truths > 0
    hits_by_score = np.cumsum(hits_N[np.argsort(-scores_N, kind="stable")])
    recall = hits_by_score / truths
    precision = hits_by_score / np.arange(1, len(hits_N) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.append(best_from_here, 0.0)[at].mean())


def split_words(polygons_N42: NDArray, texts: Sequence[str]) -> tuple[list[str], NDArray[np.float64]]:
    """Words (case folded) and their bounding boxes xyxy (K, 4) from lines that may hold several, split at white space.

    A word gets the share of its line's polygon that its characters have in the line.
    """
    words: list[str] = []
    boxes: list[NDArray] = []
    for corners_42, text in zip(polygons_N42.astype(np.float64), texts, strict=True):
        cursor = 0
        for word in text.split():
            start = text.index(word, cursor)
            cursor = start + len(word)
            top_left, top_right, bottom_right, bottom_left = corners_42
            ends = [
                left + (right - left) * at / len(text)
                for left, right in ((top_left, top_right), (bottom_left, bottom_right))
                for at in (start, cursor)
            ]
            words.append(word.casefold())
            boxes.append(np.concatenate([np.min(ends, axis=0), np.max(ends, axis=0)]))
    return words, np.array(boxes, np.float64).reshape(-1, 4)


def match_words(words: Sequence[str], boxes_N4: NDArray, truth_words: Sequence[str], truth_boxes_M4: NDArray) -> int:
    """How many true words are read: same text, boxes that overlap by more than WORD_OVERLAP, each reading used once."""
    overlaps = box_overlaps(boxes_N4, truth_boxes_M4)
    same = np.array([[word == truth for truth in truth_words] for word in words], bool).reshape(overlaps.shape)
    overlaps[~same] = 0.0
    matched = 0
    while overlaps.size and overlaps.max() > WORD_OVERLAP:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        overlaps[row], overlaps[:, column] = 0.0, 0.0
        matched += 1
    return matched


def _unit(vectors_HW3: NDArray) -> NDArray:
    vectors_HW3 = vectors_HW3.astype(np.float32)
    return vectors_HW3 / np.maximum(_lengths(vectors_HW3), np.float32(1e-12))[..., None]


def _lengths(vectors_HW3: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.sqrt(np.einsum("hwc,hwc->hw", vectors_HW3, vectors_HW3))


def _distance_to(mask_HW: NDArray[np.bool_]) -> NDArray:
    """Euclidean distance in pixels to the nearest True; infinite where there is none."""
    if not mask_HW.any():
        return np.full(mask_HW.shape, np.inf)
    return cv2.distanceTransform((~mask_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
