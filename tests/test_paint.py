"""Painting: every kind, in the right place, the right way up, in the right colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipeline.paint
from expert_zoo.labels import ClassMap, DenseMap, Label, Picture, Scores, Text, instances, words
from expert_zoo.spec import LabelSpec
from pipeline import lettering
from pipeline.decode import Limits, decode
from pipeline.errors import JobError
from pipeline.lettering import printable, text_tile, wrapped
from pipeline.paint import class_colour, contact_sheet, paint, paint_photo, picture_pixels

MAP = {"kind": "map", "dtype": "uint16", "channels": 1, "resample": "bilinear"}
DEPTH = LabelSpec(**MAP, quantity="depth", units="m")
INVERSE = LabelSpec(**MAP, quantity="inverse_depth")
EDGE = LabelSpec(**MAP, quantity="edge", value_range=(0, 1))
NORMAL = LabelSpec(**{**MAP, "channels": 3}, quantity="normal", value_range=(-1, 1), flip="mirror_negate_x")
CLASSES = LabelSpec(
    kind="classes", quantity="class", dtype="uint8", channels=1, ignore=255, class_names=("cat", "dog"),
    resample="nearest",
)  # fmt: skip
OBJECTS = LabelSpec(kind="instances", quantity="objects", class_names=("cat", "dog"))
WORDS = LabelSpec(kind="words", quantity="words")
TEXT = LabelSpec(kind="text", quantity="caption")
SCORE = LabelSpec(kind="score", quantity="match")
PHOTO = LabelSpec(kind="image", quantity="photo")
GREY = np.full((100, 200, 3), 120, np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def dense(values: np.ndarray) -> Label:
    return Label.ok(DenseMap(values.astype(np.float32)))


def corner_map(inside: float, outside: float) -> np.ndarray:
    """100 x 200 with another value in the top left quarter."""
    values = np.full((100, 200), outside)
    values[:50, :100] = inside
    return values


def differs_from_grey(picture: np.ndarray) -> np.ndarray:
    return (picture != 120).any(axis=2)


@pytest.mark.parametrize("height", [50, 100, 300])
def test_every_kind_is_painted_at_the_asked_height_in_the_photos_aspect(height: int) -> None:
    normals = np.zeros((10, 20, 3))
    normals[..., 2] = 1
    labels = [
        (DEPTH, dense(corner_map(1, 2))), (INVERSE, dense(corner_map(1, 2))), (EDGE, dense(corner_map(1, 0))),
        (NORMAL, dense(normals)), (CLASSES, Label.ok(ClassMap(np.zeros((10, 20), np.uint8)))),
        (OBJECTS, instances([[0, 0, 9, 9]], [0.5], [1])), (WORDS, words([[[0, 0], [50, 0], [50, 9], [0, 9]]], ["hi"], [1])),
        (TEXT, Label.ok(Text("a cat", -1.5))), (SCORE, Label.ok(Scores(np.array([0.5], np.float32)))),
        (PHOTO, Label.ok(Picture(png(GREY), "png"))), (DEPTH, Label.failed("nan: 3")), (DEPTH, Label.empty()), (DEPTH, None),
    ]  # fmt: skip
    for spec, label in labels:
        for photo in (GREY, None):
            picture = paint(spec, label, photo, height=height, image_size=(100, 200))
            assert picture.shape == (height, 2 * height, 3) and picture.dtype == np.uint8, spec.quantity


def test_near_is_bright_and_at_the_top_left_for_depth_and_inverse_depth_alike() -> None:
    depth = paint(DEPTH, dense(corner_map(1, 4)), GREY, height=100)
    inverse = paint(INVERSE, dense(corner_map(30, 3)), GREY, height=100)
    assert np.array_equal(depth, inverse)
    assert depth[:45, :90].min(axis=(0, 1)).sum() > 300 > depth[55:].max(axis=(0, 1)).sum()
    assert depth[:45, 110:].max(axis=(0, 1)).sum() < 300


def test_bright_near_is_yellow_not_blue() -> None:
    red, _, blue = paint(DEPTH, dense(corner_map(1, 4)), GREY, height=100)[20, 20].tolist()
    assert red > blue


def test_a_constant_depth_map_is_painted_without_a_warning() -> None:
    assert np.ptp(paint(DEPTH, dense(np.full((8, 16), 2.0)), GREY, height=32), axis=(0, 1)).max() == 0


@pytest.mark.parametrize(("axis", "colour"), [(0, (255, 128, 128)), (1, (128, 255, 128)), (2, (128, 128, 255))])
def test_normals_are_red_right_green_up_blue_towards_the_viewer(axis: int, colour: tuple[int, int, int]) -> None:
    normals = np.zeros((10, 20, 3))
    normals[..., axis] = 1
    assert tuple(paint(NORMAL, dense(normals), GREY, height=10)[5, 10].tolist()) == colour


def test_edges_are_dark_on_white_and_stay_visible_when_shrunk() -> None:
    edges = np.zeros((400, 800))
    edges[:, 200] = 1
    picture = paint(EDGE, dense(edges), GREY, height=100)
    assert picture[50, 50].max() < 160 and (picture[:, 60:] == 255).all() and (picture[:, :40] == 255).all()


def test_classes_colour_their_pixels_and_the_legend_names_the_largest() -> None:
    ids = np.full((100, 200), 255, np.uint8)
    ids[:50, :100] = 1
    picture = paint(CLASSES, Label.ok(ClassMap(ids)), GREY, height=100)
    expected = (0.45 * 120 + 0.55 * np.array(class_colour(1))).astype(np.uint8)
    assert (picture[:50, :100] == expected).all()
    assert (picture[:50, 100:] == 120).all()
    legend = (picture[50:] == class_colour(1)).all(axis=2)
    assert legend.sum() > 50 and not (picture[50:] == class_colour(0)).all(axis=2).any()


def test_the_legend_is_written_in_the_classes_names() -> None:
    label = Label.ok(ClassMap(np.ones((100, 200), np.uint8)))
    renamed = CLASSES.model_copy(update={"class_names": ("cat", "elk")})
    assert (paint(CLASSES, label, GREY, height=100) != paint(renamed, label, GREY, height=100)).any()


def test_class_colours_are_distinct() -> None:
    colours = np.array([class_colour(class_id) for class_id in range(12)], float)
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 1e3 * np.eye(12)
    assert apart.min() > 40


def test_a_box_is_drawn_where_it_is_with_x_across_and_y_down() -> None:
    picture = paint(OBJECTS, instances([[40, 60, 120, 90]], [0.5], [0]), GREY, height=100)
    box = (picture == class_colour(0)).all(axis=2)
    rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box[60:].any(axis=0))
    assert rows.max() == 89 and (columns.min(), columns.max()) == (40, 119)
    assert box[60:90, 40].all() and box[60:90, 119].all() and box[89, 40:120].all()
    assert not differs_from_grey(picture)[:40].any() and not differs_from_grey(picture)[90:].any()


def test_a_box_over_the_whole_image_is_not_clipped_away() -> None:
    picture = paint(OBJECTS, instances([[0, 0, 200, 100]], [0.5], [0]), GREY, height=100)
    assert (picture[-1] == class_colour(0)).all() and (picture[:, -1] == class_colour(0)).all()


def test_boxes_are_in_pixels_of_the_original_even_over_a_smaller_photo() -> None:
    label = instances([[40, 60, 120, 90]], [0.5], [0])
    full, small = GREY, GREY[::4, ::4]
    assert np.array_equal(
        paint(OBJECTS, label, full, height=100), paint(OBJECTS, label, small, height=100, image_size=(100, 200))
    )


def test_words_are_painted_inside_their_polygon() -> None:
    corners = [[20, 10], [90, 10], [90, 40], [20, 40]]
    picture = paint(WORDS, words([corners], ["EXIT"], [0.9]), GREY, height=100)
    changed = (picture != picture[99, 199]).any(axis=2)
    assert (np.flatnonzero(changed.any(1))[[0, -1]].tolist(), np.flatnonzero(changed.any(0))[[0, -1]].tolist()) == (
        [10, 40], [20, 90],
    )  # fmt: skip
    other = paint(WORDS, words([corners], ["HALT"], [0.9]), GREY, height=100)
    assert (picture != other).any(), "the text itself is not drawn"


def test_the_image_column_is_the_photo_itself_upright() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    assert np.array_equal(
        paint(PHOTO, Label.ok(Picture(png(photo), "png")), None, height=30, image_size=(30, 40)), photo
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG", exif=exif)
    turned = paint(PHOTO, Label.ok(Picture(buffer.getvalue(), "png")), None, height=40, image_size=(40, 30))
    assert np.array_equal(turned, np.rot90(photo, -1))


def test_a_photo_that_is_in_the_store_is_shown_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job may have raised the limits. The check is asked about a photo that is too large to decode in a test."""

    def decode_large(data: bytes, limits: Limits) -> tuple[np.ndarray, str, str]:
        limits.check_pixels(40_000, 40_000)
        return decode(data, limits)

    monkeypatch.setattr(pipeline.paint, "decode", decode_large)
    photo = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    assert np.array_equal(picture_pixels(Picture(png(photo), "png")), photo)


