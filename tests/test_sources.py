"""Sources: folders of every kind of name, caption files, rendered scenes."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import fsspec
import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from manifests.build import build
from manifests.location import openable
from manifests.record import ID_PATTERN, ImageRecord, Rejection, path_id
from manifests.sources import AnySource, Coco, Folder, Scenes
from tests.source_contents import split


def put(root: Path, *names: str, content: bytes = b"photo") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def paths(root: Path, records: Sequence[ImageRecord]) -> list[str]:
    return [os.path.relpath(openable(r.uri), root) for r in records]


# ---- the job file's section


def test_the_job_file_chooses_a_source_by_its_name_and_refuses_what_it_does_not_know() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(AnySource)
    assert adapter.validate_python({"source": "folder", "path": "/x"}) == Folder(path="/x")
    assert adapter.validate_python({"source": "scenes", "count": 3, "seed": 1}) == Scenes(count=3, seed=1)
    assert isinstance(adapter.validate_python({"source": "coco", "images": "/x", "captions": "/y"}), Coco)
    for wrong in (
        {"source": "folders", "path": "/x"},
        {"source": "folder", "path": "/x", "pth": "/y"},
        {"source": "folder", "path": ""},
        {"source": "folder", "path": "/x", "captions": "captions.txt"},
        {"source": "coco", "images": "/x"},
        {"source": "coco", "images": "/x", "karpathy": "/y"},
        {"source": "coco", "images": "/x", "karpathy": "/y", "splits": ["training"]},
        {"source": "coco", "images": "/x", "karpathy": "/y", "splits": ["train"], "captions": "/z"},
        {"source": "coco", "images": "/x", "captions": "/y", "splits": ["train"]},
        {"source": "scenes", "count": 0, "seed": 1},
        {"source": "scenes", "count": 1, "seed": -1},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


# ---- folder


def test_folder_finds_all_formats_in_any_letter_case_below_the_folder_in_byte_order(tmp_path: Path) -> None:
    put(tmp_path, "b.JPG", "a.jpeg", "Z.png", "sub/x.WebP", "sub/deep/y.bmp", "sub.tif", "é.tiff", "z.GIF", "q.jpe")
    put(tmp_path, "notes.txt", "movie.mp4", ".hidden.jpg", ".git/x.jpg", "jpg", "sub/.jpg", "x.jpg.part")
    records, rejections = split(Folder(path=str(tmp_path), license="CC0", split="train"))
    assert paths(tmp_path, records) == [
        "Z.png", "a.jpeg", "b.JPG", "q.jpe", "sub/deep/y.bmp", "sub/x.WebP", "sub.tif", "z.GIF", "é.tiff",
    ]  # fmt: skip
    assert rejections == []
    assert {(r.source, r.license, r.split, r.captions, r.width) for r in records} == {
        ("folder", "CC0", "train", (), None)
    }


def test_folder_keeps_unicode_blanks_newlines_and_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    names = [b"caf\xc3\xa9 \xe7\x8c\xab.jpg", b"two words.png", b"new\nline.jpg", b"broken\xff\xfe.jpg"]
    names += [b"per%20cent.jpg", b"a#b?c;d.jpg", b"a::b*[c].jpg", b"q\"uo'te\\.jpg", b"-dash.jpg"]
    for name in names:
        for folder in (b"", b"dir\xff x/"):
            put(tmp_path, os.fsdecode(folder + name), content=name)
    records, rejections = split(Folder(path=str(tmp_path)))
    assert len(records) == 2 * len(names) and rejections == []
    assert len({r.image_id for r in records}) == 2 * len(names)
    for r in records:
        assert r.uri.isascii() and not set(" \n#?") & set(r.uri)
        assert ID_PATTERN.fullmatch(r.image_id)
        read_back = Path(openable(r.uri)).read_bytes()
        assert read_back == unquote_to_bytes(r.uri.rpartition("/")[2]) and read_back in names
        assert r.uri == Path(openable(r.uri)).as_uri()
    manifest = build([Folder(path=str(tmp_path))], str(tmp_path / "m.parquet")).manifest
    assert sorted(r.uri for r in manifest.records()) == sorted(r.uri for r in records)


def test_folder_follows_links_but_never_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "a/one.jpg", "b/two.jpg")
    put(tmp_path, "outside/three.jpg")
    (root / "link.jpg").symlink_to(root / "a" / "one.jpg")
    (root / "outside").symlink_to(tmp_path / "outside")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "to_b").symlink_to(root / "b")
    (root / "b" / "to_a").symlink_to(root / "a")
    (root / "self").symlink_to(root / "self")
    (root / "self.jpg").symlink_to(root / "self.jpg")
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    os.mkfifo(root / "pipe.jpg")
    records, rejections = split(Folder(path=str(root)))
    assert paths(root, records) == [
        "a/one.jpg", "a/to_b/two.jpg", "b/to_a/one.jpg", "b/two.jpg", "link.jpg", "outside/three.jpg",
    ]  # fmt: skip
    circles = [r.what.removeprefix(root.as_uri()) for r in rejections if r.reason == "link back to a folder around it"]
    assert circles == ["/a/to_b/to_a", "/a/up", "/b/to_a/to_b", "/b/to_a/up"]
    others = [r.what.removeprefix(root.as_uri()) for r in rejections if r.reason.startswith("not a file")]
    assert others == ["/gone.jpg", "/pipe.jpg", "/self.jpg"]


def test_folder_walks_into_a_directory_named_like_a_photo(tmp_path: Path) -> None:
    put(tmp_path, "x.jpg/inside.png", "y.jpg")
    records, rejections = split(Folder(path=str(tmp_path)))
    assert paths(tmp_path, records) == ["x.jpg/inside.png", "y.jpg"] and rejections == []


def test_folder_reports_a_directory_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "good/a.jpg", "locked/b.jpg", "z.jpg")
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    records, rejections = split(Folder(path=str(tmp_path)))
    assert paths(tmp_path, records) == ["good/a.jpg", "z.jpg"]
    assert rejections == [Rejection("folder", (tmp_path / "locked").as_uri(), "unreadable folder (Permission denied)")]


def test_folder_that_is_not_there_is_empty_or_is_a_file(tmp_path: Path) -> None:
    put(tmp_path, "file.jpg", "empty/readme.txt")
    with pytest.raises(ValueError, match="nowhere does not exist; expected a folder"):
        list(Folder(path=str(tmp_path / "nowhere")).batches())
    with pytest.raises(ValueError, match="is not a folder"):
        list(Folder(path=str(tmp_path / "file.jpg")).batches())
    with pytest.raises(ValueError, match="does not exist or is not a folder"):
        list(Folder(path="memory://nowhere/at/all").batches())
    with pytest.raises(ValueError, match="cannot open nonsense://x.*expected a local path or a URL"):
        list(Folder(path="nonsense://x").batches())
    with pytest.raises(ValueError, match="no image found in the sources .*empty.*nothing was rejected"):
        build([Folder(path=str(tmp_path / "empty"))], str(tmp_path / "m.parquet"))


def test_folder_takes_home_and_file_urls_and_paths_that_look_like_globs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "ph otos[1]*/a.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = (tmp_path / "ph otos[1]*" / "a.jpg").as_uri()
    for path in ("~/ph otos[1]*", str(tmp_path / "ph otos[1]*"), (tmp_path / "ph otos[1]*").as_uri()):
        assert [r.uri for r in split(Folder(path=path))[0]] == [expected]


def test_folder_behind_a_url_gives_the_same_ids_in_the_same_order(tmp_path: Path) -> None:
    names = ["b.jpg", "a b.jpg", "sub/é%20.png", "sub/x.jpg/y.gif", "sub/.hidden.jpg", "sub.png", "z/readme.md"]
    put(tmp_path, *names)
    memory = fsspec.filesystem("memory")
    for name in names:
        memory.pipe(f"/remote folder/{name}", name.encode())
    memory.pipe("/remote folder/b.txt", b"a remote caption")
    put(tmp_path, "b.txt", content=b"a remote caption")
    here, there = split(Folder(path=str(tmp_path)))[0], split(Folder(path="memory://remote folder"))[0]
    assert [(r.image_id, r.captions) for r in here] == [(r.image_id, r.captions) for r in there]
    assert len(there) == 5
    for r in there:
        assert r.uri.isascii() and " " not in r.uri
        with fsspec.open(openable(r.uri), "rb") as stream:
            assert path_id(stream.read().decode()) == r.image_id


def test_two_folders_with_the_same_names_need_names_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, "one/a.jpg", "two/a.jpg")
    clash = build([Folder(path=str(tmp_path / name)) for name in ("one", "two")], str(tmp_path / "m.parquet"))
    assert clash.images == {"folder": 1}
    assert [r.reason for r in clash.rejections] == ["duplicate id, another record was kept"]
    named = [Folder(path=str(tmp_path / name), name=name) for name in ("one", "two")]
    report = build(named, str(tmp_path / "m.parquet"))
    assert report.images == {"one": 1, "two": 1} and report.rejections == ()
    assert report.manifest.fingerprint == build(named[::-1], str(tmp_path / "n.parquet")).manifest.fingerprint


# ---- captions of a folder


def test_sidecars_give_a_caption_a_line_folded(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    put(tmp_path, "a.txt", content="\ufeff a  cat\ton a\u00a0mat \r\n\r\n   \nzwei Kätzchen".encode())
    put(tmp_path, "b.TXT", content=b"upper case ending")
    put(tmp_path, "c.txt", content=b"latin \xe9")
    put(tmp_path, "d.txt", content=b"x" * (1 << 20) + b"y")
    records, rejections = split(Folder(path=str(tmp_path)))
    assert [r.captions for r in records] == [
        ("a cat on a mat", "zwei Kätzchen"), ("upper case ending",), (), (), (),
    ]  # fmt: skip
    assert [(r.what.rsplit("/", 1)[1], r.reason) for r in rejections] == [
        ("c.txt", "captions are not UTF-8"),
        ("d.txt", "captions of more than 1048576 bytes"),
    ]
    assert all(not r.captions for r in split(Folder(path=str(tmp_path), captions="none"))[0])


JSONL = """\ufeff{"file": "a.jpg", "caption": " a cat\\n on a mat "}

