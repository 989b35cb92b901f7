"""The occlusion-resolved instance map: every rule on its own, and all of them against masks on thousands of cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.occlusion import by_masks, random_case
from expert_zoo.occlusion import NONE_OF_255, NONE_OF_65535, covered_pixels, depth_levels, instance_map

Boxes = list[tuple[float, float, float, float]]
#: Metres: near on the left, far on the right of a photo of 12x12 pixels.
SLOPE = np.tile(np.arange(12, dtype=np.float32), (12, 1))


def painted(boxes: Boxes, depth_HW: NDArray[np.float32] | None = SLOPE, **changed: Any) -> NDArray[np.unsignedinteger]:
    asked = {"quantity": "depth", "photo": (12, 12), "size": (12, 12)} | changed
    return instance_map(np.array(boxes, np.float32).reshape(-1, 4), depth_HW, **asked)


def test_a_box_is_painted_where_it_is_and_nowhere_else() -> None:
    expected = np.full((12, 12), NONE_OF_255)
    expected[2:5, 1:9] = 0
    assert np.array_equal(painted([(1, 2, 9, 5)]), expected)


def test_without_boxes_no_object_is_anywhere() -> None:
    assert (painted([]) == NONE_OF_255).all()


def test_a_box_seen_twice_keeps_its_first_id_and_the_others_keep_theirs() -> None:
    ids = painted([(0, 0, 10, 10), (0, 0, 10, 9.7), (10, 10, 12, 12)])
    assert set(ids.flat) == {0, 2, NONE_OF_255}


@pytest.mark.parametrize(("height", "kept"), [(20, {0}), (19, {0, 1})])
def test_an_overlap_of_exactly_19_of_20_is_none(height: int, kept: set[int]) -> None:
    """0.95 itself is not above 0.95. The second box lies inside the first, so where it is kept it is seen."""
    ids = painted([(0, 0, 20, 20), (0, 0, 20, height)], None, photo=(20, 20), size=(20, 20))
    assert set(ids.flat) == kept


def test_a_dropped_box_drops_no_other() -> None:
    """The second is the first's duplicate and the third the second's, but not the first's."""
    ids = painted([(0, 0, 100, 1), (2, 0, 102, 1), (4, 0, 104, 1)], None, photo=(1, 120), size=(1, 120))
    assert set(ids.flat) == {0, 2, NONE_OF_255}


def test_the_inner_box_is_in_front_however_far_it_is() -> None:
    for boxes in ([(0, 0, 12, 12), (8, 4, 12, 8)], [(8, 4, 12, 8), (0, 0, 12, 12)]):
        inner = [box[0] for box in boxes].index(8)
        for quantity in ("depth", "inverse_depth"):
            assert (painted(boxes, quantity=quantity)[4:8, 8:12] == inner).all()


@pytest.mark.parametrize(("quantity", "front"), [("depth", 0), ("inverse_depth", 1)])
def test_the_nearer_box_is_in_front(quantity: str, front: int) -> None:
    left, right = (0, 0, 8, 8), (4, 4, 12, 12)
    assert (painted([left, right], quantity=quantity)[4:8, 4:8] == front).all()
    assert (painted([right, left], quantity=quantity)[4:8, 4:8] == 1 - front).all()


def test_of_equal_means_the_later_box_is_in_front() -> None:
    above, below = (0, 0, 12, 8), (0, 4, 12, 12)
    for depth_HW in (SLOPE, np.full((12, 12), 3.0, np.float32), None):
        assert (painted([above, below], depth_HW)[4:8] == 1).all()
        assert (painted([below, above], depth_HW)[4:8] == 1).all()


def test_means_that_ought_to_be_equal_are() -> None:
    """Boxes of different shapes whose mean of thirds would differ in its last bits, were it not of whole numbers."""
    depth_HW = np.tile(np.array([0.1, 0.2, 0.3], np.float32), (12, 4))
    boxes = [(0, 0, 9, 5), (3, 2, 12, 12)]
    assert (painted(boxes, depth_HW)[2:5, 3:9] == 1).all()
    assert (painted(boxes[::-1], depth_HW)[2:5, 3:9] == 1).all()


