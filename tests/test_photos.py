"""Good photos of every kind come out as upright 8-bit RGB."""

from __future__ import annotations

import hashlib
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manifests.record import ImageRecord, path_id
from pipeline.photos import Limits, PhotoError, read_photo
from tests.photo_files import animation, encode, picture, with_orientation

LIMITS = Limits()


def record_of(path: Path | str, captions: tuple[str, ...] = ()) -> ImageRecord:
    uri = path.absolute().as_uri() if isinstance(path, Path) else path
    return ImageRecord(image_id=path_id(uri), source="test", uri=uri, captions=captions)


def read_bytes(folder: Path, data: bytes, name: str = "photo.jpg") -> np.ndarray:
    (folder / name).write_bytes(data)
    photo = read_photo(record_of(folder / name), LIMITS)
    assert photo.pixels_HW3.dtype == np.uint8 and photo.pixels_HW3.flags.c_contiguous
    assert photo.data == data and photo.note == ""
    return photo.pixels_HW3


def test_a_photo_carries_bytes_format_and_captions(tmp_path: Path) -> None:
    data = encode(picture(), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    photo = read_photo(record_of(tmp_path / "a.png", ("one", "two")), LIMITS)
    np.testing.assert_array_equal(photo.pixels_HW3, picture())
    assert (photo.data, photo.format, photo.captions) == (data, "png", ("one", "two"))
    assert (photo.width, photo.height) == (64, 48)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tiff")],
)
def test_the_format_is_told_by_content_not_by_name(tmp_path: Path, kind: str, ending: str) -> None:
    (tmp_path / "wrong.txt").write_bytes(encode(picture(), kind))
    photo = read_photo(record_of(tmp_path / "wrong.txt"), LIMITS)
    assert photo.format == ending
    assert np.abs(photo.pixels_HW3.astype(int) - picture()).mean() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_read_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    pixels = read_bytes(tmp_path, with_orientation(picture(), orientation, kind, **options))
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - picture()).max() <= 8


def test_an_impossible_orientation_counts_as_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    pixels = read_bytes(tmp_path, encode(picture(), "PNG", exif=exif.tobytes()))
    np.testing.assert_array_equal(pixels, picture())


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    expected = np.rint(ramp / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF", "PPM"):
        pixels = read_bytes(tmp_path, encode(ramp, kind))
        np.testing.assert_array_equal(pixels, np.repeat(expected[:, :, None], 3, axis=2), err_msg=kind)


def test_float_and_32_bit_greys_span_the_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 64 * 48).reshape(48, 64)
    for values in (ramp, ramp * 255, ramp * 65535, 1e6 * ramp - 5e5):
        pixels = read_bytes(tmp_path, encode(values.astype(np.float32), "TIFF"))
        np.testing.assert_allclose(pixels[:, :, 0], ramp * 255, atol=1)
    flat = read_bytes(tmp_path, encode(np.full((4, 4), 1e6, np.float32), "TIFF"))
    assert flat.shape == (4, 4, 3)


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
    alpha = np.arange(64, dtype=np.uint8)[None].repeat(48, 0) * 4
    share = alpha[:, :, None] / 255
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        pixels = read_bytes(tmp_path, encode(np.dstack([picture(), alpha]), kind, **options))
        np.testing.assert_allclose(pixels, picture() * share + 255 * (1 - share), atol=1.01, err_msg=kind)
    grey_pixels = read_bytes(tmp_path, encode(np.dstack([picture()[:, :, 1], alpha]), "PNG"))
    expected = picture()[:, :, 1:2] * share + 255 * (1 - share)
    np.testing.assert_allclose(grey_pixels, np.repeat(expected, 3, axis=2), atol=1.01)


def test_a_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    palette = Image.fromarray(picture()).quantize(16)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=3)
    expected = np.asarray(palette.convert("RGB")).copy()
    hidden = np.asarray(palette) == 3
    assert hidden.any()
    expected[hidden] = 255
    np.testing.assert_array_equal(read_bytes(tmp_path, buffer.getvalue()), expected)


def test_a_transparent_colour_of_an_rgb_png_is_white(tmp_path: Path) -> None:
    pixels = picture()
    pixels[:5, :5] = (1, 2, 3)
    expected = pixels.copy()
    expected[:5, :5] = 255
    np.testing.assert_array_equal(read_bytes(tmp_path, encode(pixels, "PNG", transparency=(1, 2, 3))), expected)


