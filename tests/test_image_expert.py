"""The expert that keeps the photo itself."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from expert_zoo.catalog import create
from expert_zoo.expert import Photo
from expert_zoo.image import Image
from expert_zoo.labels import Picture
from expert_zoo.resize import resize_long_side
from pipeline.photos import Limits, read_photo
from tests.photo_files import encode, picture, with_orientation
from tests.test_photos import record_of


def photo_of(pixels: np.ndarray, data: bytes | None = None, ending: str = "") -> Photo:
    return Photo(image_id="a", uri="file:///a", pixels_HW3=pixels, data=data, format=ending)


def picture_of(expert: Image, photo: Photo) -> Picture:
    (label,) = expert.label([photo])
    assert label.status == "ok" and isinstance(label.value, Picture)
    assert expert.card.spec.problem_with(label, height=photo.height, width=photo.width) is None
    return label.value


def test_without_long_side_the_bytes_come_as_they_are() -> None:
    data = encode(picture())
    for ending, usual in (("jpg", "jpg"), ("JPEG", "jpg"), ("png", "png"), ("tif", "tiff")):
        kept = picture_of(Image(), photo_of(picture(), data, ending))
        assert (kept.data, kept.format) == (data, usual)


def test_a_rendered_photo_becomes_a_png_without_loss() -> None:
    kept = picture_of(Image(), photo_of(picture()))
    assert kept.format == "png"
    np.testing.assert_array_equal(np.asarray(PillowImage.open(io.BytesIO(kept.data))), picture())


def test_long_side_makes_a_smaller_upright_jpeg(tmp_path: Path) -> None:
    upright = picture(300, 200)
    (tmp_path / "x.jpg").write_bytes(with_orientation(upright, 6, quality=98))
    photo = read_photo(record_of(tmp_path / "x.jpg"), Limits())
    small = picture_of(Image(long_side=150), photo)
    decoded = PillowImage.open(io.BytesIO(small.data))
    assert (small.format, decoded.format, decoded.size) == ("jpg", "JPEG", (150, 100))
    assert decoded.getexif().get(0x0112) is None
    expected = upright.reshape(100, 2, 150, 2, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(decoded) - expected).mean() < 4


def test_long_side_never_enlarges_but_encodes_anew() -> None:
    photo = photo_of(picture(), encode(picture(), "PNG"), "png")
    kept = picture_of(Image(long_side=1000), photo)
    assert kept.format == "jpg" and PillowImage.open(io.BytesIO(kept.data)).size == (64, 48)


def test_quality_and_repetition() -> None:
    photo = photo_of(picture(300, 200))
    coarse, fine = (picture_of(Image(long_side=200, quality=q), photo).data for q in (30, 95))
    assert len(coarse) < len(fine)
    assert picture_of(Image(long_side=200, quality=95), photo).data == fine


def test_options_are_part_of_the_version_and_are_checked() -> None:
    versions = {Image().card.version, Image(long_side=480).card.version, Image(long_side=480, quality=80).card.version}
    assert len(versions) == 3
    assert Image(quality=50).card.version == Image().card.version, "without long_side the quality decides nothing"
    for options in (
        {"long_side": 0},
        {"long_side": 70000},
        {"long_side": 1.5},
        {"long_side": True},
        {"quality": 0},
        {"quality": 101},
    ):
        with pytest.raises(ValueError, match="^image: [^\n]*expected"):
            create("image", options=options)
    assert create("image", options={"long_side": 480}).card.column.startswith("image@")


def test_resize_keeps_the_ratio_and_at_least_one_pixel() -> None:
    assert resize_long_side(picture(20000, 10), 512).shape == (1, 512, 3)
    assert resize_long_side(picture(10, 20000), 512).shape == (512, 1, 3)
    assert resize_long_side(picture(641, 480), 320).shape == (240, 320, 3)
    small = picture(10, 10)
    assert resize_long_side(small, 10) is small
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    np.testing.assert_array_equal(resize_long_side(stripes, 32), 100)