def test_in_a_ring_the_nearest_wins() -> None:
    """0 is inside 1, 1 is nearer than 2, 2 is nearer than 0: where all three meet, none is in front of both others."""
    inner, outer, other = (8, 4, 12, 8), (0, 0, 12, 12), (4, 6, 13, 14)
    depth_HW = np.tile(np.arange(16, dtype=np.float32), (16, 1))
    ids = painted([inner, outer, other], depth_HW, photo=(16, 16), size=(16, 16))
    assert (ids[4:6, 8:12] == 0).all(), "the inner one before the outer one"
    assert (ids[8:12, 4:12] == 1).all(), "the outer one before the other"
    assert (ids[6:8, 12] == 2).all(), "the other alone"
    assert (ids[6:8, 8:12] == 1).all(), "the ring: the outer one is nearest"


def test_every_pixel_of_a_box_with_nothing_in_front_is_its_own() -> None:
    """Prismer's code subtracts masks that are already cut, so that area comes back that was lost before."""
    boxes = [(0, 0, 12, 12), (1, 1, 11, 11), (2, 2, 10, 10), (4, 4, 6, 6)]
    ids = painted(boxes)
    for name, (left, top, right, bottom) in enumerate(boxes):
        assert ids[top, left] == ids[bottom - 1, right - 1] == name


def test_a_box_smaller_than_a_pixel_keeps_one() -> None:
    boxes: Boxes = [(3.6, 5.1, 4.2, 5.3), (11.9, 11.8, 12, 12), (0, 0, 12, 0.1)]
    assert [
        tuple(row) for row in covered_pixels(np.array(boxes, np.float32), photo=(12, 12), grid=(12, 12)).tolist()
    ] == [
        (3, 5, 4, 6),
        (11, 11, 12, 12),
        (0, 0, 12, 1),
    ]
    ids = painted(boxes, size=(3, 3))
    assert set(ids.flat) == {0, 1, 2, NONE_OF_255}


def test_a_box_covers_the_pixels_whose_centres_it_contains() -> None:
    box = np.array([(0.5, 0.51, 3.5, 3.49)], np.float32)
    assert covered_pixels(box, photo=(6, 6), grid=(6, 6)).tolist() == [[0, 1, 3, 3]]
    assert covered_pixels(box, photo=(6, 6), grid=(12, 12)).tolist() == [[1, 1, 7, 7]]


def test_boxes_that_share_an_edge_share_no_pixel() -> None:
    edges = np.linspace(0, 12, 30)
    boxes = np.stack([edges[:-1], np.zeros(29), edges[1:], np.full(29, 12)], axis=1).astype(np.float32)
    left, _, right, _ = covered_pixels(boxes, photo=(12, 12), grid=(480, 480)).T
    assert left[0] == 0 and right[-1] == 480 and np.array_equal(left[1:], right[:-1])


