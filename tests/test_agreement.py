"""Agreement of two columns: analytic values, and COCO's own code for detection."""

from __future__ import annotations

import contextlib
import io
import math

import cv2
import numpy as np
import pytest

from expert_zoo.labels import ClassMap, DenseMap, Label, instances, words
from expert_zoo.spec import LabelSpec
from pipeline import metrics
from pipeline.agreement import Comparison, compare
from pipeline.resample import resize_map

DEPTH = LabelSpec(
    kind="map", quantity="depth", dtype="uint16", channels=1, value_range=(0, 100), units="m", resample="bilinear"
)
INVERSE = LabelSpec(kind="map", quantity="inverse_depth", dtype="uint16", channels=1, resample="bilinear")
NORMAL = LabelSpec(
    kind="map", quantity="normal", dtype="uint8", channels=3, value_range=(-1, 1), resample="bilinear",
    flip="mirror_negate_x",
)  # fmt: skip
EDGE = LabelSpec(kind="map", quantity="edge", dtype="uint8", channels=1, value_range=(0, 1), resample="bilinear")
WORDS = LabelSpec(kind="words", quantity="words")
PHOTO = LabelSpec(kind="image", quantity="photo")


def class_spec(*names: str) -> LabelSpec:
    return LabelSpec(
        kind="classes", quantity="class", dtype="uint8", channels=1, ignore=255, class_names=names, resample="nearest"
    )


def object_spec(*names: str) -> LabelSpec:
    return LabelSpec(kind="instances", quantity="objects", class_names=names)


def dense(values: np.ndarray) -> Label:
    return Label.ok(DenseMap(np.asarray(values, np.float32)))


def class_map(ids: list[list[int]] | np.ndarray) -> Label:
    return Label.ok(ClassMap(np.asarray(ids, np.uint8)))


def score(comparison: Comparison, label: Label | None, truth: Label | None, size: int = 64) -> dict[str, float]:
    comparison.add(label, truth, size, size)
    return comparison.result()


def test_nearest_resize_takes_the_pixel_under_the_new_centre() -> None:
    row = np.arange(9)[None]
    assert resize_map(row, 1, 3, how="nearest").tolist() == [[1, 4, 7]]
    assert resize_map(row.T, 3, 1, how="nearest").tolist() == [[1], [4], [7]]
    assert resize_map(np.array([[3, 5]]), 1, 6, how="nearest").tolist() == [[3, 3, 3, 5, 5, 5]]


def test_bilinear_resize_keeps_a_ramp_over_the_full_extent_in_place() -> None:
    ramp = ((np.arange(8) + 0.5) / 8)[None].repeat(4, 0).astype(np.float32)
    large = resize_map(ramp, 4, 32, how="bilinear")[0]
    inside = slice(2, -2)  # the outermost half pixel is clamped
    assert np.allclose(large[inside], ((np.arange(32) + 0.5) / 32)[inside], atol=1e-6)


def test_delta1_is_the_planted_share_and_abs_rel_the_planted_error() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 9, (40, 50))
    factor = np.full(truth.size, 1.2)
    factor[:700] = 1.3  # 700 of 2000 pixels are just beyond the limit of 1.25
    depth = truth * rng.permutation(factor).reshape(truth.shape)
    result = score(compare(DEPTH, DEPTH), dense(depth), dense(truth))
    assert result["delta1"] == pytest.approx(0.65)
    assert result["abs_rel"] == pytest.approx(0.65 * 0.2 + 0.35 * 0.3, rel=1e-5)


def test_delta1_counts_too_near_like_too_far() -> None:
    truth = np.full((8, 8), 4.0)
    assert score(compare(DEPTH, DEPTH), dense(truth / 1.3), dense(truth))["delta1"] == 0
    assert score(compare(DEPTH, DEPTH), dense(truth / 1.2), dense(truth))["delta1"] == 1


def test_pixels_without_true_depth_are_left_out() -> None:
    truth = np.full((8, 8), 4.0)
    truth[:4] = 0.0
    depth = np.where(truth > 0, 4.0, 50.0)
    assert score(compare(DEPTH, DEPTH), dense(depth), dense(truth))["delta1"] == 1


