"""What img2dataset wrote, in its three forms: whole, cut, without its Parquet, and from nasty people."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from manifests.build import build
from manifests.location import split_part
from manifests.record import ImageRecord, Rejection, url_key
from manifests.sources import Img2dataset
from manifests.sources.img2dataset import ABSENT, BROKEN_TABLE, NO_PICTURES
from manifests.tar_index import COMPRESSED, CUT, DAMAGED, NOT_A_FILE, NOT_A_TAR, OUTSIDE
from pipeline.photos import Limits, read_bytes
from tests.conftest import ROOT
from tests.img2dataset_output import Downloaded, Form, add, write_shard
from tests.photo_files import encode, picture
from tests.source_contents import split

FORMS: list[Form] = ["webdataset", "files", "parquet"]


def downloaded(count: int, first: int = 0) -> list[Downloaded]:
    return [
        Downloaded(f"http://host/{n}.jpg", f"photo  number {n} ", encode(picture(seed=n), "JPEG"))
        for n in range(first, first + count)
    ]


def failed(message: str, status: str = "failed_to_download") -> Downloaded:
    return Downloaded(f"http://host/{message[:5]}", "gone", None, message, status)


def reasons(rejections: Sequence[Rejection]) -> dict[str, int]:
    return {r.reason.removeprefix("not downloaded by img2dataset: "): r.count for r in rejections}


def contents(records: Sequence[ImageRecord]) -> list[bytes]:
    return [read_bytes(record.uri, Limits()) for record in records]


# ------------------------------------------------------------------------------------------------ whole


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("digits", [1, 2, 4])
def test_every_form_with_keys_of_every_width(tmp_path: Path, form: Form, digits: int) -> None:
    samples = [*downloaded(3), failed("HTTP Error 404: Not Found"), *downloaded(2, 3)]
    root = tmp_path / "a #1"
    write_shard(root, 0, samples, form=form, digits=digits)
    write_shard(root, 12, downloaded(2, 7), form=form, digits=digits)
    records, rejections = split(Img2dataset(path=str(root), name="cc12m", license="?", split="train"))
    assert contents(records) == [s.data for s in [*samples, *downloaded(2, 7)] if s.data]
    assert [record.image_id for record in records] == [
        f"cc12m_{key}"
        for key in [f"00000{n:0{digits}d}" for n in (0, 1, 2, 4, 5)] + [f"00012{n:0{digits}d}" for n in (0, 1)]
    ]
    first = records[0]
    assert first.captions == ("photo number 0",) and (first.width, first.height) == (64, 48)
    assert (first.source, first.split, first.license) == ("cc12m", "train", "?")
    assert first.keys[0] == url_key("http://host/0.jpg") and first.keys[1].startswith("sha256:")
    place = {"webdataset": "00000.tar", "files": "00000", "parquet": "00000.parquet"}[form]
    assert rejections == [
        Rejection("cc12m", f"{place}: http://host/HTTP ", "not downloaded by img2dataset: HTTP 404", 1)
    ]
    assert all(record.uri.isascii() for record in records)


@pytest.mark.parametrize("form", FORMS)
def test_a_remote_folder_gives_the_same_pictures(tmp_path: Path, form: Form) -> None:
    write_shard(tmp_path / "out", 0, [*downloaded(3), failed("timed out")], form=form)
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path / "out"), f"/remote-{form}", recursive=True)
    here, _ = split(Img2dataset(path=str(tmp_path / "out")))
    there, rejections = split(Img2dataset(path=f"memory://remote-{form}"))
    assert contents(there) == contents(here) and len(there) == 3
    assert [(r.image_id, r.captions, r.keys) for r in there] == [(r.image_id, r.captions, r.keys) for r in here]
    assert all(record.uri.startswith("memory://") for record in there) and reasons(rejections) == {"timed out": 1}


def test_a_manifest_of_it_does_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    for number in range(12):
        write_shard(tmp_path / "a", number, downloaded(3, 3 * number), form="webdataset")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "moved")
    one = build([Img2dataset(path=str(tmp_path / "a"))], str(tmp_path / "a.parquet")).manifest
    two = build([Img2dataset(path=str(tmp_path / "b" / "moved"))], str(tmp_path / "b.parquet")).manifest
    assert [r.image_id for r in one.records()] == [r.image_id for r in two.records()] and len(one) == 36


def test_failures_are_counted_by_what_they_are(tmp_path: Path) -> None:
    messages = [
        "HTTP Error 404: Not Found", "HTTP Error 404: NOT FOUND", "HTTP Error 403: Forbidden", "timed out",
        "<urlopen error timed out>", "<urlopen error [Errno -2] Name or service not known>", "[Errno 104] Connection reset",
        "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "Use of image disallowed by X-Robots-Tag",
        "something else",
    ]  # fmt: skip
    samples = [failed(message) for message in messages]
    samples += [
        failed(m, "failed_to_resize") for m in ("image too small", "image decoding error", "aspect ratio too large")
    ]
    write_shard(tmp_path, 0, [*downloaded(1), *samples], form="webdataset")
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert len(records) == 1 and reasons(rejections) == {
        "HTTP 404": 2, "HTTP 403": 1, "timed out": 2, "no connection": 2, "TLS": 1, "opted out": 1, "other errors": 1,
        "not resized by img2dataset: picture too small": 1,
        "not resized by img2dataset: picture could not be decoded": 1,
        "not resized by img2dataset: aspect ratio too large": 1,
    }  # fmt: skip


def test_known_hosts_give_known_keys(tmp_path: Path) -> None:
    data = encode(picture(), "JPEG")
    urls = [
        "http://images.cocodataset.org/val2014/COCO_val2014_000000391895.jpg", "http://images.cocodataset.org/train2017/000000000009.jpg",
        "https://cs.stanford.edu/people/rak248/VG_100K_2/61512.jpg", "http://static.flickr.com/2723/4385058960_b0f291553e.jpg",
        "http://evil.example/cocodataset.org/val2014/000000000009.jpg",
    ]  # fmt: skip
    write_shard(tmp_path, 0, [Downloaded(url, "x", data) for url in urls], form="files")
    records, _ = split(Img2dataset(path=str(tmp_path)))
    assert [record.keys[1:-1] for record in records] == [
        ("coco:391895",), ("coco:9",), ("vg:61512",), ("flickr:4385058960",), (),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ captions


def test_captions_are_columns_and_lists_and_else_the_text_beside(tmp_path: Path) -> None:
    data = encode(picture(), "JPEG")
    samples = [
        Downloaded("u1", "one\n caption", data),
        Downloaded("u2", " ", data),
        Downloaded("u3", "x" * 20_000, data),
    ]
    write_shard(tmp_path / "a", 0, samples, form="webdataset")
    records, rejections = split(Img2dataset(path=str(tmp_path / "a")))
    assert [r.captions for r in records] == [("one caption",), (), ()]
    assert reasons(rejections) == {"caption of more than 10000 bytes": 1}
    table = pq.read_table(tmp_path / "a" / "00000.parquet").select(["key", "status", "caption"])
    lists = pa.array([["first", "second"], [], ["third", None]])
    pq.write_table(table.append_column("more", lists), tmp_path / "a" / "00000.parquet")
    source = Img2dataset(path=str(tmp_path / "a"), captions=("more", "caption"))
    assert [r.captions for r in split(source)[0]] == [("first", "second", "one caption"), (), ("third",)]
    pq.write_table(table.select(["key", "status"]), tmp_path / "a" / "00000.parquet")
    assert [r.captions for r in split(Img2dataset(path=str(tmp_path / "a")))[0]] == [("one caption",), (), ()]
    write_shard(tmp_path / "none", 0, downloaded(1), form="webdataset", captions=False)
    assert [r.captions for r in split(Img2dataset(path=str(tmp_path / "none")))[0]] == [()]


@pytest.mark.parametrize("form", ["webdataset", "files"])
def test_without_the_parquet_the_texts_beside_the_pictures_serve(tmp_path: Path, form: Form) -> None:
    write_shard(tmp_path, 0, [*downloaded(4), failed("HTTP Error 404: x"), failed("HTTP Error 404: y")], form=form)
    whole, _ = split(Img2dataset(path=str(tmp_path)))
    (tmp_path / "00000.parquet").rename(tmp_path / "away")
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert records == whole and reasons(rejections) == {"HTTP 404": 2}
    (tmp_path / "00000.parquet").write_bytes((tmp_path / "away").read_bytes()[:-20])
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert records == whole and reasons(rejections) == {BROKEN_TABLE: 1, "HTTP 404": 2}


def test_a_parquet_damaged_in_the_middle_gives_way_to_the_texts(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, downloaded(250), form="files")
    whole, _ = split(Img2dataset(path=str(tmp_path)))
    data = bytearray((tmp_path / "00000.parquet").read_bytes())
    group = pq.ParquetFile(tmp_path / "00000.parquet").metadata.row_group(1).column(0)
    data[group.dictionary_page_offset : group.dictionary_page_offset + 400] = b"\xff" * 400
    (tmp_path / "00000.parquet").write_bytes(data)
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert sorted(r.image_id for r in records) == sorted(r.image_id for r in whole)
    assert {r.captions for r in records} == {r.captions for r in whole}
    assert [r.reason for r in rejections] == [BROKEN_TABLE]


# ------------------------------------------------------------------------------------------------ damaged


@pytest.mark.parametrize("left", [1, 511, 512, 5000, 30_000])
def test_of_a_tar_cut_short_what_is_whole_is_kept(tmp_path: Path, left: int) -> None:
    samples = downloaded(20)
    write_shard(tmp_path, 0, samples, form="webdataset")
    write_shard(tmp_path, 1, downloaded(2, 50), form="webdataset")
    whole, _ = split(Img2dataset(path=str(tmp_path)))
    tar = tmp_path / "00000.tar"
    last = split_part(whole[19].uri)[1].end  # type: ignore[union-attr]
    tar.write_bytes(tar.read_bytes()[: last - left])
    for parquet in (True, False):
        if not parquet:
            (tmp_path / "00000.parquet").unlink()
        records, rejections = split(Img2dataset(path=str(tmp_path)))
        addresses = {r.uri for r in records}
        kept = [r for r in whole if r.uri in addresses]
        assert len(records) == len(kept) and 2 < len(kept) < 22 and kept[-2:] == whole[-2:]
        # Of the last one in the cut tar only the picture may be whole.
        assert records[:-3] == kept[:-3] and (records == kept or not parquet)
        assert contents(kept[:-2]) == [sample.data for sample in samples[: len(kept) - 2]]
        assert reasons(rejections).get(CUT) == 1 and reasons(rejections).get(ABSENT, 0) == (22 - len(kept)) * parquet


def test_a_tar_that_ends_at_a_member_is_known_to_be_cut(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, downloaded(3), form="webdataset")
    tar = tmp_path / "00000.tar"
    tar.write_bytes(tar.read_bytes().rstrip(b"\0"))
    tar.write_bytes(tar.read_bytes() + bytes(-tar.stat().st_size % 512))
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert len(records) == 3 and reasons(rejections) == {CUT: 1}


def test_damage_in_the_middle_keeps_what_is_before_it(tmp_path: Path) -> None:
    samples = downloaded(6)
    write_shard(tmp_path, 0, samples, form="webdataset")
    whole, _ = split(Img2dataset(path=str(tmp_path)))
    tar = tmp_path / "00000.tar"
    data = bytearray(tar.read_bytes())
    header = split_part(whole[3].uri)[1].start - 512  # type: ignore[union-attr]
    data[header + 130] ^= 1
    tar.write_bytes(data)
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert records == whole[:3] and reasons(rejections) == {DAMAGED: 1, ABSENT: 3}


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", NOT_A_TAR), (b"<html>", NOT_A_TAR), (b"x" * 5000, NOT_A_TAR), (gzip.compress(os.urandom(3000)), COMPRESSED)],
)
def test_what_is_no_tar_is_said(tmp_path: Path, data: bytes, reason: str) -> None:
    write_shard(tmp_path, 0, downloaded(1), form="webdataset")
    (tmp_path / "00001.tar").write_bytes(data)
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert len(records) == 1 and [(r.what.split(":")[0], r.reason) for r in rejections] == [("00001.tar", reason)]


def test_members_that_lead_out_or_are_no_files_are_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        add(tar, "../out.jpg", b"x")
        add(tar, "/etc/out.jpg", b"x")
        add(tar, "a/../../out.jpg", b"x")
        for kind, name in (
            (tarfile.SYMTYPE, "1"),
            (tarfile.LNKTYPE, "2"),
            (tarfile.CHRTYPE, "3"),
            (tarfile.FIFOTYPE, "4"),
        ):
            add(tar, f"{name}.jpg", b"", type=kind, linkname="/etc/passwd")
        add(tar, "folder", b"", type=tarfile.DIRTYPE)
        add(tar, "fine..jpg", b"two dots")
        add(tar, "good.jpg", b"good")
        add(tar, "good.JPG", b"again")
        add(tar, "./sub/x.PNG", b"png")
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert contents(records) == [b"two dots", b"good", b"png"]
    assert reasons(rejections) == {OUTSIDE: 3, NOT_A_FILE: 4, "second picture of one sample": 1}
    assert {r.what for r in rejections} == {"00000.tar: ../out.jpg", "00000.tar: 1.jpg", "00000.tar: good.JPG"}


def test_links_and_pipes_in_a_folder_of_files(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, downloaded(2), form="files")
    os.mkfifo(tmp_path / "00000" / "000000007.jpg")
    (tmp_path / "00000" / "000000008.jpg").symlink_to("nowhere")
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert len(records) == 2 and [r.count for r in rejections] == [2]


# ------------------------------------------------------------------------------------------------ other tars


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_webdataset_tars_of_others(tmp_path: Path, kind: int) -> None:
    names = [
        "a b.jpg",
        "ünï/é.png",
        "deep/" * 15 + "x.webp",
        "0001.jp2",
        f"{'long' * 20}.seg.png",
        f"{'long' * 20}.jpg",
    ]
    if kind != tarfile.USTAR_FORMAT:
        names += [f"{'folder/' * 40}{'n' * 150}.jpeg", f"{'名前' * 60}.bmp"]
    for shard in ("train-0", "train-1"):
        with tarfile.open(tmp_path / f"{shard}.tar", "w", format=kind) as tar:
            for name in names:
                add(tar, name, f"{shard} {name}".encode(), mtime=7)
                add(tar, f"{name.partition('.')[0]}.cls", b"7", mtime=7)
    records, rejections = split(Img2dataset(path=str(tmp_path), name="others", picture=None))
    # Of the sample with a mask the first picture is used; `picture` says otherwise.
    expected = [f"{shard} {name}".encode() for shard in ("train-0", "train-1") for name in names if name != names[5]]
    assert contents(records) == expected and reasons(rejections) == {"second picture of one sample": 1}
    assert len({r.image_id for r in records}) == len(records) == 2 * (len(names) - 1)
    assert records[3].image_id == "others_train-0_0001"
    chosen, rejections = split(Img2dataset(path=str(tmp_path), picture=".JPG"))
    assert len(chosen) == 4 and rejections == []


def test_sizes_beyond_eight_gigabytes(tmp_path: Path) -> None:
    """A sparse file: a member of 9 GB that is skipped, whose size no octal field can hold."""
    for kind, name in ((tarfile.GNU_FORMAT, "gnu"), (tarfile.PAX_FORMAT, "pax")):
        with (tmp_path / f"{name}.tar").open("wb") as file:
            big = tarfile.TarInfo("big.bin")
            big.size = 9 << 30
            file.write(big.tobuf(kind))
            file.seek(9 << 30, os.SEEK_CUR)
            with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
                add(tar, "a.jpg", b"behind it")
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert contents(records) == [b"behind it"] * 2 and rejections == []


def test_headers_are_read_and_pictures_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for n in range(50):
            add(tar, f"{n:09d}.jpg", bytes(1_000_000))
    read: list[int] = []
    pread = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        read.append(size)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert len(split(Img2dataset(path=str(tmp_path)))[0]) == 50
    assert sum(read) < 55 * 8192 and len(read) <= 52


# ------------------------------------------------------------------------------------------------ folders


def test_several_runs_below_one_folder_keep_their_keys_apart(tmp_path: Path) -> None:
    for part in ("part-1", "part-2"):
        write_shard(tmp_path / part, 0, downloaded(2), form="webdataset")
        write_shard(tmp_path / part, 1, downloaded(2, 2), form="files")
    (tmp_path / "_tmp").mkdir()
    records, rejections = split(Img2dataset(path=str(tmp_path), name="web"))
    assert [r.image_id for r in records[:3]] == ["web_part-1_000000000", "web_part-1_000000001", "web_part-1_000010000"]
    assert len({r.image_id for r in records}) == 8 and rejections == []


def test_links_in_circles_and_folders_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "part", 0, downloaded(2), form="files")
    (tmp_path / "part" / "again").symlink_to(tmp_path)
    (tmp_path / "secret").mkdir()
    (tmp_path / "part" / "00000.parquet").unlink()
    refused = {str(tmp_path / "secret"), str(tmp_path / "part" / "00000" / "000000000.json")}
    scandir, opening = os.scandir, open

    def guarded(real: Any) -> Any:
        def call(path: Any, *args: Any, **more: Any) -> Any:
            if str(path) in refused:
                raise PermissionError(13, "Permission denied")
            return real(path, *args, **more)

        return call

    monkeypatch.setattr(os, "scandir", guarded(scandir))
    monkeypatch.setattr("builtins.open", guarded(opening))
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert len(records) == 2 and records[0].captions == ("photo number 0",)
    assert {(r.what, r.reason) for r in rejections} == {
        ("part/again", "link back to a folder around it"), ("secret", "unreadable folder (Permission denied)"),
        ("part/00000: 000000000.json", "unreadable text beside a picture (Permission denied)"),
    }  # fmt: skip


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, downloaded(3), form="webdataset")
    (tmp_path / "00000.tar").unlink()
    (tmp_path / "00001.tar.gz").write_bytes(b"x")
    (tmp_path / "00002.tfrecord").write_bytes(b"x")
    (tmp_path / "00003.parquet").write_bytes(b"x")
    pq.write_table(pa.table({"url": ["u"]}), tmp_path / "00004.parquet")
    (tmp_path / "readme.md").write_text("x")
    records, rejections = split(Img2dataset(path=str(tmp_path)))
    assert records == []
    assert [(r.what, r.reason.split(":")[0].split(",")[0].split(";")[0], r.count) for r in rejections] == [
        ("00000.parquet", NO_PICTURES.split(":")[0], 3), ("00001.tar.gz", "compressed tar", 1), ("00002.tfrecord", "TFRecord", 1),
        ("00003.parquet", "unreadable Parquet", 1), ("00004.parquet", "unreadable Parquet", 1),
    ]  # fmt: skip


def test_a_folder_without_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no shard of img2dataset in this folder"):
        split(Img2dataset(path=str(tmp_path)))
    with pytest.raises(ValueError, match="does not exist"):
        split(Img2dataset(path=str(tmp_path / "none")))
    for wrong in (
        {"path": ""},
        {"path": "/x", "pictures": "jpg"},
        {"path": "/x", "name": ""},
        {"path": "/x", "picture": ""},
    ):
        with pytest.raises(ValidationError):
            Img2dataset.model_validate(wrong)


# ------------------------------------------------------------------------------------------------ the real thing

SAMPLES = Path(os.environ.get("EXPERT_LABELS_ANNOTATIONS", ROOT.parent / "shared" / "annotations")) / "img2dataset"


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no real output of img2dataset at {SAMPLES}")
def test_real_output_of_img2dataset() -> None:
    records, rejections = split(Img2dataset(path=str(SAMPLES / "output_webdataset")))
    assert len(records) == 24 and reasons(rejections) == {"HTTP 404": 1}
    assert records[0].image_id == "img2dataset_0000000" and records[-1].image_id == "img2dataset_0000108"
    lines = [line.split("\t") for line in (SAMPLES / "input_list.tsv").read_text().splitlines()[1:]]
    listed = {url_key(url): (" ".join(caption.split()),) for url, caption in lines}
    assert all(record.captions == listed[record.keys[0]] for record in records)
    assert all((r.width, r.height) == (256, 256) for r in records)
    assert all(data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9") for data in contents(records))
    with tarfile.open(SAMPLES / "output_webdataset" / "00001.tar") as tar:
        member: Any = tar.extractfile("0000108.jpg")
        assert contents(records[-1:]) == [member.read()]
    # Of the other form a few pictures were kept, all rows of the Parquet and the statistics.
    records, rejections = split(Img2dataset(path=str(SAMPLES / "output_files")))
    kept = sorted((SAMPLES / "output_files" / "00000").glob("*.jpg"))
    assert contents(records) == [path.read_bytes() for path in kept]
    stats = json.loads((SAMPLES / "output_files" / "00000_stats.json").read_text())
    assert reasons(rejections) == {"HTTP 404": 1, ABSENT: stats["successes"] - len(kept)}
