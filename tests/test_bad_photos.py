"""Whatever a file is, reading it ends in a photo or in one PhotoError that names the reason; and it ends."""

from __future__ import annotations

import builtins
import os
import time
from pathlib import Path

import numpy as np
import pytest

from expert_zoo.expert import Photo
from pipeline.photos import Limits, PhotoError, read_photo
from tests.photo_files import HTML, bomb, encode, make_bad_folder, picture, with_orientation
from tests.test_photos import record_of

LIMITS = Limits()


def outcome(path: Path | str, limits: Limits = LIMITS) -> Photo | str:
    """The photo, or the reason why there is none."""
    try:
        return read_photo(record_of(path), limits)
    except PhotoError as error:
        code, separator, detail = error.reason.partition(": ")
        assert separator and detail and code == code.lower() and "\n" not in error.reason
        return error.reason


def test_the_whole_folder_of_bad_files(tmp_path: Path) -> None:
    for name, expected in make_bad_folder(tmp_path).items():
        found = outcome(tmp_path / name)
        if expected.code:
            assert isinstance(found, str) and found.startswith(expected.code + ": "), (name, found)
        else:
            assert isinstance(found, Photo), (name, found)
            assert (found.width, found.height) == expected.size, name
            assert found.note.startswith(expected.note) and bool(found.note) == bool(expected.note), (name, found.note)


