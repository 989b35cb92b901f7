"""Pictures in Parquet cells as Hugging Face datasets have them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.build import build
from manifests.record import ID_PATTERN, ImageRecord, url_key
from manifests.sources import HfParquet, Img2dataset
from manifests.sources.hf_parquet import LACKING, NO_BYTES, UNREADABLE
from pipeline.photos import Limits, read_bytes
from tests.source_contents import split

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def cells(*contents: bytes | None, kind: Any = STRUCT) -> pa.Array:
    return pa.array([None if c is None else {"bytes": c, "path": "x.jpg"} for c in contents], kind)


def write(path: Path, columns: dict[str, Any], rows: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows)


def contents(records: Sequence[ImageRecord]) -> list[bytes]:
    return [read_bytes(record.uri, Limits()) for record in records]


def test_every_row_of_every_file(tmp_path: Path) -> None:
    for part in range(3):
        photos = [f"{part} {row}".encode() for row in range(5)]
        path = tmp_path / "da#ta" / f"train-{part:05d}-of-00003.parquet"
        write(path, {"image": cells(*photos), "caption": [f" photo\n{row}" for row in range(5)], "width": range(1, 6)})
    write(tmp_path / "da#ta" / "test-00000.parquet", {"image": cells(b"test"), "caption": [None]})
    pattern = f"{tmp_path}/da#ta/train-*.parquet"
    records, rejections = split(HfParquet(path=pattern, name="cats", split="train", license="CC0"))
    assert contents(records) == [f"{part} {row}".encode() for part in range(3) for row in range(5)] and not rejections
    first = records[0]
    assert first.image_id == "cats_train-00000-of-00003_0" and first.captions == ("photo 0",)
    assert (first.width, first.height, first.split, first.license) == (1, None, "train", "CC0")
    assert first.uri.endswith("/da%23ta/train-00000-of-00003.parquet#row=0&column=image.bytes")
    everything, _ = split(HfParquet(path=str(tmp_path), name="cats"))
    assert len(everything) == 16 and everything[0].captions == () and len({r.image_id for r in everything}) == 16
    one, _ = split(HfParquet(path=str(tmp_path / "da#ta" / "test-00000.parquet")))
    assert contents(one) == [b"test"] and one[0].image_id == "hf_parquet_test-00000_0"


def test_remote_files_and_patterns(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    for part in range(2):
        write(tmp_path / f"train-{part}.parquet", {"image": cells(b"a", b"b"), "text": ["x", "y"]})
        files.pipe_file(f"/hf/d#/train-{part}.parquet", (tmp_path / f"train-{part}.parquet").read_bytes())
    here, _ = split(HfParquet(path=str(tmp_path)))
    for path in ("memory://hf/d#", "memory://hf/d#/train-*.parquet", "memory://hf/d#/train-[01].parquet"):
        there, rejections = split(HfParquet(path=path))
        assert contents(there) == [b"a", b"b"] * 2 and rejections == []
        assert [r.image_id for r in there] == [r.image_id for r in here]
    assert len(split(HfParquet(path="memory://hf/d#/train-1.parquet"))[0]) == 2


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_plain_bytes_and_named_columns(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {
        "j.p&g": pa.array([b"one", b"two"], pa.binary()).cast(kind),
        "sentences": [["a", " b "], []],
        "also": ["c", "a"],
        "cocoid": [391895, 9],
        "where": ["http://images.cocodataset.org/val2014/COCO_val2014_000000391895.jpg", None],
    }
    write(tmp_path / "a.parquet", columns)
    source = HfParquet(path=str(tmp_path), image="j.p&g", captions=("sentences", "also"), id="cocoid", url="where")
    records, rejections = split(source)
    assert contents(records) == [b"one", b"two"] and rejections == []
    assert [(r.image_id, r.captions) for r in records] == [("391895", ("a", "b", "c")), ("9", ("a",))]
    assert records[0].keys == (url_key(columns["where"][0]), "coco:391895") and records[1].keys == ()


def test_rows_without_a_picture_are_left_out_and_rows_are_still_right(tmp_path: Path) -> None:
    photos = [None, None, b"2", None, b"4", b"5", None]
    write(tmp_path / "a.parquet", {"image": cells(*photos), "caption": [str(n) for n in range(7)]})
    nulls = pa.array([{"bytes": None, "path": "a.jpg"}, {"bytes": b"8", "path": None}], STRUCT)
    write(tmp_path / "b.parquet", {"image": nulls, "caption": ["7", "8"]})
    records, rejections = split(HfParquet(path=str(tmp_path)))
    assert contents(records) == [b"2", b"4", b"5", b"8"]
    assert [r.captions for r in records] == [("2",), ("4",), ("5",), ("8",)]
    assert [(r.what, r.reason) for r in rejections] == [
        (f"{name}.parquet, row {row}", NO_BYTES) for name, row in (*(("a", n) for n in (0, 1, 3, 6)), ("b", 0))
    ]


def test_broken_files_and_other_columns_are_left_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": cells(b"a"), "caption": ["a"]})
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-10])
    (tmp_path / "c.parquet").write_bytes(b"")
    write(tmp_path / "d.parquet", {"image": cells(b"d", b"d"), "title": ["d", "d"]})
    write(tmp_path / "e.parquet", {"image": cells(b"e"), "caption": ["x" * 20_000]})
    records, rejections = split(HfParquet(path=str(tmp_path), captions=("caption",)))
    assert contents(records) == [b"a", b"e"] and records[1].captions == ()
    assert [(r.what, r.reason, r.count) for r in rejections] == [
        ("b.parquet", UNREADABLE, 1), ("c.parquet", UNREADABLE, 1), ("d.parquet", LACKING, 2),
        ("e.parquet, row 0", "caption of more than 10000 bytes", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "picture"}, "no column picture; the file has image, caption, n"),
        ({"captions": ("alt", "caption")}, "no column alt; the file has"),
        ({"id": "key", "url": "url"}, "no column key and no column url; the file has"),
        ({"image": "n"}, "column n holds int64; expected a struct with bytes, or bytes"),
    ],
)
def test_a_column_that_is_not_there_is_one_clear_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write(tmp_path / "a.parquet", {"image": cells(b"a"), "caption": ["a"], "n": [1]})
    with pytest.raises(ValueError, match=message) as error:
        split(HfParquet(path=str(tmp_path), **options))
    assert "\n" not in str(error.value) and "a.parquet" in str(error.value)


def test_no_file_is_one_clear_line(tmp_path: Path) -> None:
    for path in (str(tmp_path), f"{tmp_path}/none.parquet", f"{tmp_path}/*.parquet", "memory://hf-none/x-*.parquet"):
        with pytest.raises(ValueError, match="no Parquet file at "):
            split(HfParquet(path=path))


def test_ids_of_any_file_name_are_ids_and_do_not_depend_on_the_root(tmp_path: Path) -> None:
    names = ["a b.parquet", "ünï.parquet", "sub/a.parquet", "sub_a.parquet", "x" * 150 + ".parquet", "a.b.parquet"]
    for root in ("here", "there/now"):
        for name in names:
            write(tmp_path / root / name, {"image": cells(b"x", b"y")})
    here, _ = split(HfParquet(path=str(tmp_path / "here")))
    there, _ = split(HfParquet(path=str(tmp_path / "there" / "now")))
    assert [r.image_id for r in here] == [r.image_id for r in there]
    assert len({r.image_id for r in here}) == 12 and all(ID_PATTERN.fullmatch(r.image_id) for r in here)


def test_pictures_are_not_read_to_make_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path / "a.parquet", {"image": cells(*(os.urandom(200_000) for _ in range(40))), "caption": ["x"] * 40}, 10
    )
    asked: list[object] = []
    read = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, *args: Any, columns: Sequence[str], **more: Any) -> Any:
        asked.extend(columns)
        return read(self, *args, columns=columns, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    assert len(split(HfParquet(path=str(tmp_path)))[0]) == 40
    assert set(asked) == {"caption"}


def test_what_img2dataset_writes_as_parquet_is_read_by_both(tmp_path: Path) -> None:
    from tests.img2dataset_output import Downloaded, write_shard

    samples = [Downloaded("http://h/a", "a", b"A"), Downloaded("http://h/b", "b", None, "HTTP Error 404: x", "failed")]
    write_shard(tmp_path, 0, samples, form="parquet")
    ours, _ = split(Img2dataset(path=str(tmp_path)))
    general, rejections = split(HfParquet(path=str(tmp_path), image="jpg", url="url"))
    assert contents(general) == contents(ours) == [b"A"] and [r.reason for r in rejections] == [NO_BYTES]
    assert general[0].keys[0] == ours[0].keys[0]
    manifest = build([HfParquet(path=str(tmp_path), image="jpg")], str(tmp_path / "m.parquet")).manifest
    assert contents(list(manifest.records())) == [b"A"]
