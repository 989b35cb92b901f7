"""A LabelSpec is whole or refused, and knows what breaks it."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import PIL.Image
import pytest
from pydantic import ValidationError

from expert_zoo.labels import (
    ClassMap,
    DenseMap,
    Instances,
    Label,
    Picture,
    Scores,
    Text,
    Value,
    Words,
    instances,
    words,
)
from expert_zoo.spec import LabelSpec
from tests.stand_ins import DARKNESS, GREY, SQUARES

NORMAL = LabelSpec(kind="map", quantity="normal", dtype="uint8", channels=3, value_range=(-1, 1), resample="bilinear")
OCR = LabelSpec(kind="words", quantity="words")
CAPTION = LabelSpec(kind="text", quantity="caption")
MATCH = LabelSpec(kind="score", quantity="match")
PHOTO = LabelSpec(kind="image", quantity="photo")


def changed(spec: LabelSpec, **changes: object) -> LabelSpec:
    return LabelSpec.model_validate(spec.model_dump() | changes)


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        (GREY, {"dtype": None}),
        (GREY, {"channels": None}),
        (GREY, {"channels": 2}),
        (GREY, {"dtype": "float32"}),
        (GREY, {"resample": "nearest"}),
        (GREY, {"value_range": (1.0, 1.0)}),
        (GREY, {"value_range": (1.0, 0.0)}),
        (GREY, {"value_range": (0.0, float("inf"))}),
        (GREY, {"value_range": (float("nan"), 1.0)}),
        (GREY, {"kind": "depth"}),
        (GREY, {"colour": "red"}),
        (DARKNESS, {"resample": "bilinear"}),
        (DARKNESS, {"ignore": None}),
        (DARKNESS, {"ignore": 0}),
        (DARKNESS, {"ignore": 65535}),
        (DARKNESS, {"dtype": "uint16"}),
        (DARKNESS, {"channels": 3}),
        (DARKNESS, {"class_names": ()}),
        (DARKNESS, {"class_names": tuple(map(str, range(256)))}),
        (SQUARES, {"class_names": ()}),
        (SQUARES, {"dtype": "uint8"}),
        (SQUARES, {"channels": 1}),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(spec: LabelSpec, changes: dict[str, object]) -> None:
    assert changed(spec) == spec
    with pytest.raises(ValidationError):
        changed(spec, **changes)


@pytest.mark.parametrize("spec", [GREY, NORMAL, DARKNESS, SQUARES, OCR, CAPTION, MATCH, PHOTO])
def test_a_spec_survives_json(spec: LabelSpec) -> None:
    assert LabelSpec.model_validate_json(spec.model_dump_json()) == spec


def test_wide_class_maps_have_room_for_many_classes() -> None:
    wide = changed(DARKNESS, dtype="uint16", ignore=65535, class_names=tuple(map(str, range(847))))
    ids_HW = np.array([[255, 846, 65535]], np.uint16)
    assert wide.problem_with(Label.ok(ClassMap(ids_HW)), height=1, width=3) is None


def f(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def boxes(*rows: tuple[float, float, float, float], ids: object = None, scores: object = None) -> Instances:
    n = len(rows)
    return Instances(
        boxes_N4=np.array(rows, np.float32).reshape(-1, 4),
        scores_N=np.full(n, 0.5, np.float32) if scores is None else np.array(scores, np.float32),
        class_ids_N=np.zeros(n, np.int32) if ids is None else np.array(ids),
    )


def polygon(*points: float, text: str = "word", score: float = 0.5) -> Words:
    return Words(np.array(points, np.float32).reshape(-1, 4, 2), (text,), f(score))


def png(height: int, width: int, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new(mode, (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def masked(*masks: object) -> Instances:
    """Two boxes: 5 x 4 and, rounded outwards, 3 x 2 pixels (width x height)."""
    value = boxes((0, 0, 5, 4), (1.5, 2, 3.2, 4))
    return dataclasses.replace(value, masks=masks)  # type: ignore[arg-type]


UP = np.zeros((2, 3, 3), np.float32) + f(0, 1, 0)

GOOD: list[tuple[LabelSpec, Value]] = [
    (GREY, DenseMap(np.ones((1, 1), np.float32))),
    (GREY, DenseMap(np.full((2, 2), -1e30, np.float32))),
    (NORMAL, DenseMap(UP)),
    (NORMAL, DenseMap(np.full((2, 3, 3), 0.6, np.float32))),
    (changed(GREY, value_range=(0, 1)), DenseMap(f(0, 1.00005).reshape(1, 2))),
    (DARKNESS, ClassMap(np.array([[0, 1, 255]], np.uint8))),
    (SQUARES, boxes((0, 0, 20, 10))),
    (SQUARES, boxes((-0.9, -0.9, 20.9, 10.9), scores=[1.0])),
    (OCR, polygon(0, 0, 20, 0, 20, 10, 0, 10)),
    (CAPTION, Text("a cat\nand \U0001f408", -3.5)),
    (CAPTION, Text("", 0.0)),
    (MATCH, Scores(f())),
    (MATCH, Scores(f(-7, 30))),
    (PHOTO, Picture(b"\xff", "jpg")),
    (SQUARES, masked(png(4, 5), png(2, 3, "1"))),
]

BAD: list[tuple[LabelSpec, Value, str]] = [
    (GREY, DenseMap(np.ones((2, 2, 1), np.float32)), "wrong shape"),
    (GREY, DenseMap(np.ones(4, np.float32)), "wrong shape"),
    (GREY, DenseMap(np.ones((0, 4), np.float32)), "wrong shape"),
    (GREY, DenseMap(f(1, np.nan, np.inf, 2).reshape(2, 2)), "2 of 4 values are NaN or infinite"),
    (NORMAL, DenseMap(UP[..., 0]), "wrong shape"),
    (NORMAL, DenseMap(UP * 0.9), "length is off by 0.100"),
    (NORMAL, DenseMap(np.concatenate([UP, UP * 0.5])), "length is off by 0.500"),
    (NORMAL, DenseMap(np.concatenate([UP, 0 * UP + f(0.8, 0, -0.8)])), "length is off by 0.131"),
    (NORMAL, DenseMap(UP * 1.2), "leave the range -1..1"),
    (changed(GREY, value_range=(0, 1)), DenseMap(f(0, 1.01).reshape(1, 2)), "from 0 to 1.01 leave the range 0..1"),
    (changed(GREY, value_range=(0, 1)), DenseMap(f(-0.01, 1).reshape(1, 2)), "leave the range"),
    (DARKNESS, ClassMap(np.array([[0, 2]], np.uint8)), "class id 2 of 2 classes"),
    (DARKNESS, ClassMap(np.array([[0, 1]], np.int64)), "wrong class map"),
    (DARKNESS, ClassMap(np.array([0, 1], np.uint8)), "wrong class map"),
    (DARKNESS, DenseMap(np.ones((2, 2), np.float32)), "wants ClassMap, got DenseMap"),
    (SQUARES, boxes(), "ok without an object"),
    (SQUARES, boxes((0, 0, 22, 5)), "2.0 px outside the 20x10 image"),
    (SQUARES, boxes((0, 0, 5, 12)), "2.0 px outside"),
    (SQUARES, boxes((-3, 0, 5, 5)), "3.0 px outside"),
    (SQUARES, boxes((5, 0, 5, 5)), "not beyond"),
    (SQUARES, boxes((0, 6, 5, 5)), "not beyond"),
    (SQUARES, boxes((0, 0, np.nan, 5)), "not finite"),
    (SQUARES, boxes((0, 0, 5, 5), ids=[1]), "class id 1 of 1 classes"),
    (SQUARES, boxes((0, 0, 5, 5), ids=[-1]), "class id -1 of 1 classes"),
    (SQUARES, boxes((0, 0, 5, 5), ids=[0.0]), "class ids of type float64"),
    (SQUARES, boxes((0, 0, 5, 5), ids=[0, 0]), "1 boxes"),
    (SQUARES, boxes((0, 0, 5, 5), scores=[0.5, 0.5]), "1 boxes"),
    (SQUARES, boxes((0, 0, 5, 5), scores=[1.5]), "outside 0..1"),
    (SQUARES, boxes((0, 0, 5, 5), scores=[np.nan]), "outside 0..1"),
    (SQUARES, Instances(f(0, 0, 5, 5).reshape(1, 4), f(0.5), np.zeros(1, np.int32), (b"", b"")), "but 2 masks"),
    (OCR, Words(np.zeros((0, 4, 2), np.float32), (), f()), "ok without a word"),
    (OCR, Words(np.zeros((2, 4, 2), np.float32), ("a",), f(1)), "1 words, polygons"),
    (OCR, polygon(0, 0, 20, 0, 20, 13, 0, 10), "3.0 px outside"),
    (OCR, polygon(0, 0, np.inf, 0, 20, 10, 0, 10), "NaN or infinite"),
    (OCR, polygon(0, 0, 20, 0, 20, 10, 0, 10, score=-0.1), "outside 0..1"),
    (OCR, polygon(0, 0, 20, 0, 20, 10, 0, 10, text="\ud800"), "surrogate"),
    (CAPTION, Text("x", float("-inf")), "not finite"),
    (CAPTION, Text("\udfff", -1.0), "surrogate"),
    (MATCH, Scores(f(np.nan)), "not finite"),
    (MATCH, Scores(np.ones((1, 1), np.float32)), "expected one axis"),
    (SQUARES, masked(png(4, 5), np.zeros((2, 3), np.uint8)), "mask 1 is ndarray; expected the bytes"),
    (SQUARES, masked(png(4, 5), None), "mask 1 is NoneType"),
    (SQUARES, masked(b"", png(2, 3)), "mask 0 is no PNG"),
    (SQUARES, masked(b"GIF89a" + bytes(50), png(2, 3)), "mask 0 is no PNG"),
    (SQUARES, masked(png(4, 5), png(3, 2)), "mask 1 is 2x3; its box, rounded outwards, is 3x2"),
    (SQUARES, masked(png(4, 5, "RGB"), png(2, 3)), "mask 0 is a PNG in colour"),
    (SQUARES, masked(png(4, 5, "P"), png(2, 3)), "with a palette"),
    (PHOTO, Picture(np.zeros((2, 2, 3), np.uint8), "jpg"), "data is ndarray; expected the bytes"),  # type: ignore[arg-type]
    (PHOTO, Picture(b"", "jpg"), "no bytes"),
    (PHOTO, Picture(b"x", ""), "no file ending"),
    (PHOTO, Picture(b"x", "/../../x"), "no file ending"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "value"), GOOD)
def test_what_keeps_to_the_spec(spec: LabelSpec, value: Value) -> None:
    assert spec.problem_with(Label.ok(value), height=10, width=20) is None


@pytest.mark.parametrize(("spec", "value", "problem"), BAD)
def test_what_breaks_the_spec(spec: LabelSpec, value: Value, problem: str) -> None:
    found = spec.problem_with(Label.ok(value), height=10, width=20)
    assert found is not None and problem in found


@pytest.mark.parametrize("spec", [GREY, SQUARES, OCR, CAPTION, PHOTO])
def test_statuses_and_values_fit(spec: LabelSpec) -> None:
    def problem(label: Label) -> str | None:
        return spec.problem_with(label, height=10, width=20)

    assert problem(Label.empty()) is None and problem(Label.empty("nothing")) is None
    assert problem(Label.failed("code: why")) is None
    assert "carries a value" in str(problem(Label("empty", Text("x", 0.0))))
    assert "carries a value" in str(problem(Label("failed", Text("x", 0.0), "why")))
    assert "without a reason" in str(problem(Label("failed")))
    assert "unknown status 'OK'" in str(problem(Label("OK")))  # type: ignore[arg-type]
    assert "got NoneType" in str(problem(Label("ok")))


def test_labels_of_lists() -> None:
    label = instances([[0, 0, 1, 1], [2, 2, 3, 4], [0, 0, 2, 2]], [0.1, 0.9, 0.9], [0, 1, 2])
    assert isinstance(label.value, Instances)
    assert label.value.class_ids_N.tolist() == [1, 2, 0], "best first, equals in their order"
    assert label.value.boxes_N4.dtype == np.float32 and label.value.boxes_N4[0].tolist() == [2, 2, 3, 4]
    assert instances([], [], []) == Label.empty() == words([], [], [])
    label = words([[[0, 0], [1, 0], [1, 1], [0, 1]]] * 2, ["b", "a"], [0.1, 0.9])
    assert isinstance(label.value, Words) and label.value.texts == ("b", "a"), "reading order, not the best first"
    with pytest.raises(AssertionError):
        Label.failed("")