def test_reasons_say_what_the_file_is(tmp_path: Path) -> None:
    for content, reason in [
        (HTML, "not an image: HTML"),
        (b"\xef\xbb\xbf \n <HTML>", "not an image: HTML"),
        (b"%PDF-1.4", "not an image: PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image: PostScript"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image: SVG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not an image: a Git LFS pointer"),
        (b"", "empty file: 0 bytes"),
        (b"\x89PNG\r\n\x1a\nrubbish", "corrupt: the PNG header"),
        (bomb(), "too many pixels: 30000x30000 = 900000000, the limit is 100000000"),
    ]:
        (tmp_path / "x.jpg").write_bytes(content)
        found = outcome(tmp_path / "x.jpg")
        assert isinstance(found, str) and found.startswith(reason), found


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_file_is_read_as_far_as_it_goes(tmp_path: Path, kind: str) -> None:
    whole = encode(picture(320, 240), kind)
    (tmp_path / "x").write_bytes(whole)
    complete = read_photo(record_of(tmp_path / "x"), LIMITS)
    (tmp_path / "x").write_bytes(whole[: len(whole) * 3 // 4])
    photo = read_photo(record_of(tmp_path / "x"), LIMITS)
    assert photo.note.startswith("truncated: ")
    missing = int(photo.note.split(", ")[1].split()[0])
    assert 20 < missing < 160
    # The last row of 16 pixel blocks may be there in part, and its colours are smoothed with what is missing.
    kept = 240 - missing - 32
    np.testing.assert_array_equal(photo.pixels_HW3[:kept], complete.pixels_HW3[:kept])


def test_a_cut_of_a_kind_that_cannot_be_read_in_part_is_corrupt(tmp_path: Path) -> None:
    for kind in ("GIF", "BMP", "TIFF", "WEBP"):
        whole = encode(picture(320, 240), kind)
        (tmp_path / "x").write_bytes(whole[: len(whole) // 2])
        assert str(outcome(tmp_path / "x")).startswith("corrupt: "), kind


def test_a_cut_photo_is_still_turned_upright(tmp_path: Path) -> None:
    whole = with_orientation(picture(320, 240), 6)
    (tmp_path / "x").write_bytes(whole[: len(whole) * 3 // 4])
    photo = read_photo(record_of(tmp_path / "x"), LIMITS)
    assert photo.pixels_HW3.shape == (240, 320, 3) and photo.note.startswith("truncated: ")
    error_W = np.abs(photo.pixels_HW3.astype(int) - picture(320, 240)).mean(axis=(0, 2))
    assert min(error_W[:100].mean(), error_W[-100:].mean()) < 8 < max(error_W[:20].mean(), error_W[-20:].mean())


def test_a_jpeg_without_its_end_marker_is_whole(tmp_path: Path) -> None:
    for progressive in (False, True):
        whole = encode(picture(320, 240), progressive=progressive)
        (tmp_path / "x").write_bytes(whole)
        complete = read_photo(record_of(tmp_path / "x"), LIMITS)
        (tmp_path / "x").write_bytes(whole[:-2])
        photo = read_photo(record_of(tmp_path / "x"), LIMITS)
        np.testing.assert_array_equal(photo.pixels_HW3, complete.pixels_HW3)
        assert "0 of 240 rows" in photo.note


def test_a_cut_progressive_jpeg_is_less_sharp_but_whole(tmp_path: Path) -> None:
    whole = encode(picture(320, 240), progressive=True)
    (tmp_path / "x").write_bytes(whole[: len(whole) // 2])
    photo = read_photo(record_of(tmp_path / "x"), LIMITS)
    assert photo.note.startswith("truncated: ")
    assert np.abs(photo.pixels_HW3.astype(int) - picture(320, 240)).mean() < 30


def test_a_cut_before_the_first_row_is_no_photo(tmp_path: Path) -> None:
    for kind, start, after in (("JPEG", b"\xff\xda", 14), ("PNG", b"IDAT", 16)):
        whole = encode(picture(320, 240), kind)
        (tmp_path / "x").write_bytes(whole[: whole.index(start) + after])
        assert str(outcome(tmp_path / "x")).startswith("corrupt: "), kind


def test_a_header_that_promises_more_rows_than_follow(tmp_path: Path) -> None:
    data = bytearray(encode(picture()))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 7] = (480).to_bytes(2, "big")
    (tmp_path / "x.jpg").write_bytes(data)
    found = outcome(tmp_path / "x.jpg")
    assert isinstance(found, Photo) and found.height == 480
    data = bytearray(encode(picture(), "BMP"))
    data[22:26] = (4800).to_bytes(4, "little")
    (tmp_path / "x.bmp").write_bytes(data)
    assert str(outcome(tmp_path / "x.bmp")).startswith("corrupt: ")


def test_limits_are_kept_before_and_while_reading(tmp_path: Path) -> None:
    data = encode(picture(), "PNG")
    (tmp_path / "x.png").write_bytes(data)
    assert isinstance(outcome(tmp_path / "x.png", Limits(max_pixels=64 * 48, max_bytes=len(data))), Photo)
    assert str(outcome(tmp_path / "x.png", Limits(max_pixels=64 * 48 - 1))).startswith("too many pixels: 64x48 = 3072")
    assert str(outcome(tmp_path / "x.png", Limits(max_bytes=len(data) - 1))).startswith("too many bytes: ")
    # /proc files state 0 bytes and hold more.
    assert str(outcome(Path("/proc/self/status"), Limits(max_bytes=100))).startswith("too many bytes: ")
    for limits in ({"max_pixels": 0}, {"max_bytes": -1}):
        with pytest.raises(ValueError, match="greater than 0"):
            Limits(**limits)


def test_missing_vanished_and_foreign(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encode(picture()))
    record = record_of(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").unlink()
    with pytest.raises(PhotoError, match="^missing: "):
        read_photo(record, LIMITS)
    (tmp_path / "file").write_bytes(b"x")
    assert str(outcome(tmp_path / "file" / "x.jpg")).startswith("missing: ")
    assert str(outcome("file://elsewhere/photos/x.jpg")).startswith("unreadable: a file:// URI of the host 'elsewhere'")
    assert str(outcome("file:///a%00b.jpg")).startswith("unreadable: ")
    assert str(outcome(Path("/dev/zero"))).startswith("not a file: ")


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.jpg").write_bytes(encode(picture()))

    def refuse(path: str, *_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    assert str(outcome(tmp_path / "x.jpg")).startswith("unreadable: PermissionError")


def test_an_error_in_the_middle_of_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.jpg").write_bytes(encode(picture()))

    def fail(*_: object, **__: object) -> object:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(builtins, "open", fail)
    assert str(outcome(tmp_path / "x.jpg")) == "unreadable: OSError: [Errno 5] Input/output error"


def test_a_fifo_does_not_hang_even_when_it_replaces_the_file_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "file.jpg").write_bytes(encode(picture()))
    status = (tmp_path / "file.jpg").stat()
    start = time.monotonic()
    assert str(outcome(tmp_path / "fifo.jpg")).startswith("not a file: ")
    monkeypatch.setattr(Path, "stat", lambda self, **_: status)
    assert str(outcome(tmp_path / "fifo.jpg")).startswith("not a file: ")
    assert time.monotonic() - start < 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_fuzz(tmp_path: Path, kind: str) -> None:
    """200 files with flipped bytes, cuts, or both: a photo or a PhotoError, soon."""
    whole = encode(picture(), kind)
    random = np.random.default_rng(7)
    limits = Limits(max_pixels=1_000_000)
    path = tmp_path / "x"
    photos = 0
    for _ in range(200):
        data = bytearray(whole)
        for position in random.integers(0, len(data) if random.random() < 0.5 else 60, size=random.integers(0, 6)):
            data[position] = random.integers(0, 256)
        if random.random() < 0.5:
            del data[random.integers(0, len(data)) :]
        path.write_bytes(data)
        start = time.monotonic()
        found = outcome(path, limits)
        assert time.monotonic() - start < 5
        if isinstance(found, Photo):
            photos += 1
            assert found.pixels_HW3.dtype == np.uint8 and found.pixels_HW3.ndim == 3 and found.pixels_HW3.size > 0
    assert 0 < photos < 200
