"""What only a GPU can show of the zoo: photos on their way to it, mixed precision, and memory that comes back. Skipped without one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from expert_zoo.catalog import EXPERTS, accepts, create
from expert_zoo.expert import Expert, Photo
from expert_zoo.networks import upload
from tests.seeded_zoo import REASON, create_small, difference, options_of, runs_here
from tests.test_expert_contract import ROUNDING, SCENES, scene, strangers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use on this machine")

DEVICE = "cuda:0"
NAMES = [name for name in EXPERTS if accepts(name, "precision")]
#: Kernels of another device add in another order, through all layers; share of a label's range.
OTHER_DEVICE = 1e-2
#: Bytes that cuDNN and cuBLAS may keep for themselves.
KEPT = 64 << 20


def noise(number: int) -> Photo:
    rng = np.random.default_rng(number)
    sides = rng.integers(1, 900, 2)
    return Photo(image_id=f"n{number}", uri="", pixels_HW3=rng.integers(0, 256, (*sides, 3), np.uint8))


def used() -> int:
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated(DEVICE)


@pytest.fixture(
    params=[pytest.param(name, marks=[] if runs_here(name) else pytest.mark.skip(reason=REASON)) for name in NAMES]
)
def expert(request: pytest.FixtureRequest, seeded_weights: Path) -> Iterator[Expert]:
    made = create_small(request.param, seeded_weights)
    made.load(DEVICE)
    yield made
    made.release()


def test_photos_sent_by_many_threads_at_once_arrive_whole_and_go_with_the_photo() -> None:
    device = torch.device(DEVICE)
    before = used()
    photos = [noise(number) for number in range(48)]
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(upload.send, device, photo) for photo in photos for _ in range(3)]
        # The model's thread asks meanwhile, for photos that are there, on their way, and not yet begun.
        for photo in photos:
            assert np.array_equal(upload.pixels_on(device, photo).cpu().numpy(), photo.pixels_HW3)
        for one in sent:
            one.result()
    assert used() >= before + sum(photo.pixels_HW3.nbytes for photo in photos)
    upload.forget()
    assert used() == before
    assert np.array_equal(upload.pixels_on(device, photos[0]).cpu().numpy(), photos[0].pixels_HW3)
    del photo, photos
    assert used() == before


def test_labels_keep_to_the_spec_whether_photos_were_sent_ahead_or_not(expert: Expert) -> None:
    photos = [*map(scene, SCENES), *strangers()]
    labels = expert.label(photos)
    for photo, label in zip(photos, labels, strict=True):
        assert expert.card.spec.problem_with(label, height=photo.height, width=photo.width) is None
        assert label.status != "failed", label.reason
    upload.forget()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(expert.prefetch, photos))
    assert all(difference(*pair) <= ROUNDING for pair in zip(labels, expert.label(photos), strict=True))


def test_float32_says_what_a_cpu_says(expert: Expert, seeded_weights: Path) -> None:
    name = expert.card.name
    if expert.card.spec.kind not in ("map", "score"):  # random weights are of two minds about classes and words
        return
    exact = create(name, options=options_of(name) | {"weights_folder": str(seeded_weights), "precision": "float32"})
    photos = [scene(index) for index in SCENES]
    exact.load("cpu")
    expected = exact.label(photos)
    exact.release()
    exact.load(DEVICE)
    assert max(difference(*pair) for pair in zip(exact.label(photos), expected, strict=True)) <= OTHER_DEVICE


def test_release_gives_the_memory_back(expert: Expert) -> None:
    photos = [scene(index) for index in SCENES]
    expert.release()
    upload.forget()
    before = used()
    expert.label(photos)
    assert used() > before
    expert.release()
    assert used() <= before + KEPT
