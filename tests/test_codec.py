"""What goes into a cell comes out of it: every kind, through rows, Parquet and tar, bit for bit or to half a step."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Sequence

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Picture, Scores, Text, Value, Words
from expert_zoo.spec import LabelSpec
from pipeline.cell import CellReader, CellWriter, EncodedRow
from pipeline.codec import encode, table_schema
from pipeline.errors import DamagedCell
from pipeline.png import read_png, write_png
from pipeline.receipt import FileEntry, Receipt, Rows, Seconds
from pipeline.storage import Storage, open_storage
from tests.conftest import comparable
from tests.stand_ins import SQUARES, card

OCR = LabelSpec(kind="words", quantity="words")
CAPTION = LabelSpec(kind="text", quantity="caption")
MATCH = LabelSpec(kind="score", quantity="match")
PHOTO = LabelSpec(kind="image", quantity="photo")
NORMAL = LabelSpec(
    kind="map", quantity="normal", dtype="uint8", channels=3, value_range=(-1.0, 1.0), resample="bilinear"
)


NO_RECEIPT = Receipt(
    column="expert@0123456789",
    shard=0,
    attempt="a",
    plan="p",
    rows=Rows(),
    table=FileEntry(name="cell.parquet", bytes=0, sha256=""),
    seconds=Seconds(),
    licence="",
    commercial_use=True,
    committed_at="",
    host="",
    packages={},
)


def map_spec(dtype: str, channels: int, value_range: tuple[float, float] | None = None) -> LabelSpec:
    return LabelSpec(
        kind="map", quantity="edge", dtype=dtype, channels=channels, value_range=value_range, resample="bilinear"
    )


def class_spec(dtype: str, names: int) -> LabelSpec:
    ignore = 255 if dtype == "uint8" else 65535
    return LabelSpec(
        kind="classes",
        quantity="class",
        dtype=dtype,
        channels=1,
        ignore=ignore,
        class_names=tuple(f"class {index}" for index in range(names)),
        resample="nearest",
    )


def write(
    storage: Storage, spec: LabelSpec, labels: Sequence[Label], ids: Sequence[str] | None = None
) -> tuple[FileEntry, FileEntry | None]:
    writer = CellWriter(storage, "cell", card("expert", spec), {"plan": "p"})
    for index, label in enumerate(labels):
        columns, member = encode(spec, label.value) if label.value is not None else ({}, None)
        image_id = ids[index] if ids else f"image-{index}"
        about = {"image_id": image_id, "status": label.status, "reason": label.reason, "height": 3, "width": 5}
        writer.add(EncodedRow(about | columns, member))
    return writer.finish()


def read(storage: Storage, spec: LabelSpec, tar: FileEntry | None) -> CellReader:
    table = pq.read_table(storage.open("cell.parquet"))
    return CellReader(card("expert", spec), NO_RECEIPT, table, storage.open("cell.tar") if tar else None)


def through(spec: LabelSpec, *values: Value) -> list[Value]:
    """``values`` written as a cell and read again; each of them keeps to the spec before and after."""
    storage = open_storage(f"memory://{uuid.uuid4().hex}")
    before = [Label.ok(value) for value in values]
    assert [spec.problem_with(label, height=3000, width=3000) for label in before] == [None] * len(values)
    _, tar = write(storage, spec, before)
    with read(storage, spec, tar) as cell:
        after = list(cell.labels())
    assert [spec.problem_with(label, height=3000, width=3000) for label in after] == [None] * len(values)
    found = [label.value for label in after]
    assert all(value is not None for value in found)
    return found  # type: ignore[return-value]


FLOATS = st.floats(-(2.0**60), 2.0**60, width=32)


@settings(max_examples=60, deadline=None)
@given(
    values=array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12).flatmap(
        lambda shape: st.sampled_from([shape, (*shape, 3)]).flatmap(lambda s: arrays(np.float32, s, elements=FLOATS))
    ),
    dtype=st.sampled_from(["uint8", "uint16"]),
    fixed=st.booleans(),
)
def test_a_map_is_right_to_half_a_step(values: np.ndarray, dtype: str, fixed: bool) -> None:
    low, high = float(values.min()), float(values.max())
    value_range = (low - 1.0, high + 1.0) if fixed and low - 1.0 < low and high < high + 1.0 else None
    spec = map_spec(dtype, 3 if values.ndim == 3 else 1, value_range)
    (found,) = through(spec, DenseMap(values))
    assert isinstance(found, DenseMap)
    assert found.values.dtype == np.float32 and found.values.shape == values.shape
    low, high = value_range or (low, high)
    half_step = (high - low) / (255 if dtype == "uint8" else 65535) / 2
    rounding = float(np.spacing(np.float32(max(abs(low), abs(high)))))  # of the result, which is float32
    error = np.abs(found.values.astype(np.float64) - values.astype(np.float64))
    assert error.max() <= half_step * (1 + 1e-9) + rounding


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("constant", [0.0, 1.0, -3.25, 1e-30, 1e30])
@pytest.mark.parametrize("shape", [(1, 1), (4, 7), (2, 3, 3)])
def test_a_constant_map_is_exact(dtype: str, constant: float, shape: tuple[int, ...]) -> None:
    values = np.full(shape, constant, np.float32)
    (found,) = through(map_spec(dtype, 3 if len(shape) == 3 else 1), DenseMap(values))
    assert isinstance(found, DenseMap)
    np.testing.assert_array_equal(found.values, values)


@settings(max_examples=40, deadline=None)
@given(
    ids=array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12).flatmap(
        lambda shape: arrays(np.uint16, shape, elements=st.integers(0, 999) | st.just(65535))
    )
)
def test_class_ids_are_exact(ids: np.ndarray) -> None:
    wide, narrow = class_spec("uint16", 1000), class_spec("uint8", 200)
    eight = np.where(ids == 65535, 255, ids % 200).astype(np.uint8)
    for spec, expected in ((wide, ids), (narrow, eight)):
        (found,) = through(spec, ClassMap(expected))
        assert isinstance(found, ClassMap) and found.ids_HW.dtype == spec.dtype
        np.testing.assert_array_equal(found.ids_HW, expected)


def test_arrays_need_not_be_contiguous() -> None:
    values = np.linspace(0, 1, 60, dtype=np.float32).reshape(6, 10)
    ids = (values * 2).astype(np.uint8)
    (depth,) = through(map_spec("uint16", 1), DenseMap(values.T[::-1, ::2]))
    (classes,) = through(class_spec("uint8", 3), ClassMap(ids[:, ::-1].T))
    assert isinstance(depth, DenseMap) and isinstance(classes, ClassMap)
    np.testing.assert_allclose(depth.values, values.T[::-1, ::2], atol=1e-5)
    np.testing.assert_array_equal(classes.ids_HW, ids[:, ::-1].T)


def test_the_first_channel_is_red_in_any_viewer() -> None:
    """x to the right is the first channel: Pillow, which reads RGB, must find it there."""
    from PIL import Image

    right = np.zeros((2, 3, 3), np.float32)
    right[..., 0] = 1.0
    (found,) = through(NORMAL, DenseMap(right))
    assert isinstance(found, DenseMap)
    np.testing.assert_allclose(found.values, right, atol=1 / 255)
    _, member = encode(NORMAL, DenseMap(right))
    assert member is not None
    assert Image.open(io.BytesIO(member)).convert("RGB").getpixel((0, 0)) == (255, 128, 128)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_is_lossless_and_of_its_depth(dtype: type[np.unsignedinteger]) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (9, 5, 3), dtype=dtype, endpoint=True)
    found = cv2.imdecode(np.frombuffer(write_png(pixels), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found[..., ::-1], pixels)


@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (3, 2, 3), (40, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("row_filter", ["NONE", "SUB", "UP", "AVG", "PAETH"])
def test_any_png_is_read_whoever_wrote_it(
    row_filter: str, dtype: type[np.unsignedinteger], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    flags = (cv2.IMWRITE_PNG_FILTER, getattr(cv2, f"IMWRITE_PNG_FILTER_{row_filter}"))
    data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels, flags)[1].tobytes()
    for png in (data, write_png(pixels)):
        found = read_png(png)
        assert found is not None and found.dtype == dtype
        np.testing.assert_array_equal(found, pixels)
    if dtype == np.uint8:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        np.testing.assert_array_equal(read_png(buffer.getvalue()), pixels)
    monkeypatch.setattr(cv2, "imdecode", None)
    np.testing.assert_array_equal(read_png(write_png(pixels)), pixels)  # our own need no library


def test_a_broken_png_is_none_or_what_a_library_makes_of_it() -> None:
    data = write_png(np.random.default_rng(0).integers(0, 255, (30, 40), dtype=np.uint8))
    for end in range(0, len(data), 7):
        found = read_png(data[:end])
        assert found is None or (found.shape == (30, 40) and end > 40)
    turned = bytearray(data)
    turned[len(data) // 2] ^= 0xFF
    expected = cv2.imdecode(np.frombuffer(bytes(turned), np.uint8), cv2.IMREAD_UNCHANGED)
    found = read_png(bytes(turned))
    assert (found is None) == (expected is None) and (found is None or np.array_equal(found, expected))


def mask_of(box_4: np.ndarray, grey: int) -> bytes:
    width, height = (np.ceil(box_4[2:]) - np.floor(box_4[:2])).astype(int)
    return cv2.imencode(".png", np.full((height, width), grey, np.uint8))[1].tobytes()


BOX = st.tuples(*[st.floats(0, 1000, width=32)] * 2, *[st.floats(1, 1000, width=32)] * 2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(BOX, st.floats(0, 1, width=32), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_boxes_scores_and_masks_are_exact(objects: list[tuple[tuple[float, ...], float, int]], masks: bool) -> None:
    corners = np.array([box for box, _, _ in objects], np.float32)
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
    value = Instances(
        boxes_N4=boxes,
        scores_N=np.array([score for _, score, _ in objects], np.float32),
        class_ids_N=np.zeros(len(objects), np.int32),
        masks=tuple(mask_of(*about) for about in zip(boxes, (grey for *_, grey in objects), strict=True))
        if masks
        else None,
    )
    (found,) = through(SQUARES, value)
    assert comparable(Label.ok(found)) == comparable(Label.ok(value))


TEXT = st.text(max_size=20)  # any characters but halves of surrogate pairs, which UTF-8 cannot hold


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, st.floats(0, 1, width=32), st.lists(FLOATS.map(lambda x: x % 999), min_size=8, max_size=8)),
                min_size=1, max_size=6))  # fmt: skip
def test_words_are_exact(found_words: list[tuple[str, float, list[float]]]) -> None:
    value = Words(
        polygons_N42=np.array([points for _, _, points in found_words], np.float32).reshape(-1, 4, 2),
        texts=tuple(text for text, _, _ in found_words),
        scores_N=np.array([score for _, score, _ in found_words], np.float32),
    )
    (found,) = through(OCR, value)
    assert comparable(Label.ok(found)) == comparable(Label.ok(value))


@pytest.mark.parametrize(
    "text", ["", "two\nlines", "\U0001f600 emoji", "\0", "'\"\\", "\u202eright to left", "é e\u0301"]
)
def test_texts_and_scores_are_exact(text: str) -> None:
    assert through(CAPTION, Text(text, -0.5)) == [Text(text, -0.5)]
    (found,) = through(MATCH, Scores(np.array([0.1, -7.5], np.float32)))
    assert isinstance(found, Scores)
    np.testing.assert_array_equal(found.values_N, np.array([0.1, -7.5], np.float32))


def test_no_caption_no_score() -> None:
    (found,) = through(MATCH, Scores(np.zeros(0, np.float32)))
    assert isinstance(found, Scores) and found.values_N.shape == (0,)


def test_a_photo_keeps_its_bytes_and_ending() -> None:
    assert through(PHOTO, Picture(b"\xff\xd8x", "jpg"), Picture(b"y" * 1024, "png")) == [
        Picture(b"\xff\xd8x", "jpg"),
        Picture(b"y" * 1024, "png"),
    ]


def test_rows_without_a_value() -> None:
    storage = open_storage(f"memory://{uuid.uuid4().hex}")
    spec = map_spec("uint8", 1)
    label = Label.ok(DenseMap(np.ones((2, 2), np.float32)), "truncated: note")
    labels = [Label.failed("code: why"), label, Label.empty("nothing"), label, Label.failed("last")]
    _, tar = write(storage, spec, labels)
    with read(storage, spec, tar) as cell:
        assert [comparable(found) for found in cell.labels()] == [comparable(wanted) for wanted in labels]
        assert [row["offset"] is None for row in cell.rows] == [True, False, True, False, True]


def test_the_tar_is_a_tar_with_the_offsets_of_the_rows() -> None:
    storage = open_storage(f"memory://{uuid.uuid4().hex}")
    spec = map_spec("uint16", 1)
    rng = np.random.default_rng(0)
    ids = ["z" * 128, "a", "m" * 100, "B-2_" + "x" * 96, "0"]  # the longest ids need a header of more than one block
    values = [rng.random((side, side), np.float32) for side in (1, 30, 7, 64, 3)]
    table, tar = write(storage, spec, [Label.ok(DenseMap(v)) for v in values], ids)
    assert tar is not None
    data = storage.read("cell.tar")
    assert (len(data), tar.bytes) == (tar.bytes, len(data)) and len(data) % 512 == 0
    rows = pq.read_table(storage.open("cell.parquet")).to_pylist()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [f"{image_id}.expert.png" for image_id in ids]
        assert [(m.offset_data, m.size) for m in members] == [(row["offset"], row["length"]) for row in rows]
        for member, row in zip(members, rows, strict=True):
            stream = archive.extractfile(member)
            assert stream is not None
            png = stream.read()
            assert png == data[row["offset"] : row["offset"] + row["length"]] and png.startswith(b"\x89PNG")
    assert table.bytes == len(storage.read("cell.parquet"))


def test_the_same_labels_are_the_same_bytes() -> None:
    labels = [Label.ok(DenseMap(np.eye(9, dtype=np.float32))), Label.failed("x")]
    found = [write(open_storage(f"memory://{uuid.uuid4().hex}"), map_spec("uint8", 1), labels) for _ in range(2)]
    assert found[0] == found[1]


def test_a_truncated_tar_is_told_not_read() -> None:
    storage = open_storage(f"memory://{uuid.uuid4().hex}")
    spec = map_spec("uint8", 1)
    _, tar = write(storage, spec, [Label.ok(DenseMap(np.random.default_rng(0).random((40, 40), np.float32)))])
    storage.replace("cell.tar", storage.read("cell.tar")[:900])
    with read(storage, spec, tar) as cell:
        with pytest.raises(DamagedCell, match="388 of .* bytes"):
            cell.label(cell.rows[0])
        with pytest.raises(DamagedCell, match="388 of .* bytes"):
            cell.encoded(cell.rows[0])


def test_a_member_of_other_bytes_is_told_with_its_image() -> None:
    storage = open_storage(f"memory://{uuid.uuid4().hex}")
    spec = map_spec("uint8", 1)
    _, tar = write(storage, spec, [Label.ok(DenseMap(np.eye(4, dtype=np.float32)))])
    storage.replace("cell.tar", bytes(len(storage.read("cell.tar"))))
    with read(storage, spec, tar) as cell, pytest.raises(DamagedCell, match="image-0.*PNG.*repair"):
        list(cell.labels())


@pytest.mark.parametrize(
    "png", [b"", b"no png", write_png(np.zeros((2, 2), np.uint16)), write_png(np.zeros((2, 2, 3), np.uint8))]
)
def test_a_member_that_is_not_its_png_is_told(png: bytes) -> None:
    from pipeline.codec import decode

    row = {"status": "ok", "reason": "", "scale": 1.0, "bias": 0.0}
    with pytest.raises(ValueError, match="PNG"):
        decode(map_spec("uint8", 1), row, png)


def test_schemas_have_no_surprises() -> None:
    common = ["image_id", "status", "reason", "height", "width"]
    assert table_schema(NORMAL).names == [*common, "scale", "bias", "offset", "length"]
    assert table_schema(class_spec("uint8", 2)).names == [*common, "offset", "length"]
    assert table_schema(SQUARES).names == [*common, "boxes", "scores", "class_ids", "masks"]
    assert table_schema(OCR).names == [*common, "polygons", "texts", "scores"]
    assert table_schema(CAPTION).names == [*common, "text", "log_prob"]
    assert table_schema(MATCH).names == [*common, "scores"]
    assert table_schema(PHOTO).names == [*common, "format", "offset", "length"]
