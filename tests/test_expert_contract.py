"""What holds for every expert of the catalog, whatever it says: the contract of expert_zoo/expert.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from expert_zoo.catalog import EXPERTS, create
from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import Label
from manifests.scenes import render_uri, scene_uri
from tests.conftest import comparable

SCENES = (3, 4, 5)
SIDE = 96


def scene(index: int) -> Photo:
    uri = scene_uri(7, index, SIDE)
    return Photo(image_id=f"scene-{index}", uri=uri, pixels_HW3=render_uri(uri).photo_HW3)


def stranger(name: str, pixels_HW3: np.ndarray) -> Photo:
    return Photo(image_id=name, uri=f"file:///{name}.png", pixels_HW3=pixels_HW3)


def strangers() -> list[Photo]:
    """Photos that are no scenes: the smallest, the thinnest both ways, and one without colour."""
    rng = np.random.default_rng(0)
    grey_HW1 = rng.integers(0, 255, (48, 64, 1), np.uint8)
    return [
        stranger("dot", np.full((1, 1, 3), 200, np.uint8)),
        stranger("wide", rng.integers(0, 255, (10, 3000, 3), np.uint8)),
        stranger("high", rng.integers(0, 255, (3000, 10, 3), np.uint8)),
        stranger("grey", np.repeat(grey_HW1, 3, axis=2)),
    ]


@pytest.fixture(scope="module", params=EXPERTS)
def expert(request: pytest.FixtureRequest) -> Iterator[Expert]:
    made = create(request.param)
    made.load("cpu")
    yield made
    made.release()


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    return [*map(scene, SCENES), *strangers()]


def said(labels: list[Label]) -> list[tuple[object, ...]]:
    return [comparable(label) for label in labels]


def test_every_label_keeps_to_the_spec(expert: Expert, photos: list[Photo]) -> None:
    labels = expert.label(photos)
    assert len(labels) == len(photos)
    for photo, label in zip(photos, labels, strict=True):
        problem = expert.card.spec.problem_with(label, height=photo.height, width=photo.width)
        assert problem is None, f"{photo.image_id}: {problem}"
        unknown = expert.card.name.startswith("truth_") and not photo.image_id.startswith("scene-")
        assert (label.status == "failed") == unknown, f"{photo.image_id}: {label.status} {label.reason}"


def test_a_label_depends_on_its_photo_alone(expert: Expert, photos: list[Photo]) -> None:
    """Not on its neighbours, its place in the batch, or what was labelled before."""
    together = said(expert.label(photos))
    assert together == [said(expert.label([photo]))[0] for photo in photos]
    assert together[::-1] == said(expert.label(photos[::-1]))
    assert expert.label([]) == []


def test_labels_differ_where_photos_do(expert: Expert, photos: list[Photo]) -> None:
    """Else the test before would be about nothing. Words may be none in all scenes."""
    if expert.card.spec.kind != "words":
        assert len(set(map(str, said(expert.label(photos[: len(SCENES)]))))) == len(SCENES)


def test_after_release_it_labels_as_before(expert: Expert, photos: list[Photo]) -> None:
    """As after an out-of-memory error: the worker releases and asks again."""
    before = said(expert.label(photos[:1]))
    expert.release()
    assert said(expert.label(photos[:1])) == before
    expert.release()
    expert.release()
    expert.load("cpu")
    assert said(expert.label(photos[:1])) == before


def test_a_photo_is_not_written_on(expert: Expert) -> None:
    photo = scene(SCENES[0])
    kept = photo.pixels_HW3.copy()
    photo.pixels_HW3.setflags(write=False)
    expert.label([photo])
    assert np.array_equal(photo.pixels_HW3, kept)