def test_a_picture_that_cannot_be_decoded_is_a_tile() -> None:
    assert paint(PHOTO, Label.ok(Picture(b"no picture", "png")), GREY, height=100).shape == (100, 200, 3)


def test_failed_empty_and_absent_look_different_and_show_their_reason() -> None:
    tiles = [
        paint(DEPTH, label, GREY, height=100)
        for label in (Label.failed("nan: 3"), Label.failed("nan: 4"), Label.empty(), None)
    ]
    for index, tile in enumerate(tiles):
        assert all(not np.array_equal(tile, other) for other in tiles[:index])


@pytest.mark.parametrize("size", [(10, 20000), (20000, 10), (1, 1)])
def test_extreme_images_are_letter_boxed(size: tuple[int, int]) -> None:
    photo = np.full((*size, 3), 200, np.uint8)
    picture = paint(OBJECTS, instances([[0, 0, size[1], size[0]]], [0.5], [0]), photo, height=100)
    assert picture.shape[0] == 100 and 50 <= picture.shape[1] <= 200
    assert picture.shape == paint_photo(photo, height=100).shape


def test_an_unsure_edge_map_is_grey_with_its_lines_not_black() -> None:
    edges = np.full((400, 800), 0.45)
    edges[:, 200] = 0.9
    picture = paint(EDGE, dense(edges), GREY, height=100)
    assert 120 < picture[50, 150].max() < 160 and picture[50, 50].max() < picture[50, 150].max() - 30


