"""Tables: CSV, TSV, JSON lines and Parquet of images and captions, in every shape that people keep them in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from manifests.location import openable
from manifests.record import url_key
from manifests.sources import Table
from manifests.sources.table import NO_PART
from manifests.sources.web import NOT_FETCHED
from tests.source_contents import split

URLS = [f"https://example.com/{n}.jpg" for n in range(4)]
ROWS = [(URLS[0], "one"), (URLS[1], 'a "quoted" word, and a comma'), (URLS[2], "  three  é ")]
CAPTIONS = ["one", 'a "quoted" word, and a comma', "three é"]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def csv_of(path: Path) -> str:
    return write(
        path, "n,url,caption\r\n" + "".join('{},{},"{}"\r\n'.format(0, u, c.replace('"', '""')) for u, c in ROWS)
    )


def tsv_of(path: Path) -> str:
    return write(path, "caption\turl\n" + "".join(f"{c}\t{u}\n" for u, c in ROWS))


def jsonl_of(path: Path) -> str:
    return write(path, "\n\n".join(json.dumps({"url": u, "caption": c, "other": [1]}) for u, c in ROWS))


def parquet_of(path: Path) -> str:
    urls = pa.array([u for u, _ in ROWS], pa.large_string())
    captions = pa.array([c for _, c in ROWS]).dictionary_encode()
    pq.write_table(pa.table({"id": [1, 2, 3], "url": urls, "caption": captions}), path, row_group_size=2)
    return str(path)


@pytest.mark.parametrize(
    ("name", "make"), [("t.csv", csv_of), ("t.TSV", tsv_of), ("t.ndjson", jsonl_of), ("t.parquet", parquet_of)]
)
def test_all_kinds_of_files_give_the_same_records(tmp_path: Path, name: str, make: Callable[[Path], str]) -> None:
    source = Table(path=make(tmp_path / name), fetch=True, split="train", license="CC0")
    records, rejections = split(source)
    assert [(r.uri, r.captions[0]) for r in records] == list(zip(URLS, CAPTIONS, strict=False)) and rejections == []
    assert {(r.source, r.split, r.license) for r in records} == {("table", "train", "CC0")}
    assert records[0].image_id.startswith("web_") and records[0].keys == (url_key(URLS[0]),)
    _, refused = split(source.model_copy(update={"fetch": False}))
    assert [(r.reason, r.count) for r in refused] in ([(NOT_FETCHED, 3)], [(NOT_FETCHED, 2), (NOT_FETCHED, 1)])
    for column, there in (("image", "link"), ("caption", "text"), ("id", "number")):
        with pytest.raises(ValueError, match=f"{name} has no column '{there}'; it has .*url.*: say which by `image`"):
            split(source.model_copy(update={column: there}))


def test_paths_urls_and_ids_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    (tmp_path / "photos" / "sub" / "é.jpg").write_bytes(b"photo")
    root = tmp_path / "photos"
    places = [
        "sub/é.jpg",
        str(root / "sub/é.jpg"),
        "s3://bucket/a b.jpg",
        (root / "x y.jpg").as_uri(),
        URLS[0],
        "../up.jpg",
        "",
        "gone.jpg",
        "/etc/passwd",
    ]
    rows = [
        {"file": place, "text": [f"c{n}", "", "more"], "key": None if n else "My-Id"} for n, place in enumerate(places)
    ]
    path = write(tmp_path / "t.jsonl", "\n".join(json.dumps(row) for row in rows))
    source = Table(path=path, image="file", caption="text", id="key", images=str(root), fetch=True, check_files=True)
    records, rejections = split(source)
    assert [(r.uri, r.captions) for r in records] == [
        ((root / "sub/é.jpg").as_uri(), ("c0", "more")),
        ((root / "sub/é.jpg").as_uri(), ("c1", "more")),
        ("s3://bucket/a%20b.jpg", ("c2", "more")),
        ((root / "x y.jpg").as_uri(), ("c3", "more")),
        (URLS[0], ("c4",)),
        (URLS[0], ("more",)),
    ]
    assert openable(records[2].uri) == "s3://bucket/a b.jpg"
    assert records[0].image_id == "My-Id" and records[1].image_id.startswith("sub-")
    reasons = [
        (r.what.rsplit("line ", 1)[1].split(":")[0], r.reason) for r in rejections if r.reason != "empty caption"
    ]
    outside = "file name leads out of the image folder"
    assert reasons == [("6", outside), ("7", "row without an image"), ("8", "image file is missing"), ("9", outside)]
    assert sum(r.reason == "empty caption" for r in rejections) == 5
    alone = Table(path=path, image="file", caption=None)
    assert [r.captions for r in split(alone)[0]] == [()] * 4
    assert [r.reason for r in split(alone)[1]].count("relative path, and no `images` to look below") == 3


def test_ids_do_not_change_when_the_folder_moves_but_with_the_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "t.csv", "url,caption\nx/y.jpg,c\n")
    found = [
        split(Table(path=str(tmp_path / f / "t.csv"), images=str(tmp_path / f)))[0][0].image_id for f in ("a", "b")
    ]
    other = Table(path=str(tmp_path / "a" / "t.csv"), images=str(tmp_path / "a"), name="other")
    assert found[0] == found[1] != split(other)[0][0].image_id


def test_parquet_of_lists_of_captions(tmp_path: Path) -> None:
    captions = pa.array([["a", "b"], [], None, ["c"]], pa.large_list(pa.large_string()))
    pq.write_table(pa.table({"url": URLS, "caption": captions}), tmp_path / "t.parquet")
    records, rejections = split(Table(path=str(tmp_path / "t.parquet"), fetch=True))
    assert [(r.uri, r.captions) for r in records] == [(URLS[0], ("a",)), (URLS[0], ("b",)), (URLS[3], ("c",))]
    assert [(r.what.split(", row ")[1].split(":")[0], r.reason) for r in rejections] == [
        ("1", "empty caption"),
        ("2", "empty caption"),
    ]
    records, _ = split(Table(path=str(tmp_path / "t.parquet"), caption=None, fetch=True))
    assert [r.captions for r in records] == [()] * 4


def test_a_folder_of_files_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name, url in (("part-1.csv", URLS[1]), ("part-0.csv", URLS[0])):
        write(tmp_path / name, f"url,caption\n{url},c\n")
    write(tmp_path / ".hidden.csv", "nothing")
    write(tmp_path / "_SUCCESS", "")
    assert [r.uri for r in split(Table(path=str(tmp_path), fetch=True))[0]] == URLS[:2]
    write(tmp_path / "x.jsonl", "")
    with pytest.raises(ValueError, match="files of csv, jsonl in this folder; expected"):
        split(Table(path=str(tmp_path)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no csv, tsv, jsonl, ndjson, parquet file in this folder"):
        split(Table(path=str(tmp_path / "empty")))
    with pytest.raises(ValueError, match=r"nowhere does not exist"):
        split(Table(path=str(tmp_path / "nowhere")))


def test_quotes_in_tsv_are_letters_unless_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", f'"an open quote\t{URLS[0]}\nnext\t{URLS[1]}\n')
    options: dict[str, Any] = {"path": path, "columns": ("caption", "url"), "fetch": True}
    assert [r.captions for r in split(Table(**options))[0]] == [('"an open quote',), ("next",)]
    write(tmp_path / "t.tsv", f'"two\nlines and a\ttab"\t{URLS[0]}\n')
    assert [r.captions for r in split(Table(**options, quotes=True))[0]] == [("two lines and a tab",)]
    with pytest.raises(ValidationError, match=r"columns \['a', 'b'\] lack url, caption"):
        Table(path=path, columns=("a", "b"))


def test_rows_that_cannot_be_used_are_rejected_one_by_one(tmp_path: Path) -> None:
    csv = (
        b"url,caption\n"
        + URLS[0].encode()
        + b",good\nonly-one\n"
        + URLS[1].encode()
        + b",caf\xe9\na,b,c\n"
        + URLS[2].encode()
        + b",\n"
    )
    records, rejections = split(Table(path=write(tmp_path / "t.csv", csv), fetch=True))
    assert [r.captions for r in records] == [("good",)]
    assert sorted((r.what.split("t.csv, ")[1].split(":")[0], r.reason) for r in rejections) == [
        ("line 3", "row with another number of columns than the header"),
        ("line 5", "row with another number of columns than the header"),
        ("row 2", "caption is not UTF-8"),
        ("row 3", "empty caption"),
    ]
    jsonl = (
        json.dumps({"url": URLS[0], "caption": "good"}).encode()
        + b'\n{"url":\n[1]\n{"url": "'
        + URLS[1].encode()
        + b'", "caption": "caf\xe9"}\n'
    )
    jsonl += b'{"caption": "no image"}\n' + json.dumps({"url": URLS[2], "caption": "w" * 100_000}).encode()
    records, rejections = split(Table(path=write(tmp_path / "t.jsonl", jsonl), fetch=True))
    assert [r.captions for r in records] == [("good",)]
    assert sorted((r.what.split("line ")[1].split(":")[0], r.reason) for r in rejections) == [
        ("2", "line that is no JSON object"),
        ("3", "line that is no JSON object"),
        ("4", "caption is not UTF-8"),
        ("5", "row without an image"),
        ("6", "caption of more than 10000 bytes"),
    ]


def test_files_broken_as_a_whole_are_one_clear_error(tmp_path: Path) -> None:
    good = Path(parquet_of(tmp_path / "good.parquet")).read_bytes()
    with pytest.raises(ValueError, match=r"cut.parquet: broken parquet .*is it cut short"):
        split(Table(path=write(tmp_path / "cut.parquet", good[: len(good) // 2])))
    numbers = pa.table({"url": [1, 2], "caption": ["a", "b"]})
    pq.write_table(numbers, tmp_path / "n.parquet")
    with pytest.raises(ValueError, match="n.parquet: column 'url' is of int64; expected text$"):
        split(Table(path=str(tmp_path / "n.parquet")))
    swapped = "url,caption\n" + "".join(f"caption {n},{url}\n" for n, url in enumerate(URLS))
    with pytest.raises(
        ValueError, match="4 of the first 4 rows have a URL for a caption; expected captions in column 'caption'"
    ):
        split(Table(path=write(tmp_path / "s.csv", swapped), fetch=True))
    assert split(Table(path=write(tmp_path / "empty.csv", ""))) == ([], [])


def test_members_of_tars_and_cells_of_parquet(tmp_path: Path) -> None:
    """A table may name parts of files, as manifests do; what looks like one and is none is said."""
    places = [
        "file:///d/a%20b.tar#bytes=512-900",
        "s3://b/a b.parquet#row=3&column=image.bytes",
        "file:///d/a.tar#bytes=9",
    ]
    (tmp_path / "list.csv").write_text("image,caption\n" + "".join(f"{place},x\n" for place in places))
    records, rejections = split(Table(path=str(tmp_path / "list.csv"), image="image"))
    assert [r.uri for r in records] == [places[0], "s3://b/a%20b.parquet#row=3&column=image.bytes"]
    assert [r.reason for r in rejections] == [NO_PART]
