"""Files of the datasets with anything in the wrong place: a record, a rejection or one clear error, and nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from manifests.annotations.nocaps import read_nocaps
from manifests.annotations.question_files import read_questions
from manifests.build import Source
from manifests.sources import CaptionList, Cc3m, Cc12m, Coco, Nocaps, Sbu, Table, VisualGenome
from tests.source_contents import split

URL = "http://static.flickr.com/2723/4385058960_b0f291553e.jpg"
IMAGE = {
    "license": 1,
    "file_name": "000000000042.jpg",
    "height": 5,
    "width": 6,
    "id": 42,
    "flickr_url": URL,
    "coco_url": URL,
}
REGION = {"region_id": 1, "width": 82, "height": 139, "image_id": 1, "phrase": "a clock", "y": 57, "x": 421}
PICTURE = {"width": 800, "url": "https://x/VG_100K/1.jpg", "height": 600, "image_id": 1, "coco_id": 42, "flickr_id": 7}
SENTENCE = {"tokens": ["a"], "raw": "A man.", "imgid": 0, "sentid": 1}
KARPATHY = {
    "filepath": "val2014",
    "filename": "x.jpg",
    "imgid": 0,
    "split": "train",
    "sentences": [SENTENCE],
    "cocoid": 42,
}
ANSWERED = {"question_id": 1, "image_id": 42, "answer_type": "other", "answers": [{"answer": "net", "answer_id": 1}]}
ASKED = {"question_id": 1, "image_id": 42, "question": "What?"}
LISTED = {
    "dataset": "vqa",
    "image": "val2014/COCO_val2014_000000262148.jpg",
    "question": "Q?",
    "answer": ["a"],
    "weight": [1.0],
}
COCO = {
    "images": [IMAGE, {**IMAGE, "id": 43}],
    "licenses": [{"id": 1, "name": "CC"}],
    "annotations": [{"image_id": 42, "id": 1, "caption": "A man."}],
}
LIST = [
    {"url": URL, "caption": "a chair"},
    {"image": "val2014/COCO_val2014_000000000042.jpg", "caption": ["a"], "image_id": "coco_42"},
]

ODD = st.sampled_from(
    [None, True, -1, 0, 10**30, 1.5, float("inf"), "", " ", "\ud83d", "\udce9", "\0", "../../x", "/", "a/b", "http://", "http://[", "é" * 9_000]
    + [[], {}, [[]], [None], {"id": {}}, [1, "a"], "https://user:p@h/x.jpg", "COCO_val2014_000000000042.jpg"]
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to everything that is inside of a JSON value."""
    inner = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def with_odd(content: Any, drawn: list[tuple[int, Any]]) -> Any:
    """``content`` with odd values put in place of some of what is in it."""
    content = copy.deepcopy(content)
    for number, odd in drawn:
        found = places(content)
        place = found[number % len(found)]
        odd = copy.deepcopy(odd)
        if not place:
            content = odd
            continue
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = odd
    return content


Read = Callable[[str, str], object]
SOURCES: dict[str, tuple[Any, Callable[[str, str], Source]]] = {
    "coco": (COCO, lambda file, folder: Coco(images=folder, captions=file, instances=file)),
    "karpathy": ({"images": [KARPATHY]}, lambda file, folder: Coco(images=folder, karpathy=file, splits=("train",), check_files=True)),
    "nocaps": (COCO, lambda file, folder: Nocaps(images="s3://b", path=file)),
    "image_data": ([PICTURE], lambda file, folder: VisualGenome(images=folder, image_data=file)),
    "regions": ([{**PICTURE, "regions": [REGION], "id": 1}], lambda file, folder: VisualGenome(images=folder, image_data=file, regions=file)),
    "sbu": ({"image_urls": [URL], "captions": ["a"]}, lambda file, folder: Sbu(json_file=file, fetch=True)),
    "list": (LIST, lambda file, folder: CaptionList(path=file, fetch=True, images=folder, path_parts=2, check_files=True)),
    "web list": (LIST, lambda file, folder: CaptionList(path=file, fetch=True)),
}  # fmt: skip
FILES: dict[str, tuple[Any, Read]] = {
    "vqa": ({"questions": [ASKED], "annotations": [ANSWERED]}, lambda file, _: list(read_questions(file, file))),
    "genome": (
        [{"id": 1, "qas": [{**ASKED, "qa_id": 7, "answer": "Green."}]}],
        lambda file, _: list(read_questions(file)),
    ),
    "questions": ([LISTED, {**LISTED, "answer": "b", "weight": 1}], lambda file, _: list(read_questions(file))),
    "nocaps": (COCO, lambda file, _: len(read_nocaps(file))),
}
DRAWN = st.lists(st.tuples(st.integers(0, 200), ODD), min_size=1, max_size=4)
QUICKLY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(folder: Path, content: Any) -> str:
    file = folder / "x.json"
    in_ascii = len(repr(content)) % 2 == 0
    file.write_bytes(json.dumps(content, ensure_ascii=in_ascii).encode("utf-8", "surrogatepass"))
    return str(file)


@pytest.mark.parametrize("name", SOURCES)
@QUICKLY
@given(drawn=DRAWN)
@example(drawn=[(0, {})])
def test_a_source_survives_anything_in_its_json(tmp_path: Path, name: str, drawn: list[tuple[int, Any]]) -> None:
    content, source = SOURCES[name]
    for texts in (content, with_odd(content, drawn)):
        try:
            records, _ = split(source(written(tmp_path, texts), str(tmp_path)))
        except ValueError as error:
            assert texts is not content and str(tmp_path) in str(error)
            continue
        if texts is content and name != "karpathy":
            assert records


@pytest.mark.parametrize("name", FILES)
@QUICKLY
@given(drawn=DRAWN)
def test_annotations_survive_anything_in_their_json(tmp_path: Path, name: str, drawn: list[tuple[int, Any]]) -> None:
    content, read = FILES[name]
    assert read(written(tmp_path, content), "")
    try:
        read(written(tmp_path, with_odd(content, drawn)), "")
    except ValueError as error:
        assert str(tmp_path) in str(error)


LINES = st.lists(st.sampled_from([b"a", b"\t", b"\n", b"\r", b'"', b",", b"\xff", b"\xc3\xa9", b"\0", b"\xef\xbb\xbf", URL.encode(), b"url", b"caption", b"{", b"[]"]), max_size=30)  # fmt: skip


@QUICKLY
@given(pieces=LINES)
def test_line_formats_survive_any_bytes(tmp_path: Path, pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    sources: list[tuple[str, Callable[[str], Source]]] = [
        ("x.tsv", lambda file: Cc3m(path=file, fetch=True)),
        ("x.tsv", lambda file: Cc12m(path=file, fetch=True)),
        ("x.txt", lambda file: Sbu(urls=file, captions=file, fetch=True)),
        ("x.jsonl", lambda file: Table(path=file, fetch=True)),
        ("x.csv", lambda file: Table(path=file, fetch=True, columns=("url", "caption"))),
        ("y.tsv", lambda file: Table(path=file, fetch=True, images=str(tmp_path))),
    ]
    for name, source in sources:
        (tmp_path / name).write_bytes(data if name != "y.tsv" else b"url\tcaption\n" + data)
        try:
            split(source(str(tmp_path / name)))
        except ValueError as error:
            assert name in str(error)