def test_words_of_many_scripts_are_written_as_they_are() -> None:
    texts = (
        "Ausg\xe4nge",
        "\u0412\u042b\u0425\u041e\u0414",
        "\u062e\u0631\u0648\u062c",
        "\u0e17\u0e32\u0e07\u0e2d\u0e2d\u0e01",
        "\u0395\u03be",
    )
    for text in texts:
        assert printable(text) == text
        picture = paint(WORDS, words([[[20, 10], [180, 10], [180, 40], [20, 40]]], [text], [1.0]), GREY, height=100)
        assert (picture[10:40, 20:180] == (0, 60, 30)).all(axis=2).sum() > 20, f"{text} is not drawn"


def test_characters_that_no_typeface_has_become_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "SYSTEM_FONTS", ())
    forget_typefaces()
    assert printable("abc \u4e2d\xe9\n\tx") == "abc \\u4e2d\xe9 x"
    assert printable("\ud800") == "\\ud800"
    assert "\x00" not in printable("a\x00b")
    forget_typefaces()


def test_another_typeface_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymupdf_fonts import fontbuffers

    (tmp_path / "math.ttf").write_bytes(fontbuffers["math"]())
    monkeypatch.setenv(lettering.FONT_VARIABLE, str(tmp_path / "math.ttf"))
    forget_typefaces()
    assert printable("\U0001d538 b") == "\U0001d538 b" and lettering.length("\U0001d538", 20) > 5
    (tmp_path / "none.ttf").write_bytes(b"no typeface")
    monkeypatch.setenv(lettering.FONT_VARIABLE, str(tmp_path / "none.ttf"))
    forget_typefaces()
    with pytest.raises(JobError, match="EXPERT_LABELS_FONT is .*none.ttf, which is no typeface"):
        printable("a")
    monkeypatch.delenv(lettering.FONT_VARIABLE)
    forget_typefaces()


def forget_typefaces() -> None:
    for cached in (lettering._faces, lettering._font, lettering._has_glyph, lettering._face_of):
        cached.cache_clear()


def test_scores_stand_below_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(pipeline.paint, "text_tile", lambda text, *_: told.append(text) or text_tile(text, *_))
    for count in (1, 3, 10):
        paint(SCORE, Label.ok(Scores(np.full(count, 0.25, np.float32))), GREY, height=160)
    assert told[0] == "1: 0.250" and told[1] == "1: 0.250\n2: 0.250\n3: 0.250"
    assert told[2].split("\n") == [f"{n}: 0.250 | {n + 1}: 0.250" for n in (1, 3, 5, 7, 9)]


def test_a_new_line_in_a_tile_is_a_new_line() -> None:
    one, two = (text_tile(text, "", 100, 200)[20:] for text in ("a b", "a\nb"))
    rows = [np.flatnonzero((tile < 128).any(axis=(1, 2))) for tile in (one, two)]
    assert np.ptp(rows[1]) > np.ptp(rows[0]) + 8


def test_wrapping_keeps_every_character_and_the_width() -> None:
    text = "several short words and_one_that_is_far_too_long_for_any_line_of_this_width end"
    lines = wrapped(text, 12, 90)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert len(lines) > 5
    assert text_tile("word " * 5000, "heading", 60, 90).shape == (60, 90, 3)


def test_a_contact_sheet_has_the_photos_unchanged_in_place() -> None:
    rng = np.random.default_rng(0)
    wide, tall = rng.integers(0, 255, (40, 80, 3), np.uint8), rng.integers(0, 255, (40, 20, 3), np.uint8)
    sheet = contact_sheet(
        [("one", [("photo", wide), ("depth", tall)]), ("two", [("photo", tall), ("depth", wide)])], gap=6
    )
    strip = 13 + 2 * 6
    assert sheet.shape == (strip + 2 * (40 + strip + 6), 6 + 2 * (80 + 6), 3)
    assert np.array_equal(sheet[strip : strip + 40, 6:86], wide)
    second = strip + 40 + strip + 6
    assert np.array_equal(sheet[second : second + 40, 6:26], tall)
    assert np.array_equal(sheet[second : second + 40, 92:172], wide)
    assert (sheet[:strip] != 255).any() and (sheet[strip + 40 : second] != 255).any(), "titles and captions are missing"


def test_a_contact_sheet_refuses_nothing_and_ragged_rows() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([])
    with pytest.raises(ValueError, match="other columns"):
        contact_sheet([("a", [("photo", GREY)]), ("b", [("depth", GREY)])])