@pytest.mark.parametrize(("count", "none"), [(255, NONE_OF_255), (256, NONE_OF_65535)])
def test_no_id_is_that_of_nothing(count: int, none: int) -> None:
    """Prismer's code lets all ids from 255 on collapse on the 255 that means nothing."""
    boxes: Boxes = [(i % 20, i // 20, i % 20 + 1, i // 20 + 1) for i in range(count)]
    ids = painted(boxes, photo=(20, 20), size=(20, 20))
    assert ids.dtype == (np.uint8 if none == NONE_OF_255 else np.uint16)
    assert np.array_equal(ids.flat[:count], np.arange(count)) and (ids.flat[count:] == none).all()


def test_more_boxes_than_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="65536 boxes"):
        instance_map(np.ones((65536, 4), np.float32), None, quantity="depth", photo=(2, 2), size=(2, 2))


def test_levels_use_the_whole_range_and_keep_a_stored_map_as_it_was() -> None:
    png_HW = np.random.default_rng(0).permutation(65536).reshape(256, 256).astype(np.float64)
    assert np.array_equal(depth_levels((png_HW * 1.7e-4 + 0.3).astype(np.float32)), png_HW)
    assert (depth_levels(np.full((4, 4), 7.5, np.float32)) == 0).all()


def small_case(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, dict[str, Any]]:
    """Up to 12 boxes on a grid of quarters of pixels, over borders too, in a photo of up to 14 pixels, with few depths."""
    photo, size, grid = (tuple(rng.integers(1, 15, 2).tolist()) for _ in range(3))
    count = int(rng.integers(0, 13))
    extent_2 = np.array([photo[1], photo[0]])
    ends = np.sort(rng.integers(-4, 4 * extent_2 + 5, (2, count, 2)) / 4, axis=0)
    ends[1] += (ends[1] == ends[0]) / 4
    boxes_N4 = np.concatenate([ends[0], ends[1]], axis=1)
    for _ in range(count // 4):  # identical, and identical but for a quarter of a pixel
        boxes_N4[rng.integers(count)] = boxes_N4[rng.integers(count)] + (0, 0, 0, rng.integers(2) / 4)
    depth_HW = None if rng.random() < 0.1 else rng.integers(0, rng.integers(1, 5), grid).astype(np.float32)
    return boxes_N4.astype(np.float32), depth_HW, {"photo": photo, "size": size}


def test_it_is_what_masks_say_in_thousands_of_small_cases() -> None:
    rng = np.random.default_rng(2303)
    for case in range(4000):
        boxes_N4, depth_HW, asked = small_case(rng)
        for quantity in ("depth", "inverse_depth"):
            ours = instance_map(boxes_N4, depth_HW, quantity=quantity, **asked)  # type: ignore[arg-type]
            masks = by_masks(boxes_N4, depth_HW, quantity=quantity, **asked)  # type: ignore[arg-type]
            assert ours.dtype == masks.dtype and np.array_equal(ours, masks), f"case {case}, {quantity}"


@pytest.mark.parametrize("count", [60, 300])
def test_it_is_what_masks_say_of_many_boxes(count: int) -> None:
    boxes_N4, depth_HW = random_case(count, count, photo=(90, 120))
    asked: dict[str, Any] = {"quantity": "depth", "photo": (90, 120), "size": (56, 56)}
    ours = instance_map(boxes_N4, depth_HW, **asked)
    assert len(np.unique(ours)) > count / 4
    assert np.array_equal(ours, by_masks(boxes_N4, depth_HW, **asked))


whole_boxes = st.lists(
    st.tuples(*[st.integers(0, 11)] * 4).map(
        lambda t: (min(t[0], t[2]), min(t[1], t[3]), max(t[0], t[2]) + 1, max(t[1], t[3]) + 1)
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(whole_boxes, st.integers(0, 2**32 - 1))
def test_what_every_map_keeps_to(boxes: Boxes, seed: int) -> None:
    """Painted where there are boxes and only there, each id within its box; mirrored like the photo; the same seen twice."""
    depth_HW = np.random.default_rng(seed).integers(0, 4, (12, 12)).astype(np.float32)
    ids = painted(boxes, depth_HW)
    covered = np.zeros((12, 12), bool)
    for name, (left, top, right, bottom) in enumerate(boxes):
        box = np.zeros((12, 12), bool)
        box[top:bottom, left:right] = True
        covered |= box
        assert not (ids[~box] == name).any()
    assert np.array_equal(ids == NONE_OF_255, ~covered)
    mirrored = painted(
        [(12 - right, top, 12 - left, bottom) for left, top, right, bottom in boxes], depth_HW[:, ::-1].copy()
    )
    assert np.array_equal(mirrored, ids[:, ::-1])
    assert np.array_equal(painted(boxes + boxes, depth_HW), ids)