def test_cmyk_keeps_its_colours(tmp_path: Path) -> None:
    for kind in ("JPEG", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(picture()).convert("CMYK").save(buffer, kind)
        assert np.abs(read_bytes(tmp_path, buffer.getvalue()).astype(int) - picture()).mean() < 4


def test_grey_and_one_bit_become_rgb(tmp_path: Path) -> None:
    grey = picture()[:, :, 0]
    np.testing.assert_array_equal(read_bytes(tmp_path, encode(grey, "PNG")), np.repeat(grey[:, :, None], 3, axis=2))
    buffer = io.BytesIO()
    Image.fromarray(np.where(grey > 99, 255, 0).astype(np.uint8)).convert("1").save(buffer, "PNG")
    pixels = read_bytes(tmp_path, buffer.getvalue())
    np.testing.assert_array_equal(pixels[:, :, 2] == 255, grey > 99)
    assert set(np.unique(pixels)) == {0, 255}


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_frame(tmp_path: Path, kind: str) -> None:
    pixels = read_bytes(tmp_path, animation(kind))
    error = [np.abs(pixels.astype(int) - picture(seed=seed)).mean() for seed in range(3)]
    assert error[0] < 8 < min(error[1:])


@pytest.mark.parametrize("name", ["ünïcode 名前.jpg", "new\nline.jpg", "100% #1?.jpg", "%41.jpg", b"latin-\xe9.jpg"])
def test_any_file_name(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / (name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))
    path.write_bytes(encode(picture(), "PNG"))
    np.testing.assert_array_equal(read_photo(record_of(path), LIMITS).pixels_HW3, picture())
    assert record_of(path).uri.isascii()


def test_other_filesystems_are_read_through_fsspec() -> None:
    import fsspec

    data = encode(picture(), "PNG")
    with fsspec.open("memory://photos-test/a.png", "wb") as file:
        file.write(data)
    assert read_photo(record_of("memory://photos-test/a.png"), LIMITS).data == data
    with pytest.raises(PhotoError, match="^too many bytes: "):
        read_photo(record_of("memory://photos-test/a.png"), Limits(max_bytes=len(data) - 1))
    with pytest.raises(PhotoError, match="^missing: "):
        read_photo(record_of("memory://photos-test/b.png"), LIMITS)
    with pytest.raises(PhotoError, match="^unreadable: .*nosuchprotocol"):
        read_photo(record_of("nosuchprotocol://photos/a.png"), LIMITS)


def test_a_scene_is_rendered_and_has_no_bytes() -> None:
    from manifests.scenes import render_uri, scene_uri

    uri = scene_uri(7, 3)
    photo = read_photo(record_of(uri, ("a caption",)), LIMITS)
    np.testing.assert_array_equal(photo.pixels_HW3, render_uri(uri).photo_HW3)
    assert photo.pixels_HW3.dtype == np.uint8 and (photo.data, photo.format, photo.note) == (None, "", "")
    with pytest.raises(PhotoError, match="^missing: .*no scene address"):
        read_photo(record_of("scenes://seven"), LIMITS)
    with pytest.raises(PhotoError, match="^too many pixels: "):
        read_photo(record_of(uri), Limits(max_pixels=100))


def test_many_threads_read_the_same_as_one(tmp_path: Path) -> None:
    """Cut and whole files mixed: leniency with one file must not leak into the reading of another."""
    records = []
    for i in range(24):
        kind = ("JPEG", "PNG", "GIF", "WEBP")[i % 4]
        data = encode(picture(160, 120, seed=i), kind)
        cut = kind in ("JPEG", "PNG") and i % 3 == 0
        (tmp_path / f"{i}.jpg").write_bytes(data[: len(data) * 2 // 3] if cut else data)
        records.append(record_of(tmp_path / f"{i}.jpg"))

    def digest(record: ImageRecord) -> tuple[str, str]:
        photo = read_photo(record, LIMITS)
        return hashlib.sha256(photo.pixels_HW3.tobytes()).hexdigest(), photo.note

    alone = [digest(record) for record in records]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(digest, records * 10))
    assert together == alone * 10
    assert sum(bool(note) for _, note in alone) == 4


def test_the_programs_own_pillow_settings_stay_and_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageFile

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    pixels = read_bytes(tmp_path, encode(picture(), "PNG"))
    np.testing.assert_array_equal(pixels, picture())
    assert Image.MAX_IMAGE_PIXELS == 10 and not ImageFile.LOAD_TRUNCATED_IMAGES


def test_reading_imports_no_torch() -> None:
    import subprocess

    code = "import sys, pipeline.photos, expert_zoo.image, expert_zoo.ocr.rapid; print([m for m in ('torch', 'ray', 'cv2') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
