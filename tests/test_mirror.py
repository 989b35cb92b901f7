"""Flipping the photo and asking, or asking and flipping the label: the same, for experts that see no difference between sides."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from expert_zoo import scene_specs
from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Scores, Text, Words
from expert_zoo.mirror import mirrored
from expert_zoo.spec import LabelSpec
from manifests.scenes import render_uri, scene_uri
from tests.conftest import comparable

HEIGHT, WIDTH = 96, 128
CAPTION = LabelSpec(kind="text", quantity="caption", flip="none")
MATCH = LabelSpec(kind="score", quantity="match", flip="none")


def brightness(pixels_HW3: np.ndarray) -> np.ndarray:
    return pixels_HW3.astype(np.float32).sum(axis=2) / 765


def depth(pixels_HW3: np.ndarray) -> Label:
    return Label.ok(DenseMap(brightness(pixels_HW3)))


def normal(pixels_HW3: np.ndarray) -> Label:
    """The normals of the surface whose nearness is the brightness: central differences, x right, y up."""
    padded = np.pad(brightness(pixels_HW3), 1, mode="edge")
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    xyz = np.stack([0.0 - across, down, np.full_like(across, 0.5)], axis=2)
    return Label.ok(DenseMap(xyz / np.linalg.norm(xyz, axis=2, keepdims=True)))


def classes(pixels_HW3: np.ndarray) -> Label:
    return Label.ok(ClassMap((brightness(pixels_HW3) > 0.5).astype(np.uint8)))


def objects(pixels_HW3: np.ndarray) -> Label:
    """One box with mask per bright region, sorted by what mirroring does not change."""
    bright_HW = (brightness(pixels_HW3) > 0.5).astype(np.uint8)
    count, ids_HW, stats, _ = cv2.connectedComponentsWithStats(bright_HW, connectivity=4)
    order = sorted(range(1, count), key=lambda n: (*stats[n, 1:].tolist(), int(min(stats[n, 0], WIDTH - stats[n, 0]))))
    boxes, masks = [], []
    for n in order:
        x, y, w, h = stats[n, :4]
        boxes.append([x, y, x + w, y + h])
        masks.append(cv2.imencode(".png", (ids_HW[y : y + h, x : x + w] == n).astype(np.uint8) * 255)[1].tobytes())
    zeros = np.zeros(len(boxes), np.int32)
    return Label.ok(Instances(np.array(boxes, np.float32), zeros + np.float32(0.5), zeros, tuple(masks)))


def signs(pixels_HW3: np.ndarray) -> Label:
    """Corners around the largest bright region that is not the wall behind everything."""
    (value,) = [objects(pixels_HW3).value]
    assert isinstance(value, Instances)
    areas = (value.boxes_N4[:, 2:] - value.boxes_N4[:, :2]).prod(axis=1)
    left, top, right, bottom = value.boxes_N4[areas.argsort()[-2]]
    quad = np.array([[[left, top], [right, top], [right, bottom], [left, bottom]]], np.float32)
    return Label.ok(Words(quad, ("SIGN",), np.ones(1, np.float32)))


EXPERTS: dict[str, tuple[Callable[[np.ndarray], Label], LabelSpec]] = {
    "depth": (depth, scene_specs.DEPTH),
    "normal": (normal, scene_specs.NORMAL),
    "classes": (classes, scene_specs.SEGMENTATION),
    "objects": (objects, scene_specs.DETECTION),
    "words": (signs, scene_specs.WORDS),
    "text": (lambda _: Label.ok(Text("a room", -1.0)), CAPTION),
    "score": (lambda _: Label.ok(Scores(np.ones(2, np.float32))), MATCH),
    "nothing": (lambda _: Label.empty(), scene_specs.DETECTION),
    "failed": (lambda _: Label.failed("too small: 1x1"), scene_specs.DEPTH),
}


@pytest.fixture(scope="module")
def pixels_HW3() -> np.ndarray:
    return cv2.resize(render_uri(scene_uri(7, 3, 256)).photo_HW3, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("kind", EXPERTS)
def test_flipping_the_photo_is_flipping_the_label(kind: str, pixels_HW3: np.ndarray) -> None:
    expert, spec = EXPERTS[kind]
    label, of_flipped = expert(pixels_HW3), expert(pixels_HW3[:, ::-1])
    assert comparable(mirrored(label, spec, width=WIDTH)) == comparable(of_flipped)
    assert comparable(mirrored(of_flipped, spec, width=WIDTH)) == comparable(label)


@pytest.mark.parametrize("kind", ["depth", "normal", "classes", "objects", "words"])
def test_the_photo_has_two_different_sides(kind: str, pixels_HW3: np.ndarray) -> None:
    """Else the test above would be about nothing."""
    expert, _ = EXPERTS[kind]
    assert comparable(expert(pixels_HW3)) != comparable(expert(pixels_HW3[:, ::-1]))


def test_a_normal_keeps_its_length_and_turns_its_x(pixels_HW3: np.ndarray) -> None:
    label = normal(pixels_HW3)
    turned = mirrored(label, scene_specs.NORMAL, width=WIDTH).value
    assert isinstance(label.value, DenseMap) and isinstance(turned, DenseMap)
    assert np.array_equal(turned.values[5, 10], label.value.values[5, WIDTH - 11] * [-1, 1, 1])
    wrong = scene_specs.NORMAL.model_copy(update={"flip": "mirror"})
    assert not np.array_equal(mirrored(label, wrong, width=WIDTH).value.values, turned.values)  # type: ignore[union-attr]