def test_a_transposed_depth_map_is_caught() -> None:
    truth = np.linspace(1, 10, 32)[:, None].repeat(32, 1)
    assert score(compare(DEPTH, DEPTH), dense(truth), dense(truth))["delta1"] == 1
    assert score(compare(DEPTH, DEPTH), dense(truth.T), dense(truth))["delta1"] < 0.5


def test_inverse_depth_is_aligned_in_scale_and_shift_and_its_sign_matters() -> None:
    truth = np.random.default_rng(1).uniform(1, 20, (24, 24))
    right = score(compare(INVERSE, DEPTH), dense(37 / truth - 3), dense(truth))
    assert right["delta1"] == 1 and right["abs_rel"] < 1e-4
    not_inverse = score(compare(INVERSE, DEPTH), dense(truth), dense(truth))
    assert not_inverse["delta1"] < 0.7


def test_depths_in_different_units_are_refused() -> None:
    with pytest.raises(ValueError, match="same units"):
        compare(DEPTH.model_copy(update={"units": "mm"}), DEPTH)


@pytest.mark.parametrize("degrees", [0.0, 5.0, 20.0, 90.0, 180.0])
def test_normals_turned_by_an_angle_are_off_by_that_angle(degrees: float) -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(16, 16, 3))
    truth /= np.linalg.norm(truth, axis=2, keepdims=True)
    axis = np.cross(truth, rng.normal(size=truth.shape))
    axis /= np.linalg.norm(axis, axis=2, keepdims=True)
    angle = math.radians(degrees)
    turned = truth * math.cos(angle) + np.cross(axis, truth) * math.sin(angle)
    result = score(compare(NORMAL, NORMAL), dense(turned), dense(truth))
    assert result["mean_angle"] == pytest.approx(degrees, abs=1e-3)
    assert result["median_angle"] == pytest.approx(degrees, abs=0.011)
    assert result["within_11.25"] == float(degrees < 11.25) and result["within_30"] == float(degrees < 30)


def test_swapped_axes_of_a_normal_are_caught() -> None:
    truth = np.zeros((8, 8, 3))
    truth[..., 0] = 1.0
    result = score(compare(NORMAL, NORMAL), dense(truth[..., [1, 0, 2]]), dense(truth))
    assert result["mean_angle"] == pytest.approx(90)


def test_median_and_mean_angle_pool_pixels_over_images() -> None:
    comparison = compare(NORMAL, NORMAL)
    wall = np.zeros((10, 10, 3))
    wall[..., 2] = 1.0
    floor = wall[..., [0, 2, 1]]
    comparison.add(dense(wall), dense(wall), 10, 10)
    comparison.add(dense(floor[:, :5]), dense(wall[:, :5]), 10, 5)
    result = comparison.result()
    assert result["mean_angle"] == pytest.approx(30)  # 50 of 150 pixels are 90 degrees off
    assert result["median_angle"] < 0.02 and result["compared"] == 2


def line_map(*columns: float, size: int = 200) -> np.ndarray:
    edges = np.zeros((size, size), np.float32)
    edges[:, list(map(int, columns))] = 1.0
    return edges


def test_edges_shifted_inside_the_tolerance_match_and_outside_do_not() -> None:
    truth = line_map(50, 120)  # tolerance: 0.0075 * 283 = 2.1 pixels
    assert score(compare(EDGE, EDGE), dense(line_map(52, 122)), dense(truth), 200)["f1"] == 1
    assert score(compare(EDGE, EDGE), dense(line_map(53, 123)), dense(truth), 200)["f1"] == 0


def test_precision_and_recall_of_edges_are_not_swapped() -> None:
    result = score(compare(EDGE, EDGE), dense(line_map(50)), dense(line_map(50, 120)), 200)
    assert (result["precision"], result["recall"]) == (1, 0.5)
    assert result["f1"] == pytest.approx(2 / 3)


def test_a_true_edge_drawn_thick_counts_its_own_pixels() -> None:
    result = score(compare(EDGE, EDGE), dense(line_map(50, 120)), dense(line_map(49, 50, 51)), 200)
    assert (result["precision"], result["recall"]) == (0.5, 1)


def test_edge_counts_are_pooled_over_images() -> None:
    comparison = compare(EDGE, EDGE)
    comparison.add(dense(line_map(10, 60, 110)), dense(line_map(10, 60, 110)), 200, 200)
    comparison.add(dense(line_map(150)), dense(line_map(50)), 200, 200)
    assert comparison.result()["precision"] == 0.75


