"""What holds for every expert of the catalog, whatever it says: the contract of expert_zoo/expert.py.

Experts with large weights run on small checkpoints of seeded random weights of the same architecture, in the same files.
"""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from expert_zoo.catalog import EXPERTS
from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import Label
from expert_zoo.networks.network_expert import NetworkExpert
from manifests.scenes import render_uri, scene_uri
from tests.seeded_zoo import REASON, create_small, difference, runs_here

SCENES = (3, 4, 5)
SIDE = 96
#: A library may add in another order for a batch than for one photo; share of a label's range.
ROUNDING = 1e-3
#: And of a class map's pixels: with random weights many classes are all but tied, and which one wins is up to the rounding.
TIED = 0.05

CAPTIONS = ("a room with a red ball", "two boxes in front of a wall")


def scene(index: int) -> Photo:
    uri = scene_uri(7, index, SIDE)
    return Photo(image_id=f"scene-{index}", uri=uri, pixels_HW3=render_uri(uri).photo_HW3, captions=CAPTIONS)


def stranger(name: str, pixels_HW3: np.ndarray) -> Photo:
    return Photo(image_id=name, uri=f"file:///{name}.png", pixels_HW3=pixels_HW3)


def strangers() -> list[Photo]:
    """Photos that are no scenes: the smallest, the thinnest both ways, odd sides, and one without colour."""
    rng = np.random.default_rng(0)
    grey_HW1 = rng.integers(0, 255, (48, 64, 1), np.uint8)
    return [
        stranger("dot", np.full((1, 1, 3), 200, np.uint8)),
        stranger("wide", rng.integers(0, 255, (10, 3000, 3), np.uint8)),
        stranger("high", rng.integers(0, 255, (3000, 10, 3), np.uint8)),
        stranger("odd", rng.integers(0, 255, (97, 61, 3), np.uint8)),
        stranger("grey", np.repeat(grey_HW1, 3, axis=2)),
    ]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded, and nobody is asked whether there is something newer."""

    def refuse(*_: object) -> None:
        raise AssertionError("an expert used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if runs_here(name) else pytest.mark.skip(reason=REASON)) for name in EXPERTS],
)
def expert(request: pytest.FixtureRequest, seeded_weights: Path) -> Iterator[Expert]:
    made = create_small(request.param, seeded_weights)
    made.load("cpu")
    yield made
    made.release()


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    return [*map(scene, SCENES), *strangers()]


def assert_same(expert: Expert, ones: list[Label], others: list[Label]) -> None:
    """Equal to the last bit; for a network that computes photos together, up to rounding."""
    allowed = 0.0
    if isinstance(expert, NetworkExpert):
        allowed = TIED if expert.card.spec.kind == "classes" else ROUNDING
    differences = [difference(one, other) for one, other in zip(ones, others, strict=True)]
    assert max(differences, default=0.0) <= allowed, differences


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
    together = expert.label(photos)
    assert_same(expert, together, [expert.label([photo])[0] for photo in photos])
    assert_same(expert, together[::-1], expert.label(photos[::-1]))
    assert expert.label([]) == []


def test_it_says_the_same_again(expert: Expert, photos: list[Photo]) -> None:
    """To the last bit, for the same batch."""
    assert all(difference(*pair) == 0.0 for pair in zip(expert.label(photos), expert.label(photos), strict=True))


def test_labels_differ_where_photos_do(expert: Expert, photos: list[Photo]) -> None:
    """Else the tests before would be about nothing. Random weights may find no words or objects, or always say one thing."""
    if expert.card.spec.kind in ("map", "classes", "image", "score"):
        labels = expert.label(photos[: len(SCENES)])
        assert all(difference(one, other) > 0 for one, other in zip(labels, labels[1:], strict=False))


def test_after_release_it_labels_as_before(expert: Expert, photos: list[Photo]) -> None:
    """As after an out-of-memory error: the worker releases and asks again."""
    before = expert.label(photos[:1])
    expert.release()
    assert_same(expert, expert.label(photos[:1]), before)
    expert.release()
    expert.release()
    expert.load("cpu")
    assert_same(expert, expert.label(photos[:1]), before)


def test_release_leaves_nothing_of_the_network(expert: Expert) -> None:
    """Whatever an expert keeps its network in, for it holds the device's memory. Experts without one keep nothing."""
    expert.label([scene(SCENES[0])])
    kept = [value for name, value in vars(expert).items() if name in ("_network", "_engine", "_reader")]
    networks = [weakref.ref(value) for value in kept if value is not None]
    assert networks or expert.card.parameters == 0
    del kept
    expert.release()
    gc.collect()
    assert [network() for network in networks if network() is not None] == []


def test_float32_is_float32_on_a_gpu_too(seeded_weights: Path, expert: Expert) -> None:
    """cuDNN's default is TF32. It is set for the process, so whoever computes with torch must set it, and not only some."""
    if not {"_network", "_reader"} & set(vars(expert)):
        return
    torch.backends.cudnn.allow_tf32 = True
    expert.release()
    expert.load("cpu")
    assert not torch.backends.cudnn.allow_tf32


def test_a_photo_is_not_written_on(expert: Expert) -> None:
    photo = scene(SCENES[0])
    kept = photo.pixels_HW3.copy()
    photo.pixels_HW3.setflags(write=False)
    expert.label([photo])
    assert np.array_equal(photo.pixels_HW3, kept)
