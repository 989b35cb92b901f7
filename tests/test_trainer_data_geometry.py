"""Geometry: every map, box and polygon stays on the pixels that it is about, at any resolution and however the photo is cut."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from pydantic import ValidationError

from pipeline.decode import Limits, PhotoError, decode
from pipeline.encoded_photo import EncodedPhoto, RenderedPhoto
from tests.photo_files import bomb, encode, picture, with_orientation
from trainer.data.augmentation import COLOURS, OPERATIONS, Augmentation, _recoloured, _step_23
from trainer.data.chance import Chance
from trainer.data.geometry import IDENTITY, Geometry, after, moved
from trainer.data.warping import OUTSIDE, inside, moved_boxes, moved_polygons, warped_map, warped_photo

SIZES = [(300, 400), (400, 300), (211, 530)]


def ramp(height: int, width: int) -> NDArray[np.uint16]:
    """A map whose values tell where they are: column, row, and a checkerboard of 8 x 8."""
    y_HW, x_HW = np.mgrid[0:height, 0:width] + 0.5
    board = (x_HW * 8 // width + y_HW * 8 // height) % 2 * 60000
    return np.stack([x_HW / width * 65535, y_HW / height * 65535, board], axis=2).round().astype(np.uint16)


def drawn(seed: int, height: float, width: float) -> Geometry:
    return Augmentation(operations=3, magnitude=8).draw(Chance(seed), height=height, width=width)[0]


def expected(geometry: Geometry, size: int) -> NDArray[np.float64]:
    """Where in the photo every pixel of the training image lies, S x S x 2."""
    places = (np.arange(size) + 0.5) / size
    points = np.stack(np.meshgrid(places, places), axis=2).reshape(-1, 2)
    return moved(points, geometry.to_photo_23).reshape(size, size, 2)


@pytest.mark.parametrize("size", [224, 97])
@pytest.mark.parametrize("seed", range(12))
def test_maps_of_any_size_stay_on_the_photo(seed: int, size: int) -> None:
    height, width = SIZES[seed % 3]
    geometry = drawn(seed, height, width)
    truth_SS2 = expected(geometry, size)
    here = ((truth_SS2 > 0.02) & (truth_SS2 < 0.98)).all(axis=2)
    a_pixel = np.abs(np.diff(truth_SS2, axis=1)[:, :, 0]).mean() + np.abs(np.diff(truth_SS2, axis=0)[..., 0]).mean()
    for map_height, map_width in ((height, width), (150, 200), (48, 48)):
        found = warped_map(ramp(map_height, map_width), geometry, size, how="bilinear")[..., :2] / 65535
        error = (found - truth_SS2)[here]
        assert np.abs(error.mean(axis=0)).max() < 0.02 * a_pixel, "no shift, not even of a fraction of a pixel"
        assert np.abs(error).max() < 0.2 * a_pixel


@pytest.mark.parametrize("seed", range(9))
def test_class_maps_are_the_nearest_pixels(seed: int) -> None:
    height, width = SIZES[seed % 3]
    geometry = drawn(seed, height, width)
    ids_HW = np.random.default_rng(seed).integers(0, 200, (60, 80)).astype(np.uint8)
    found = warped_map(ids_HW, geometry, 224, how="nearest")
    place_SS2 = expected(geometry, 224) * (80, 60)
    sure = np.abs(place_SS2 - place_SS2.round()).min(axis=2) > 0.02  # between two pixels either is right
    column, row = np.floor(place_SS2).astype(int).transpose(2, 0, 1)
    outside = (column < 0) | (column >= 80) | (row < 0) | (row >= 60)
    nearest = np.where(outside, 255, ids_HW[row.clip(0, 59), column.clip(0, 79)])
    assert np.array_equal(found[sure], nearest[sure]) and sure.mean() > 0.9
    assert np.array_equal(inside(geometry, 224)[sure], ~outside[sure])
    wide = warped_map(ids_HW.astype(np.uint16) + 1000, geometry, 224, how="nearest")
    assert np.array_equal(wide[sure], np.where(outside, 65535, nearest.astype(int) + 1000)[sure])


@pytest.mark.parametrize("size", [224, 480])
@pytest.mark.parametrize("seed", range(8))
def test_photo_and_labels_agree_within_a_pixel(seed: int, size: int) -> None:
    """A rectangle in the photo, in a map, in a class map, as a box and as a polygon: each is found at the same place."""
    height, width = SIZES[seed % 3]
    box = np.array([0.3 * width, 0.35 * height, 0.62 * width, 0.7 * height], np.float32)
    left, top, right, bottom = box.round().astype(int).tolist()
    photo_HW3 = np.zeros((height, width, 3), np.uint8)
    photo_HW3[top:bottom, left:right] = 255
    small_HW = cv2.resize(photo_HW3[..., 0], (200, 150), interpolation=cv2.INTER_AREA)
    geometry = drawn(seed, height, width)
    whole = np.float32([[left, top, right, bottom]])
    corners = np.float32([[[left, top], [right, top], [right, bottom], [left, bottom]]])

    image_SS = warped_photo(RenderedPhoto(photo_HW3), geometry, size)[..., 0] / 255
    image_SS[~inside(geometry, size)] = 0
    seen = {
        "photo": cv2.resize(image_SS, (224, 224), interpolation=cv2.INTER_AREA),
        "map": warped_map(small_HW, geometry, 224, how="bilinear") / 255 * inside(geometry, 224),
        "classes": (warped_map((small_HW > 127).astype(np.uint8), geometry, 224, how="nearest") == 1) * 1.0,
    }
    polygon = moved_polygons(corners, geometry)[0] * 224
    fine = np.zeros((224 * 8, 224 * 8), np.uint8)
    cv2.fillPoly(fine, [np.rint(polygon * 8).astype(np.int32)], 1)
    seen["polygon"] = cv2.resize(fine.astype(np.float64), (224, 224), interpolation=cv2.INTER_AREA) * inside(
        geometry, 224
    )
    centres, areas = {}, {}
    y_HW, x_HW = np.mgrid[0:224, 0:224] + 0.5
    for name, shown in seen.items():
        areas[name] = shown.sum()
        centres[name] = np.array([(shown * x_HW).sum(), (shown * y_HW).sum()]) / areas[name]
    for name in seen:
        # A class map has no half pixels: its own, of which there are fewer, decide where the rectangle ends.
        assert np.abs(centres[name] - centres["photo"]).max() < (1.0 if name == "classes" else 0.2), (name, centres)
        assert abs(areas[name] / areas["photo"] - 1) < 0.03, (name, areas)
    found = moved_boxes(whole, geometry)[0] * 224
    rows, columns = np.nonzero(seen["polygon"] > 0.5)
    around = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert (found[:2] < around[:2] + 1.5).all() and (found[2:] > around[2:] - 1.5).all()
    if polygon.min() > 0 and polygon.max() < 224:  # else the box is around what is cut off, too
        assert np.abs(found - around).max() < 1.5


def test_a_flip_is_a_flip_to_the_last_bit() -> None:
    mirror = Geometry(np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), 120, 160)
    values = ramp(120, 120)
    for how in ("bilinear", "nearest"):
        plane = values if how == "bilinear" else values[..., 0].copy()
        assert np.array_equal(warped_map(plane, mirror, 120, how=how), plane[:, ::-1])  # type: ignore[arg-type]
    photo_HW3 = picture(120, 120)
    assert np.array_equal(warped_photo(RenderedPhoto(photo_HW3), mirror, 120), photo_HW3[:, ::-1])
    assert np.allclose(mirror.turn_22(), [[-1, 0], [0, 1]])
    boxes = moved_boxes(np.float32([[16, 12, 32, 60]]), mirror)
    assert np.allclose(boxes, [[0.8, 0.1, 0.9, 0.5]])


def test_squash_and_centre() -> None:
    squash = Geometry.fitted("squash", height=100, width=200)
    centre = Geometry.fitted("centre", height=100, width=200)
    assert np.array_equal(squash.to_photo_23, IDENTITY) and squash.shows_photo_only and centre.shows_photo_only
    assert np.allclose(moved(np.array([[0.0, 0.0], [1.0, 1.0]]), centre.to_photo_23), [[0.25, 0], [0.75, 1]])
    tall = Geometry.fitted("centre", height=200, width=100)
    assert np.allclose(moved(np.array([[0.0, 0.0], [1.0, 1.0]]), tall.to_photo_23), [[0, 0.25], [1, 0.75]])
    assert np.allclose(squash.turn_22(), np.eye(2)) and np.allclose(centre.turn_22(), np.eye(2))
    assert np.allclose(after(tall.to_photo_23, tall.from_photo_23()), IDENTITY)


def test_normals_turn_with_what_they_stand_on() -> None:
    """A sphere looks the same however it is turned or mirrored; so must its normals."""
    size = 200
    y_HW, x_HW = ((np.mgrid[0:size, 0:size] + 0.5) / size - 0.5) * 2.5
    ball = x_HW**2 + y_HW**2 < 0.9
    z_HW = np.sqrt(np.maximum(0, 1 - x_HW**2 - y_HW**2))
    codes = np.stack([x_HW, -y_HW, z_HW], axis=2).clip(-1, 1)  # y of normals is up
    codes = ((codes + 1) / 2 * 65535).round().astype(np.uint16)
    for operation, strength, mirrored in (("rotate", 1.0, False), ("rotate", -0.7, True), ("identity", 0.0, True)):
        to_photo_23 = np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]) if mirrored else IDENTITY
        geometry = Geometry(after(_step_23(operation, strength), to_photo_23), size, size)  # type: ignore[arg-type]
        found = warped_map(codes, geometry, size, how="bilinear") / 65535 * 2 - 1
        turned = np.einsum("ij,yxj->yxi", geometry.turn_22(), found[..., :2])
        assert np.abs(turned - np.stack([x_HW, -y_HW], axis=2))[ball].max() < 0.02, (operation, mirrored)
        raw = np.abs(found[..., :2] - np.stack([x_HW, -y_HW], axis=2))[ball].max()
        assert raw > 0.3, "left as they were, they would be wrong"


@pytest.mark.parametrize("seed", range(6))
def test_a_turn_is_orthogonal_whatever_is_sheared(seed: int) -> None:
    turn_22 = drawn(seed, 300, 500).turn_22()
    assert np.allclose(turn_22 @ turn_22.T, np.eye(2))


def test_boxes_that_left_have_no_area() -> None:
    geometry = Geometry(np.array([[0.5, 0.0, 0.0], [0.0, 1.0, 0.0]]), 100, 100)  # the left half
    found = moved_boxes(np.float32([[60, 10, 90, 50], [40, 0, 80, 100], [10, 20, 20, 30]]), geometry)
    assert np.allclose(found, [[1, 0.1, 1, 0.5], [0.8, 0, 1, 1], [0.2, 0.2, 0.4, 0.3]])


# ---- photos


def test_a_smaller_photo_is_antialiased() -> None:
    board = np.indices((480, 640)).sum(axis=0) % 2 * 255
    stripes = np.broadcast_to(np.arange(640) % 3 == 0, (480, 640)) * 255
    squash = Geometry.fitted("squash", height=480, width=640)
    for pattern in (board, stripes):
        photo = RenderedPhoto(np.repeat(pattern[..., None], 3, axis=2).astype(np.uint8))
        for size in (224, 120, 40):
            shown = warped_photo(photo, squash, size)[2:-2, 2:-2].astype(float)
            assert abs(shown.mean() - pattern.mean()) < 3
            assert shown.std() < 15, "a grey, and no moire: unfiltered it would be 40 to 85"


def test_a_photo_is_nearly_as_pillow_would_make_it() -> None:
    rng = np.random.default_rng(0)
    rough = cv2.resize(rng.integers(0, 255, (60, 80, 3)).astype(np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    photo_HW3 = np.clip(rough + rng.normal(0, 12, rough.shape), 0, 255).astype(np.uint8)
    for size in (224, 400):
        ours = warped_photo(RenderedPhoto(photo_HW3), Geometry.fitted("squash", height=480, width=640), size)
        for how in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
            theirs = np.asarray(Image.fromarray(photo_HW3).resize((size, size), how))
            assert np.sqrt(((ours.astype(float) - theirs) ** 2).mean()) < 3.0


def test_a_jpeg_is_decoded_smaller_where_that_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels_HW3 = cv2.GaussianBlur(picture(1003, 770), (9, 9), 2)
    photo = EncodedPhoto(encode(pixels_HW3, quality=97), Limits())
    assert (photo.height, photo.width) == (770, 1003)
    for shrink, factor in ((0.5, 1), (1.9, 1), (2.0, 2), (5.0, 4), (30.0, 8)):
        found, said = photo.pixels(shrink=shrink)
        assert said == factor and found.shape[:2] == (-(-770 // factor), -(-1003 // factor))
    geometry = Geometry(np.array([[0.8, 0.0, 0.1], [0.0, 0.7, 0.2]]), 770, 1003)
    smaller = warped_photo(photo, geometry, 160)
    monkeypatch.setattr(EncodedPhoto, "pixels", lambda photo, shrink: (decode(photo._data, Limits())[0], 1))
    whole = warped_photo(photo, geometry, 160)
    assert np.abs(smaller.astype(int) - whole).mean() < 1.0, "a shift of half a pixel would be 2"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photos_are_upright(orientation: int) -> None:
    for width, height in ((96, 64), (97, 61)):
        data = with_orientation(picture(width, height), orientation, quality=95)
        photo = EncodedPhoto(data, Limits())
        assert (photo.height, photo.width) == (height, width)
        assert np.array_equal(photo.pixels()[0], decode(data, Limits())[0])
        image = warped_photo(photo, Geometry.fitted("squash", height=height, width=width), 24)
        whole = warped_photo(
            RenderedPhoto(picture(width, height)), Geometry.fitted("squash", height=height, width=width), 24
        )
        assert np.abs(image.astype(int) - whole)[2:-2, 2:-2].max() < 12


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "cmyk", "grey", "cut", "progressive"])
def test_pixels_are_those_that_labels_were_made_of(kind: str) -> None:
    pixels_HW3 = picture(120, 90)
    data = {
        "cmyk": lambda: _encoded(Image.fromarray(pixels_HW3).convert("CMYK")),
        "grey": lambda: encode(pixels_HW3[..., 0]),
        "cut": lambda: encode(pixels_HW3, quality=98)[:-1500],
        "progressive": lambda: encode(pixels_HW3, progressive=True),
    }.get(kind, lambda: encode(pixels_HW3, kind))()
    photo = EncodedPhoto(data, Limits())
    assert np.array_equal(photo.pixels()[0], decode(data, Limits())[0])


def _encoded(image: Image.Image) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def test_what_is_no_photo_is_refused() -> None:
    for data in (b"", b"no photo", bomb(), encode(picture(64, 64))[:300]):
        with pytest.raises(PhotoError):
            EncodedPhoto(data, Limits())


# ---- what is drawn


def test_crops_have_the_areas_and_aspects_that_are_asked_for() -> None:
    plain = Augmentation(operations=0, scale=(0.3, 1.5), aspect=(0.6, 1.5))
    areas, aspects, flips = [], [], 0
    for seed in range(600):
        geometry, colours = plain.draw(Chance(seed), height=300, width=400)
        assert colours == [] and geometry.shows_photo_only
        (a, b, _), (d, e, _) = geometry.to_photo_23.tolist()
        assert b == d == 0 and e > 0
        flips += a < 0
        areas.append(abs(a) * e)
        aspects.append(abs(a) * 400 / (e * 300))
    assert 0.3 <= min(areas) < 0.33 and max(areas) <= 1
    assert 0.6 <= min(aspects) < 0.65 and 1.4 < max(aspects) <= 1.5
    assert 240 < flips < 360
    narrow = Augmentation(operations=0, flip=0, scale=(1.0, 1.0), aspect=(1.0, 1.0))
    fallback, _ = narrow.draw(Chance(0), height=300, width=400)
    assert np.allclose(fallback.to_photo_23, Geometry.fitted("centre", height=300, width=400).to_photo_23)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_does_what_it_is_called(operation: str) -> None:
    only = Augmentation(scale=(1, 1), aspect=(1, 1), flip=0, operations=1, magnitude=10, among=(operation,))  # type: ignore[arg-type]
    maps = {
        tuple(np.round(only.draw(Chance(seed), height=100, width=100)[0].to_photo_23.ravel(), 6)) for seed in range(20)
    }
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    both = {
        "shear_x": [[1, 0.3, 0, 0, 1, 0]],
        "shear_y": [[1, 0, 0, 0.3, 1, 0]],
        "translate_x": [[1, 0, 0.33, 0, 1, 0]],
        "translate_y": [[1, 0, 0, 0, 1, 0.33]],
        "rotate": [[cos, -sin, (1 - cos + sin) / 2, sin, cos, (1 - cos - sin) / 2]],
    }.get(operation)
    if both is None:
        assert maps == {(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)}
        assert only.draw(Chance(0), height=9, width=9)[1] == ([operation] if operation in COLOURS else [])
        return
    assert len(maps) == 2, "either sign"
    assert any(np.allclose(found, both[0], atol=1e-5) for found in maps)
    middle = [np.array(found).reshape(2, 3) for found in maps]
    if operation == "rotate":
        assert all(np.allclose(moved(np.array([[0.5, 0.5]]), found), 0.5) for found in middle)


def test_a_draw_depends_on_its_chance_alone() -> None:
    augmentation = Augmentation()
    first, again, other = (augmentation.draw(Chance(1, 0, place), height=3, width=4) for place in (5, 5, 6))
    assert np.array_equal(first[0].to_photo_23, again[0].to_photo_23) and first[1] == again[1]
    assert not np.array_equal(first[0].to_photo_23, other[0].to_photo_23)


def test_what_cannot_be_drawn_is_told() -> None:
    for wrong in ({"scale": (0.9, 0.5)}, {"scale": (1.1, 1.5)}, {"aspect": (0, 1)}, {"magnitude": 11}, {"among": ()}):
        with pytest.raises(ValidationError):
            Augmentation.model_validate(wrong)


def test_what_lies_outside_of_the_photo_is_the_mean() -> None:
    shifted = Geometry(_step_23("translate_x", 1.0), 90, 120)
    image = warped_photo(RenderedPhoto(np.zeros((90, 120, 3), np.uint8)), shifted, 100)
    assert (image[:, :66] == 0).all() and (image[:, 68:] == OUTSIDE).all()


@pytest.mark.parametrize("factor", [0.1, 0.6, 1.0, 1.9])
@pytest.mark.parametrize("colour", COLOURS)
def test_colours_change_as_in_pillow(colour: str, factor: float) -> None:
    rng = np.random.default_rng(3)
    pixels_HW3 = np.clip(picture(80, 60) * 0.6 + rng.normal(30, 9, (60, 80, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels_HW3)
    theirs = {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
    }[colour]()
    ours = _recoloured(pixels_HW3, colour, factor)  # type: ignore[arg-type]
    assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= (2 if colour == "sharpness" else 1)
    flat = np.full((8, 8, 3), 77, np.uint8)
    assert _recoloured(flat, colour, 1.0).tolist() == flat.tolist()  # type: ignore[arg-type]