@pytest.mark.parametrize("thickness", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("end", [(150, 60), (60, 150), (150, 150), (100, 20), (20, 100), (150, 10)])
def test_thinning_leaves_the_middle_line_one_pixel_wide(thickness: int, end: tuple[int, int]) -> None:
    drawn, middle = np.zeros((170, 170), np.uint8), np.zeros((170, 170), np.uint8)
    cv2.line(drawn, (20, 20), end, 1, thickness)
    cv2.line(middle, (20, 20), end, 1, 1)
    thin = metrics.thin_edges(drawn.astype(np.float32))
    for x, y in ((20, 20), end):  # the ends of a thick line are blobs, not lines
        thin[max(y - 8, 0) : y + 9, max(x - 8, 0) : x + 9] = False
        middle[max(y - 8, 0) : y + 9, max(x - 8, 0) : x + 9] = 0
    assert 0.97 * middle.sum() <= thin.sum() <= 1.03 * middle.sum()
    assert (cv2.distanceTransform(1 - middle, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[thin] <= 1.5).all()


def test_thinning_keeps_lines_two_pixels_apart() -> None:
    assert np.flatnonzero(metrics.thin_edges(line_map(50, 52))[100]).tolist() == [50, 52]


def test_thinning_respects_the_threshold_and_the_borders() -> None:
    assert not metrics.thin_edges(line_map(50) * 0.49).any()
    assert metrics.thin_edges(line_map(0, 199)).sum() == 400


def test_no_predicted_edge_is_zero_f1_without_a_warning() -> None:
    result = score(compare(EDGE, EDGE), dense(np.zeros((200, 200))), dense(line_map(50)), 200)
    assert result["f1"] == 0 and result["recall"] == 0 and math.isnan(result["precision"])


def test_mean_iou_by_hand() -> None:
    truth = [[0, 0, 1], [0, 1, 255], [2, 2, 255]]
    said = [[0, 1, 1], [0, 1, 0], [2, 255, 255]]
    result = score(
        compare(class_spec("a", "b", "c", "d"), class_spec("a", "b", "c", "d")), class_map(said), class_map(truth)
    )
    # a: 2 of 3 + one on no class = 2/4; b: 2 of 2 + one false = 2/3; c: 1/2; d occurs nowhere and is not averaged.
    assert result["mean_iou"] == pytest.approx((2 / 4 + 2 / 3 + 1 / 2) / 3)
    assert result["pixel_accuracy"] == pytest.approx(5 / 7) and result["classes"] == 3


def test_confusion_is_pooled_before_dividing() -> None:
    comparison = compare(class_spec("a", "b"), class_spec("a", "b"))
    comparison.add(class_map(np.zeros((2, 2))), class_map(np.zeros((2, 2))), 2, 2)
    comparison.add(class_map(np.zeros((2, 2))), class_map([[0, 1], [1, 1]]), 2, 2)
    assert comparison.result()["mean_iou"] == pytest.approx((5 / 8 + 0) / 2)


def test_classes_match_by_name_and_unknown_names_are_wrong() -> None:
    said_spec, truth_spec = class_spec("dog", "tree", "cat"), class_spec("cat", "dog", "car")
    truth = [[0, 0], [1, 1], [2, 2]]
    said = [[2, 2], [0, 1], [1, 0]]
    result = score(compare(said_spec, truth_spec), class_map(said), class_map(truth))
    assert result["classes"] == 2  # the label cannot say "car"
    assert result["mean_iou"] == pytest.approx((1 + 1 / 3) / 2)
    with pytest.raises(ValueError, match="no class name is common"):
        compare(class_spec("x"), truth_spec)


def test_a_transposed_class_map_is_caught() -> None:
    truth = np.arange(16)[:, None].repeat(16, 1) // 8
    spec = class_spec("top", "bottom")
    assert score(compare(spec, spec), class_map(truth), class_map(truth))["mean_iou"] == 1
    assert score(compare(spec, spec), class_map(truth.T), class_map(truth))["mean_iou"] < 0.5


def test_maps_are_compared_at_the_truths_size() -> None:
    truth = np.arange(64)[None].repeat(64, 0) // 32
    spec = class_spec("left", "right")
    small = np.arange(8)[None].repeat(8, 0) // 4
    assert score(compare(spec, spec), class_map(small), class_map(truth))["mean_iou"] == 1


def random_scene(rng: np.random.Generator, classes: int) -> tuple[Label, Label]:
    """Boxes of which some are near a true one, some twice on one, some of the wrong class; ties in the scores."""
    corners = rng.uniform(0, 150, (rng.integers(0, 7), 2))
    truth = np.hstack([corners, corners + rng.uniform(8, 50, corners.shape)])
    truth_ids = rng.integers(0, classes, len(truth))
    said = np.repeat(truth, 2, axis=0) + rng.normal(0, 4, (2 * len(truth), 4))
    said_ids = np.where(rng.random(len(said)) < 0.8, np.repeat(truth_ids, 2), rng.integers(0, classes, len(said)))
    stray = rng.uniform(0, 150, (rng.integers(0, 4), 2))
    said = np.vstack([said, np.hstack([stray, stray + 20])])
    said[:, 2:] = np.maximum(said[:, 2:], said[:, :2] + 1)
    said_ids = np.concatenate([said_ids, rng.integers(0, classes, len(stray))])
    scores = np.round(rng.random(len(said)), 1)
    return instances(np.clip(said, 0, 200), scores, said_ids), instances(truth, [1.0] * len(truth), truth_ids)


@pytest.mark.parametrize("seed", range(4))
def test_ap50_equals_that_of_coco(seed: int) -> None:
    coco_module, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    rng, classes = np.random.default_rng(seed), 3
    spec = object_spec("a", "b", "c")
    comparison = compare(spec, spec)
    truths, said = [], []
    for image_id in range(1, 26):
        label, truth = random_scene(rng, classes)
        comparison.add(label, truth, 200, 200)
        for answer, rows in ((truth, truths), (label, said)):
            value = answer.value
            if value is None:
                continue
            for (x0, y0, x1, y1), points, class_id in zip(
                value.boxes_N4.astype(float), value.scores_N.tolist(), value.class_ids_N.tolist(), strict=True
            ):
                size = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
                rows.append(
                    {"id": len(rows) + 1, "image_id": image_id, "category_id": class_id + 1, "score": points, **size}
                )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO()
        coco.dataset = {
            "images": [{"id": image_id} for image_id in range(1, 26)], "annotations": truths,
            "categories": [{"id": class_id + 1} for class_id in range(classes)],
        }  # fmt: skip
        coco.createIndex()
        judge = evaluation.COCOeval(coco, coco.loadRes(said), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    result = comparison.result()
    assert 0.2 < result["ap50"] < 0.95, "the random boxes are too easy or too hard to tell anything"
    assert result["ap50"] == pytest.approx(judge.stats[1], abs=1e-9)
    assert result["objects"] == len(truths)


def test_one_true_box_is_found_once_and_an_empty_answer_counts_against_recall() -> None:
    spec = object_spec("a")
    box = [[10, 10, 40, 40]]
    twice = compare(spec, spec)
    twice.add(instances(box * 2, [0.9, 0.8], [0, 0]), instances(box, [1.0], [0]), 64, 64)
    assert twice.result()["ap50"] == pytest.approx(1.0) and twice.result()["recall50"] == 1
    twice.add(Label.empty(), instances(box, [1.0], [0]), 64, 64)
    result = twice.result()
    assert result["recall50"] == 0.5 and result["compared"] == 2 and result["without_label"] == 0
    assert result["ap50"] == pytest.approx(51 / 101)  # precision 1 up to recall 0.5


def test_boxes_with_x_and_y_swapped_are_caught() -> None:
    spec = object_spec("a")
    truth = instances([[5, 40, 25, 60]], [1.0], [0])
    assert score(compare(spec, spec), instances([[40, 5, 60, 25]], [0.9], [0]), truth)["ap50"] == 0


def test_box_classes_match_by_name() -> None:
    box = [[10, 10, 40, 40]]
    result = score(
        compare(object_spec("plant", "cat"), object_spec("cat")),
        instances([*box, *box], [0.9, 0.8], [0, 1]), instances(box, [1.0], [0]),
    )  # fmt: skip
    assert result["ap50"] == pytest.approx(1.0)


def quad(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_words_are_matched_by_text_place_and_only_once() -> None:
    truth = words([quad(0, 0, 30, 10), quad(40, 0, 60, 10), quad(0, 40, 30, 50)], ["Open", "OPEN", "late"], [1] * 3)
    said = words([quad(1, 1, 31, 11), quad(0, 20, 60, 60)], ["open", "Late"], [0.9, 0.9])
    result = score(compare(WORDS, WORDS), said, truth)
    assert result["recall"] == pytest.approx(2 / 3) and result["precision"] == 1 and result["words"] == 3
    elsewhere = words([quad(0, 20, 30, 30)], ["late"], [0.9])
    assert score(compare(WORDS, WORDS), elsewhere, truth)["recall"] == 0
    letter_off = words([quad(0, 40, 30, 50)], ["lake"], [0.9])
    assert score(compare(WORDS, WORDS), letter_off, truth)["recall"] == 0


def test_one_reading_serves_one_true_word_and_one_true_word_one_reading() -> None:
    one, two = words([quad(0, 0, 30, 10)], ["open"], [1]), words([quad(0, 0, 30, 10)] * 2, ["open"] * 2, [1, 1])
    assert score(compare(WORDS, WORDS), one, two)["recall"] == 0.5
    result = score(compare(WORDS, WORDS), two, one)
    assert (result["recall"], result["precision"]) == (1, 0.5)


def test_a_line_is_split_and_each_word_gets_its_share_of_the_line() -> None:
    texts, boxes = metrics.split_words(np.array([quad(0, 0, 100, 10)], np.float32), ["ab  cdef g"])
    assert texts == ["ab", "cdef", "g"]
    assert np.allclose(boxes, [[0, 0, 20, 10], [40, 0, 80, 10], [90, 0, 100, 10]])
    truth = words([quad(0, 0, 20, 10), quad(40, 0, 80, 10)], ["AB", "cdef"], [1, 1])
    line = [quad(0, 0, 80, 10)]
    assert score(compare(WORDS, WORDS), words(line, ["ab  cdef"], [0.9]), truth, 100)["recall"] == 1
    assert score(compare(WORDS, WORDS), words(line, ["cdef  ab"], [0.9]), truth, 100)["recall"] == 0


def test_an_empty_reading_counts_fully_and_an_empty_truth_too() -> None:
    comparison = compare(WORDS, WORDS)
    some = words([quad(0, 0, 30, 10)], ["open"], [1.0])
    comparison.add(some, some, 64, 64)
    comparison.add(Label.empty(), some, 64, 64)
    comparison.add(some, Label.empty(), 64, 64)
    comparison.add(Label.empty(), Label.empty(), 64, 64)
    result = comparison.result()
    assert (result["recall"], result["precision"], result["compared"]) == (0.5, 0.5, 4)


def test_missing_failed_and_broken_labels_are_counted_and_kept_out() -> None:
    comparison = compare(DEPTH, DEPTH)
    truth = dense(np.full((4, 4), 2.0))
    broken = dense(np.full((4, 4), np.nan))
    for label in (truth, None, Label.failed("nan: 3"), Label.empty(), broken):
        comparison.add(label, truth, 4, 4)
    comparison.add(truth, None, 4, 4)
    comparison.add(None, Label.failed("no truth"), 4, 4)
    result = comparison.result()
    assert (result["compared"], result["without_label"], result["without_truth"]) == (1, 4, 2)
    assert result["delta1"] == 1


def test_nothing_compared_is_nan_not_zero() -> None:
    boxes, classes = object_spec("a"), class_spec("a")
    for comparison in (compare(s, t) for s, t in [(DEPTH, DEPTH), (NORMAL, NORMAL), (EDGE, EDGE), (classes, classes), (boxes, boxes), (WORDS, WORDS)]):  # fmt: skip
        result = comparison.result()
        assert math.isnan(result[comparison.headline.metric]), comparison
        assert result["compared"] == 0


@pytest.mark.parametrize("pair", [(PHOTO, PHOTO), (DEPTH, INVERSE), (DEPTH, NORMAL)])
def test_what_has_no_agreement_says_so(pair: tuple[LabelSpec, LabelSpec]) -> None:
    with pytest.raises(ValueError, match="no agreement is defined"):
        compare(*pair)
    for kind, quantity in (("text", "caption"), ("score", "match")):
        spec = LabelSpec(kind=kind, quantity=quantity)
        with pytest.raises(ValueError, match="no agreement is defined"):
            compare(spec, spec)