{"file": "./sub/b.jpg", "caption": ["one", "", "two \\ud83d"], "extra": 1}
{"file": "a.jpg", "caption": "again"}
{"file": "gone\\n.jpg", "caption": ["x", "y"]}
"""
CSV = '\ufefffile,n,caption\r\na.jpg,1," a cat\n on a mat "\r\n\r\nsub/b.jpg,2,one\r\nsub/b.jpg,3,\r\n'
CSV += 'sub/b.jpg,4,two \ufffd\r\na.jpg,5,again\r\n"gone\n.jpg",6,x\r\n"gone\n.jpg",7,"y"\r\n'


@pytest.mark.parametrize(("name", "text", "lines"), [("c.jsonl", JSONL, (5, 5)), ("c.CSV", CSV, (9, 11))])
def test_caption_files_give_captions_by_relative_path(
    tmp_path: Path, name: str, text: str, lines: tuple[int, int]
) -> None:
    put(tmp_path, "photos/a.jpg", "photos/sub/b.jpg", "photos/sub/c.jpg")
    put(tmp_path, "photos/a.txt", content=b"a sidecar that is not asked for")
    put(tmp_path, name, content=text.encode())
    captions = str(tmp_path / name)
    records, rejections = split(Folder(path=str(tmp_path / "photos"), captions=captions))
    assert [r.captions for r in records] == [("a cat on a mat", "again"), ("one", "two \ufffd"), ()]
    reason = "caption of a photo that is not there"
    assert rejections == [Rejection("folder", f"{captions}, line {line}: gone\n.jpg", reason) for line in lines]


def test_a_caption_file_reaches_a_photo_whose_name_is_not_utf8(tmp_path: Path) -> None:
    put(tmp_path, os.fsdecode(b"x\xff.jpg"))
    put(tmp_path, "c.jsonl", content=b'{"file": "x\\udcff.jpg", "caption": "found"}')
    records, _ = split(Folder(path=str(tmp_path), captions=str(tmp_path / "c.jsonl")))
    assert [r.captions for r in records] == [("found",)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "c.jsonl",
            b'{"file": "a.jpg", "caption": "x"}\n{"file": "a.jpg", "capt',
            "c.jsonl, line 2, column 19: broken",
        ),
        ("c.jsonl", b'{"file": "a.jpg"}\n', "c.jsonl, line 1: expected"),
        ("c.jsonl", b'\n["a.jpg", "x"]\n', "c.jsonl, line 2: expected"),
        ("c.jsonl", b'{"file": "a.jpg", "caption": ["x", 1]}', "c.jsonl, line 1: expected"),
        ("c.jsonl", b'{"file": 1, "caption": "x"}', "c.jsonl, line 1: expected"),
        ("c.jsonl", b'{"file": "a.jpg", "caption": "ok"}\n{"file": "\xff', "c.jsonl, line 2: byte 11 is not UTF-8"),
        ("c.jsonl", b'{"file": "\\ud83d.jpg", "caption": "x"}', "c.jsonl, line 1: .* cannot be a file name"),
        ("c.csv", b"", "c.csv, line 1: no column file and no column caption"),
        ("c.csv", b"file,text\na.jpg,x\n", "c.csv, line 1: no column caption in the header 'file,text'"),
        ("c.csv", b"file,caption\na.jpg,x\na.jpg\n", "c.csv, line 3: 1 columns where the header has 2"),
        ("c.csv", b'file,caption\na.jpg,"x\nb.jpg,y\n', "c.csv: the CSV row that begins in line 2 is broken"),
        ("c.csv", b"file,caption\na.jpg,\xe9\n", "c.csv, line 2: byte 7 is not UTF-8"),
    ],
)
def test_a_broken_caption_file_is_an_error_that_names_file_and_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    put(tmp_path, "a.jpg")
    put(tmp_path, name, content=content)
    with pytest.raises(ValueError, match=message):
        list(Folder(path=str(tmp_path), captions=str(tmp_path / name)).batches())


def test_a_caption_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*nowhere\.csv: No such file"):
        list(Folder(path=str(tmp_path), captions=str(tmp_path / "nowhere.csv")).batches())


def test_folder_memory_does_not_grow_with_photos_and_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight times the photos, and 3 MB more of captions, in folders of one size."""
    monkeypatch.setattr("manifests.record.BATCH_BYTES", 100_000)
    peaks = []
    for folders in (5, 40):
        root = tmp_path / str(folders)
        put(root, *(f"{folder}/{photo}.jpg" for folder in range(folders) for photo in range(50)))
        with (tmp_path / f"{folders}.csv").open("w") as stream:
            stream.write("file,caption\n")
            stream.writelines(f"{f}/{p}.jpg,{'word ' * 400}\n" for f in range(folders) for p in range(50))
        source = Folder(path=str(root), captions=str(tmp_path / f"{folders}.csv"))
        tracemalloc.start()
        assert (
            sum(len(f.column("captions").flatten()) for f in source.batches() if isinstance(f, pa.RecordBatch))
            == folders * 50
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000, peaks


# ---- scenes


def test_scenes_have_ids_uris_sizes_and_captions() -> None:
    records, rejections = split(Scenes(count=3, seed=7, start=11, size=64))
    assert [r.image_id for r in records] == ["scene_7_000011", "scene_7_000012", "scene_7_000013"]
    assert rejections == [] and len({r.uri for r in records}) == 3
    assert all(r.uri.startswith("scenes://") and r.uri.isascii() for r in records)
    assert all((r.width, r.height, r.source) == (64, 64, "scenes") and len(r.captions) >= 2 for r in records)
    assert split(Scenes(count=1, seed=7, start=12, size=64))[0] == [records[1]]
