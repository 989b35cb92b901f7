"""Lists of URLs: CC3M, CC12M, SBU, and entries of BLIP's lists; with everything that can be wrong with them."""

from __future__ import annotations

import json
from hashlib import blake2s
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from manifests.build import build
from manifests.record import ImageRecord, fold, url_key
from manifests.sources import CaptionList, Cc3m, Cc12m, Sbu
from manifests.sources.caption_text import CAPTION_BYTES, caption_of, captions_of
from manifests.sources.web import NOT_FETCHED
from tests.source_contents import split

URLS = [f"https://example.com/{n}.jpg" for n in range(4)]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def write_json(path: Path, content: object) -> str:
    return write(path, json.dumps(content))


def captions(records: list[ImageRecord]) -> list[str]:
    return [record.captions[0] for record in records]


# ---- captions


STRANGE = [
    "a  b",
    " a",
    "a ",
    "a\u00a0b",
    "a\u2028b",
    "a\x1fb",
    "a\x85b",
    "a\u3000",
    "é è",
    "a b",
    "\t",
    "",
    "a\nb",
    "a\u200bb",
]


def test_whole_columns_of_captions_are_folded_as_single_ones_are() -> None:
    import pyarrow as pa

    texts = [*STRANGE, "x" * (CAPTION_BYTES + 1), "é" * (CAPTION_BYTES // 2 + 1), "y" * CAPTION_BYTES]
    folded, refused = captions_of(pa.array(texts, pa.string()))
    for row, text in enumerate(texts):
        reason = next((reason for reason, mask in refused.items() if mask[row].as_py()), "")
        assert (folded[row].as_py() if not reason else "", reason) == caption_of(text), repr(text)
        assert reason or folded[row].as_py() == fold(text)
    assert caption_of("caf\udce9") == ("", "caption is not UTF-8") and caption_of("a\ud83d") == ("a\ufffd", "")


# ---- CC3M and CC12M


def test_cc3m_is_caption_tab_url_and_quotes_are_letters(tmp_path: Path) -> None:
    lines = [f'"a quoted" start\t{URLS[0]}', f'she said "never\t{URLS[1]}', f"it 's  a dog .\t{URLS[2]}"]
    source = Cc3m(path=write(tmp_path / "Train_GCC-training.tsv", "\n".join(lines) + "\n"), fetch=True, split="train")
    records, rejections = split(source)
    assert captions(records) == ['"a quoted" start', 'she said "never', "it 's a dog ."] and rejections == []
    assert records[0] == ImageRecord(
        image_id=f"cc3m_{blake2s(URLS[0].encode(), digest_size=6).hexdigest()}",
        source="cc3m",
        uri=URLS[0],
        captions=('"a quoted" start',),
        split="train",
        keys=(url_key(URLS[0]),),
    )


def test_cc12m_is_url_tab_caption_and_a_header_is_no_row(tmp_path: Path) -> None:
    text = f"\ufeffurl\tcaption\r\n{URLS[0]}\t<PERSON> in a red coat\r\n\r\nhttp://e.org/ä b.jpg?x=1#top\tlast, without an end"
    records, rejections = split(Cc12m(path=write(tmp_path / "cc12m.tsv", text), fetch=True))
    assert captions(records) == ["<PERSON> in a red coat", "last, without an end"] and rejections == []
    assert [record.uri for record in records] == [URLS[0], "http://e.org/%C3%A4%20b.jpg?x=1"]
    assert records[1].keys == (url_key("http://e.org/ä b.jpg?x=1#top"),)


def test_the_same_url_is_the_same_image_wherever_the_file_lies(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    found = [
        split(Cc3m(path=write(tmp_path / name, f"c\t{URLS[0]}\n"), fetch=True))[0][0] for name in ("a.tsv", "sub/b.tsv")
    ]
    assert found[0] == found[1]
    both = Cc12m(path=write(tmp_path / "c.tsv", f"{URLS[0]}\tanother\n"), fetch=True)
    report = build([Cc3m(path=str(tmp_path / "a.tsv"), fetch=True), both], str(tmp_path / "m.parquet"))
    (record,) = report.manifest.records()
    assert record.image_id == found[0].image_id and record.captions == ("c", "another")


def test_columns_in_another_order_are_one_clear_error(tmp_path: Path) -> None:
    cc12m = write(tmp_path / "cc12m.tsv", "".join(f"{url}\ta caption\n" for url in URLS))
    for fetch in (True, False):
        with pytest.raises(
            ValueError,
            match=r"cc12m.tsv: 4 of the first 4 rows have a URL for a caption; expected caption TAB url .*source: cc12m",
        ):
            split(Cc3m(path=cc12m, fetch=fetch))
    cc3m = write(tmp_path / "cc3m.tsv", "".join(f"a caption\t{url}\n" for url in URLS))
    with pytest.raises(ValueError, match="expected url TAB caption .*source: cc3m"):
        split(Cc12m(path=cc3m, fetch=True))
    hashes = write(tmp_path / "hashes.tsv", "".join(f"{url}\tabc\tdef\n" for url in URLS))
    with pytest.raises(
        ValueError, match=r"4 of the first 4 lines have not two columns, such as 'https://.*expected url TAB"
    ):
        split(Cc12m(path=hashes, fetch=True))
    with pytest.raises(ValueError, match="cannot read .*nowhere.tsv"):
        split(Cc12m(path=str(tmp_path / "nowhere.tsv")))


def test_lines_that_cannot_be_used_are_rejected_one_by_one_and_the_rest_is_kept(tmp_path: Path) -> None:
    lines = [
        b"good\t" + URLS[0].encode(),
        b"no url here",
        b"two\t\ttabs",
        b"  \t" + URLS[1].encode(),
        b"caf\xe9\t" + URLS[2].encode(),
    ]
    lines += [
        b"w" * 100_000 + b"\t" + URLS[3].encode(),
        b"file\tfile:///etc/passwd",
        b"user\thttp://u:p@example.com/a.jpg",
    ]
    lines += [
        b"caf\xc3\xa9\thttps://example.com/\xff.jpg",
        "gut \u00e9".encode() + b"\thttps://example.com/last.jpg",
        b"",
    ]
    path = write(tmp_path / "cc3m.tsv", b"\n".join(lines))
    records, rejections = split(Cc3m(path=path, fetch=True))
    assert captions(records) == ["good", "gut é"]
    assert sorted((r.what.split(": ")[0].rsplit(" ", 1)[1], r.reason) for r in rejections) == [
        ("2", "line without exactly one TAB"),
        ("3", "line without exactly one TAB"),
        ("4", "empty caption"),
        ("5", "caption is not UTF-8"),
        ("6", f"caption of more than {CAPTION_BYTES} bytes"),
        ("7", "not an http or https URL"),
        ("8", "not an http or https URL"),
        ("9", "not an http or https URL"),
    ]


def test_without_fetch_all_is_rejected_for_one_reason_with_the_way_out(tmp_path: Path) -> None:
    path = write(tmp_path / "cc3m.tsv", "".join(f"caption {n}\thttps://example.com/{n}.jpg\n" for n in range(70_000)))
    records, rejections = split(Cc3m(path=path))
    assert records == [] and {r.reason for r in rejections} == {NOT_FETCHED}
    assert sum(r.count for r in rejections) == 70_000 and len(rejections) < 10
    with pytest.raises(
        ValueError, match=r"no image found .* 70000 x only a URL: download with img2dataset .*`fetch: true`"
    ):
        build([Cc3m(path=path)], str(tmp_path / "m.parquet"))


def test_blocks_of_the_file_cut_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from manifests.sources import lines as module

    text = "".join(f"caption number {n} é\thttps://example.com/{n}.jpg\r\n" for n in range(300))
    path = write(tmp_path / "cc3m.tsv", text)
    at_once, _ = split(Cc3m(path=path, fetch=True))
    monkeypatch.setattr(module, "_BLOCK", 97)
    assert split(Cc3m(path=path, fetch=True)) == (at_once, []) and len(at_once) == 300
    monkeypatch.setattr(module, "_LONGEST_LINE", 300)
    with pytest.raises(ValueError, match="line 1: longer than"):
        split(Cc3m(path=write(tmp_path / "binary", b"\0" * 1000), fetch=True))


# ---- SBU


def sbu_texts(folder: Path, urls: list[str], texts: list[str], end: str = "\n") -> Sbu:
    return Sbu(
        urls=write(folder / "SBU_captioned_photo_dataset_urls.txt", "\n".join(urls) + end),
        captions=write(folder / "SBU_captioned_photo_dataset_captions.txt", "\n".join(texts) + end),
        fetch=True,
    )


FLICKR = "http://static.flickr.com/2723/4385058960_b0f291553e.jpg"


def test_both_forms_of_sbu_give_the_same(tmp_path: Path) -> None:
    urls, texts = [FLICKR, *URLS], ["A wooden chair", "tab\tinside", " b ", "", 'quote" d']
    of_texts = split(sbu_texts(tmp_path, urls, texts, end=""))
    assert captions(of_texts[0]) == ["A wooden chair", "tab inside", "b", 'quote" d']
    assert of_texts[0][0].keys == (url_key(FLICKR), "flickr:4385058960")
    assert [(r.what.split(", line ")[1].split(":")[0], r.reason) for r in of_texts[1]] == [("4", "empty caption")]
    content = {"user_ids": ["x"] * 5, "captions": texts, "image_urls": urls}
    of_json = split(Sbu(json_file=write_json(tmp_path / "sbu-captions-all.json", content), fetch=True))
    assert of_json[0] == of_texts[0] and [r.reason for r in of_json[1]] == ["empty caption"]
    assert "sbu-captions-all.json, image_urls[3]" in of_json[1][0].what


def test_sbu_of_unequal_lengths_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from manifests.sources import lines as module

    for urls, texts in ((4, 3), (3, 4), (70_000, 40_000), (70_000, 70_001)):
        source = sbu_texts(tmp_path, [FLICKR] * urls, ["c"] * texts)
        with pytest.raises(
            ValueError, match=rf"urls.txt has {urls} lines and .*captions.txt has {texts} lines; expected as many"
        ):
            split(source)
    # Lines of very different length come in blocks of very different numbers of lines.
    monkeypatch.setattr(module, "_BLOCK", 1000)
    found, _ = split(
        sbu_texts(tmp_path, [f"{FLICKR}?{n}" for n in range(500)], [f"{n} " + "c" * (n % 97) for n in range(500)])
    )
    assert all(record.uri.rpartition("?")[2] == record.captions[0].split()[0] for record in found) and len(found) == 500
    unequal = {"image_urls": [FLICKR] * 3, "captions": ["a"] * 2}
    with pytest.raises(ValueError, match="sbu.json: 3 image_urls and 2 captions; expected lists of one length"):
        split(Sbu(json_file=write_json(tmp_path / "sbu.json", unequal), fetch=True))


def test_sbu_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an object with captions and no list 'image_urls'; expected SBU's"):
        split(Sbu(json_file=write_json(tmp_path / "a.json", {"captions": []}), fetch=True))
    with pytest.raises(ValueError, match="a list and no list 'image_urls'"):
        split(Sbu(json_file=write_json(tmp_path / "a.json", [{"url": FLICKR}]), fetch=True))
    source = sbu_texts(tmp_path, ["a chair"] * 3, [FLICKR] * 3)
    with pytest.raises(
        ValueError, match="3 of the first 3 rows have a URL for a caption; expected a file of URLs for `urls`"
    ):
        split(source)
    content = {"image_urls": [FLICKR, None, 7], "captions": ["caf\ud83d", "b", None]}
    records, rejections = split(Sbu(json_file=write_json(tmp_path / "a.json", content), fetch=True))
    assert captions(records) == ["caf\ufffd"] and [r.reason for r in rejections] == ["not an http or https URL"] * 2
    for wrong in ({"urls": "a"}, {"captions": "a"}, {}, {"urls": "a", "captions": "b", "json_file": "c"}):
        with pytest.raises(ValidationError, match="expected both `urls` and `captions`"):
            Sbu(**wrong)


# ---- lists of BLIP and Prismer


def entries_of(path: Path, entries: list[Any], **options: Any) -> tuple[list[ImageRecord], list[Any]]:
    return split(CaptionList(path=write_json(path, entries), **options))


def test_blip_lists_of_coco_and_visual_genome(tmp_path: Path) -> None:
    entries = [
        {
            "caption": "A woman cutting a cake. ",
            "image": "val2014/COCO_val2014_000000522418.jpg",
            "image_id": "coco_522418",
        },
        {"image": "val2014/COCO_val2014_000000391895.jpg", "caption": ["A man ", "", "Another"]},
        {"image": "/export/share/datasets/vision/visual-genome/image/1.jpg", "caption": "trees", "image_id": "vg_1"},
        {"image": "/data/vg/VG_100K_2/2.jpg", "caption": "a street"},
        {"image": "flickr30k-images/1000092795.jpg", "caption": "two men"},
        {"image": "val2017/000000000042.jpg"},
    ]
    records, rejections = entries_of(tmp_path / "l.json", entries, images="s3://bucket", path_parts=2, split="train")
    assert [(r.image_id, r.uri.removeprefix("s3://bucket/"), r.captions, r.keys) for r in records] == [
        ("coco_000000522418", "val2014/COCO_val2014_000000522418.jpg", ("A woman cutting a cake.",), ("coco:522418",)),
        ("coco_000000391895", "val2014/COCO_val2014_000000391895.jpg", ("A man", "Another"), ("coco:391895",)),
        ("vg_1", "image/1.jpg", ("trees",), ("vg:1",)),
        ("vg_2", "VG_100K_2/2.jpg", ("a street",), ("vg:2",)),
        (records[4].image_id, "flickr30k-images/1000092795.jpg", ("two men",), ()),
        ("coco_000000000042", "val2017/000000000042.jpg", (), ("coco:42",)),
    ]
    assert records[4].image_id.startswith("flickr30k-images-1000092795-")
    assert [(r.what.split("l.json, ")[1].split(":")[0], r.reason) for r in rejections] == [("[1]", "empty caption")]


def test_visual_genomes_pictures_in_a_list_are_known_as_cocos_by_image_data(tmp_path: Path) -> None:
    entries = [{"image": f"vg/image/{n}.jpg", "caption": "c", "image_id": f"vg_{n}"} for n in (1, 2, 3)]
    pictures = [{"image_id": 1, "coco_id": 42, "flickr_id": 7}, {"image_id": 2, "coco_id": None, "flickr_id": None}, 5]
    image_data = write_json(tmp_path / "image_data.json", pictures)
    records, _ = entries_of(tmp_path / "vg_caption.json", entries, images=str(tmp_path), image_data=image_data)
    assert [r.keys for r in records] == [("vg:1", "coco:42", "flickr:7"), ("vg:2",), ("vg:3",)]


def test_paths_of_another_machine_and_missing_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "1.jpg").write_bytes(b"photo")
    entries = [{"image": f"/export/vg/image/{n}.jpg", "caption": "c"} for n in (1, 2)] + [
        {"image": "../x.jpg", "caption": "c"}
    ]
    path = tmp_path / "vg.json"
    records, rejections = entries_of(path, entries, images=str(tmp_path))
    assert records == [] and [r.reason.split(";")[0] for r in rejections] == [
        "absolute path",
        "absolute path",
        "file name leads out of the image folder",
    ]
    records, rejections = entries_of(path, entries, images=str(tmp_path), path_parts=2, check_files=True)
    assert [r.uri for r in records] == [(tmp_path / "image" / "1.jpg").as_uri()]
    assert [r.reason for r in rejections] == ["image file is missing", "file name leads out of the image folder"]
    _, rejections = entries_of(path, entries)
    assert {r.reason for r in rejections} == {"entry with a path, and no `images` to look below"}
    with pytest.raises(
        ValueError, match="images: .*nowhere is not a folder; expected the folder that holds the list's"
    ):
        entries_of(path, entries, images=str(tmp_path / "nowhere"))


def test_web_lists_and_entries_with_both(tmp_path: Path) -> None:
    entries: list[Any] = [
        {"url": URLS[0], "caption": "one"},
        {"url": URLS[0], "caption": ["two", "three"]},
        {"url": FLICKR, "image": "a/b.jpg", "caption": "four"},
    ]
    entries += [{"caption": "nothing to see"}, 5, {"url": URLS[1]}, {"url": URLS[2], "caption": "caf\ud83d"}]
    records, rejections = entries_of(tmp_path / "ccs.json", entries, fetch=True)
    assert captions(records) == ["one", "two", "three", "four", "caf\ufffd"]
    assert records[0].image_id == records[1].image_id and records[3].keys == (url_key(FLICKR), "flickr:4385058960")
    assert sorted((r.what.split("json, ")[1].split(":")[0], r.reason) for r in rejections) == [
        ("[3]", "entry without `image` or `url`"), ("[4]", "entry without `image` or `url`"), ("[5]", "empty caption"),
    ]  # fmt: skip
    both, _ = entries_of(tmp_path / "ccs.json", entries[2:3], images=str(tmp_path))
    assert [(r.uri, r.captions) for r in both] == [((tmp_path / "a" / "b.jpg").as_uri(), ("four",))]
    _, rejections = entries_of(tmp_path / "ccs.json", entries[:3])
    assert [(r.reason, r.count) for r in rejections] == [(NOT_FETCHED, 4)]


def test_lists_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="l.json: objects with image_id, sentence; expected a JSON list of objects with"
    ):
        entries_of(tmp_path / "l.json", [{"image_id": 1, "sentence": "a"}])
    with pytest.raises(ValueError, match="l.json: a list of str; expected"):
        entries_of(tmp_path / "l.json", ["a", "b"])
    with pytest.raises(ValueError, match="l.json: an object; expected a JSON list"):
        split(CaptionList(path=write_json(tmp_path / "l.json", {"images": []})))
    with pytest.raises(ValueError, match=r"cut.json: broken JSON in line 1, column 40 .*cut short\?"):
        split(CaptionList(path=write(tmp_path / "cut.json", '[{"url": "http://a/b", "caption": "a"},'), fetch=True))
    with pytest.raises(ValueError, match="have a URL for a caption; expected `url` and `caption`"):
        entries_of(tmp_path / "l.json", [{"url": "a caption", "caption": url} for url in URLS], fetch=True)
