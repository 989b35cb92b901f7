"""From a photo to a network's input: sizes, order of channels, and the same pixels as Pillow's antialiased resize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from expert_zoo.expert import Photo
from expert_zoo.networks.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

CPU = torch.device("cpu")


def photo(height: int, width: int, seed: int = 0) -> Photo:
    pixels_HW3 = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Photo(image_id="p", uri="file:///p.png", pixels_HW3=pixels_HW3)


@pytest.mark.parametrize(
    ("rules", "photo_size", "expected"),
    [
        (Preprocess(fit="squash", side=480), (480, 640), (480, 480)),
        (Preprocess(fit="squash", side=480), (1, 1), (480, 480)),
        (Preprocess(fit="squash", side=480, multiple=14), (10, 3000), (476, 476)),
        (Preprocess(fit="short_side", side=384, multiple=32), (480, 640), (384, 512)),
        (Preprocess(fit="short_side", side=384, multiple=32), (640, 480), (512, 384)),
        (Preprocess(fit="short_side", side=800, longest=1333), (480, 640), (800, 1067)),
        (Preprocess(fit="short_side", side=800, longest=1333), (480, 1200), (533, 1333)),
        (Preprocess(fit="long_side", side=480), (480, 640), (360, 480)),
        (Preprocess(fit="long_side", side=480, multiple=32), (640, 427), (480, 320)),
        (Preprocess(fit="long_side", side=96, multiple=32), (10, 3000), (32, 96)),
        (Preprocess(fit="short_side", side=96, multiple=32), (10, 3000), (96, 384)),
        (Preprocess(fit="long_side", side=96), (3000, 10), (96, 24)),
    ],
)
def test_the_size_of_the_input(rules: Preprocess, photo_size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert rules.size(*photo_size) == expected


@pytest.mark.parametrize("fit", ["squash", "short_side", "long_side"])
def test_any_photo_has_a_size_in_whole_multiples(fit: str) -> None:
    rules = Preprocess(fit=fit, side=96, multiple=32)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 9999), (9999, 1), *rng.integers(1, 5000, (200, 2)).tolist()]:
        h, w = rules.size(height, width)
        assert h >= 32 and w >= 32 and h % 32 == 0 and w % 32 == 0 and max(h, w) <= 4 * 96
        if fit != "squash":  # the long side stays the long one
            assert (h - w) * (height - width) >= 0


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(24, 32), (17, 90), (130, 47)])
def test_it_resizes_as_pillow_does(name: str, size: tuple[int, int]) -> None:
    """Half-pixel centres and antialiasing, up to Pillow's rounding to whole numbers (twice: it resizes in two passes)."""
    faint_HW3 = photo(60, 80).pixels_HW3 // 3 + 80  # else Pillow cuts bicubic's overshoot off between its two passes
    one = Photo(image_id="p", uri="file:///p.png", pixels_HW3=faint_HW3)
    rules = Preprocess(fit="squash", side=16, scale=1.0, filter=name)  # type: ignore[arg-type]
    ours_3hw = rules.images([one], size, CPU)[0].numpy()
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    theirs_hw3 = np.asarray(Image.fromarray(one.pixels_HW3).resize(size[::-1], filters[name]), np.float32)
    assert np.abs(ours_3hw.transpose(1, 2, 0) - theirs_hw3).max() <= 1.6


def test_channels_scale_mean_and_std() -> None:
    one = photo(20, 30)
    rules = Preprocess(fit="squash", side=16, channels="BGR", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    (image_3hw,) = rules.images([one], (20, 30), CPU).numpy()
    expected = (one.pixels_HW3[:, :, ::-1] / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert np.allclose(image_3hw, expected.transpose(2, 0, 1), atol=1e-5)


def test_a_batch_is_its_singles_and_the_photo_is_not_written_on() -> None:
    photos = [photo(40, 60, 1), photo(80, 120, 2)]
    kept = [one.pixels_HW3.copy() for one in photos]
    for one in photos:
        one.pixels_HW3.setflags(write=False)
    rules = Preprocess(fit="long_side", side=48)
    together = rules.images(photos, (32, 48), CPU)
    for n, one in enumerate(photos):
        assert torch.equal(together[n], rules.images([one], (32, 48), CPU)[0])
        assert np.array_equal(one.pixels_HW3, kept[n])


def test_every_rule_stands_in_the_card() -> None:
    basis = {"fit": "short_side", "side": 96}
    changes = [
        {"fit": "long_side"}, {"side": 97}, {"longest": 200}, {"multiple": 14}, {"channels": "BGR"}, {"scale": 1.0},
        {"mean": IMAGENET_MEAN}, {"std": IMAGENET_STD}, {"filter": "bicubic"},
    ]  # fmt: skip
    cards = [Preprocess(**(basis | change)).card() for change in [{}, *changes]]  # type: ignore[arg-type]
    assert len({str(sorted(card.items())) for card in cards}) == len(cards)
    assert {change for one in changes for change in one} == set(Preprocess.__dataclass_fields__)


@pytest.mark.parametrize("side", [15, 5000, 96.0, "96", True])
def test_a_side_that_makes_no_sense_is_refused(side: object) -> None:
    with pytest.raises(ValueError, match="expected 16 to 4096 pixels"):
        Preprocess(fit="squash", side=side)  # type: ignore[arg-type]
