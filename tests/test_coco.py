"""The COCO source: files in the original forms, what is broken in them, and the real ones where they are at hand."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from manifests.build import build
from manifests.location import openable
from manifests.record import ImageRecord
from manifests.sources import Coco, Folder
from tests.source_contents import split

BESIDE = Path(__file__).resolve().parents[1].parent / "shared"
ANNOTATIONS = Path(os.environ.get("EXPERT_LABELS_ANNOTATIONS", BESIDE / "annotations"))
PHOTOS = Path(os.environ.get("EXPERT_LABELS_PHOTOS", BESIDE / "photos"))


IMAGES = [
    {"license": 3, "file_name": "000000391895.jpg", "height": 360, "width": 640, "id": 391895, "date_captured": "2013"},
    {"license": 9, "file_name": "000000000042.jpg", "height": 480, "width": 333, "id": 42, "flickr_url": "http://x"},
]
LICENCES = [{"url": "http://x", "id": 3, "name": "Attribution License"}]
CAPTIONS = {
    "info": {"year": 2017, "version": "1.0"},
    "licenses": LICENCES,
    "images": IMAGES,
    "annotations": [
        {"image_id": 42, "id": 9, "caption": "second\n of 42 "},
        {"image_id": 42, "id": 7, "caption": " first of 42"},
        {"image_id": 391895, "id": 8, "caption": "A man with a red helmet."},
        {"image_id": 391895, "id": 6, "caption": "  \n"},
        {"image_id": 1, "id": 5, "caption": "of an image that is not listed"},
    ],
}
POLYGON = {"segmentation": [[1.0, 2.0, 3.0]], "area": 1, "iscrowd": 0, "bbox": [1, 2, 3, 4], "category_id": 1}
INSTANCES = {
    "images": [*IMAGES, {"file_name": "000000000043.jpg", "height": 5, "width": 6, "id": 43, "license": 3}],
    "annotations": [{**POLYGON, "image_id": 42, "id": 1}],
    "categories": [{"supercategory": "person", "id": 1, "name": "person"}],
}


def write_json(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_coco_captions_file(tmp_path: Path) -> None:
    (tmp_path / "000000000042.jpg").write_bytes(b"photo")
    source = Coco(images=str(tmp_path), captions=write_json(tmp_path / "c.json", CAPTIONS), split="val")
    records, rejections = split(source)
    first, second = records
    assert first == ImageRecord(
        image_id="coco_000000391895",
        source="coco",
        uri=(tmp_path / "000000391895.jpg").as_uri(),
        width=640,
        height=360,
        captions=("A man with a red helmet.",),
        split="val",
        license="Attribution License",
        keys=("coco:391895",),
    )
    assert (second.captions, second.license) == (("first of 42", "second of 42"), "")
    assert [(r.what, r.reason) for r in rejections] == [
        (f"{source.captions}, annotations[3]", "empty caption"),
        (f"{source.captions}, annotations[4]", "caption of an image that is not listed"),
    ]
    checked = split(source.model_copy(update={"check_files": True}))
    assert [r.image_id for r in checked[0]] == ["coco_000000000042"]
    assert [r.what.rsplit("/", 1)[1] for r in checked[1] if r.reason == "image file is missing"] == ["000000391895.jpg"]


def test_coco_instances_file_lists_images_and_adds_to_captions(tmp_path: Path) -> None:
    instances = write_json(tmp_path / "i.json", INSTANCES)
    alone, _ = split(Coco(images=str(tmp_path), instances=instances))
    assert [(r.image_id, r.width, r.captions) for r in alone] == [
        ("coco_000000391895", 640, ()), ("coco_000000000042", 333, ()), ("coco_000000000043", 6, ()),
    ]  # fmt: skip
    without_sizes = {**CAPTIONS, "images": [{"id": 42, "file_name": "000000000042.jpg"}]}
    captions = write_json(tmp_path / "c.json", without_sizes)
    both, _ = split(Coco(images=str(tmp_path), captions=captions, instances=instances))
    assert [(r.image_id, r.width, len(r.captions)) for r in both] == [
        ("coco_000000000042", 333, 2), ("coco_000000391895", 640, 0), ("coco_000000000043", 6, 0),
    ]  # fmt: skip


def karpathy_image(number: int, split_name: str, folder: str = "val2014") -> dict:
    sentence = {"tokens": ["a", "man"], "raw": f"A man, {number}. ", "imgid": number, "sentid": number}
    name = f"COCO_{folder}_{number:012d}.jpg"
    return {
        "filepath": folder, "sentids": [number], "filename": name, "imgid": 0, "split": split_name,
        "sentences": [sentence, {**sentence, "raw": " \n"}], "cocoid": number,
    }  # fmt: skip


def test_karpathy_file_gives_the_splits_asked_for(tmp_path: Path) -> None:
    images = [karpathy_image(1, "test"), karpathy_image(2, "restval"), karpathy_image(3, "train", "train2014")]
    images += [karpathy_image(4, "val"), {"split": "train", "filename": "flickr.jpg"}]
    where = write_json(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    source = Coco(images="s3://bucket/coco images", karpathy=where, splits=("train", "restval"))
    records, rejections = split(source)
    assert [(r.image_id, r.split, r.captions, r.width) for r in records] == [
        ("coco_000000000002", "restval", ("A man, 2.",), None),
        ("coco_000000000003", "train", ("A man, 3.",), None),
    ]
    assert records[0].uri == "s3://bucket/coco%20images/val2014/COCO_val2014_000000000002.jpg"
    assert [r.reason for r in rejections] == [
        "empty caption", "empty caption", "image without a numeric id or a file name",
    ]  # fmt: skip


def test_coco_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    file = tmp_path / "c.json"

    def refuses(message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            list(Coco(**{"images": str(tmp_path), "captions": str(file), **options}).batches())

    refuses("cannot read .*c.json: No such file")
    file.write_text('{\n "images": [],\n "annotations": [{"id": 1,')
    refuses(r"c.json: broken JSON in line 3, column 2. .*cut short\?")
    file.write_text('{"images": "none", "annotations": []}')
    refuses("c.json: an object with images, annotations and no list 'images'")
    file.write_text('[{"image_id": 42, "caption": "a result"}]')
    refuses("c.json: a list and no list 'images'; expected a COCO captions or instances file")
    file.write_text('{"images": [], "dataset": "coco"}')
    refuses("c.json: an object with images, dataset and no list 'annotations'")
    write_json(file, CAPTIONS)
    refuses("images: .*nowhere is not a folder", images=str(tmp_path / "nowhere"))


def test_coco_entries_that_cannot_be_used_are_rejected_one_by_one(tmp_path: Path) -> None:
    names = ["../up.jpg", "/etc/passwd.jpg", "a/../../up.jpg", "..", "", "nul\0.jpg", "\ud800.jpg", "sub/./fine é.jpg"]
    images: list[Any] = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    images[7] |= {"license": [3], "width": "640", "height": -1}
    images += [{"id": "7", "file_name": "x.jpg"}, {"id": -7, "file_name": "x.jpg"}, {"file_name": "x.jpg"}, 5, None]
    annotations = [{"image_id": 7, "id": 1}, {"image_id": 7, "id": None, "caption": "x"}, 5]
    annotations += [{"image_id": [7], "id": 1, "caption": "x"}]
    licences = [{"id": [3], "name": 3}, {"id": {}, "name": "x"}, None]
    content = {"images": images, "annotations": annotations, "licenses": licences}
    where = write_json(tmp_path / "c.json", content)
    records, rejections = split(Coco(images=str(tmp_path), captions=where))
    assert [r.uri for r in records] == [(tmp_path / "sub" / "fine é.jpg").as_uri()]
    assert (records[0].width, records[0].height, records[0].license) == (None, None, "")
    reasons = [r.reason for r in rejections]
    assert reasons.count("file name leads out of the image folder") == 6
    assert reasons.count("image without a numeric id or a file name") == 6
    assert reasons.count("annotation without a caption or an id") == 2


def test_coco_ids_are_one_across_its_files_so_that_they_become_one_record(tmp_path: Path) -> None:
    captions = Coco(images=str(tmp_path), captions=write_json(tmp_path / "c.json", CAPTIONS))
    instances = Coco(images=str(tmp_path), instances=write_json(tmp_path / "i.json", INSTANCES))
    report = build([captions, instances], str(tmp_path / "m.parquet"))
    assert report.images == {"coco": 3}
    assert [(count.read, count.merged) for count in report.sources] == [(5, 2)]


# ---- the real files, where they are at hand


@pytest.mark.skipif(not (ANNOTATIONS / "coco").is_dir(), reason="no real annotation files (EXPERT_LABELS_ANNOTATIONS)")
def test_real_coco_files_are_read_whole(tmp_path: Path) -> None:
    folder = ANNOTATIONS / "coco"
    captioned: dict[str, ImageRecord] = {}
    for name, images, captions in (("train", 80, 400), ("val", 79, 395)):
        source = Coco(
            images=str(tmp_path),
            captions=str(folder / f"coco-mini_captions_{name}2017.json"),
            instances=str(folder / f"coco-mini_instances_{name}2017.json"),
        )
        records, rejections = split(source)
        assert (len(records), sum(len(r.captions) for r in records), rejections) == (images, captions, [])
        assert all(r.width and r.height and r.license for r in records)
        for caption in (caption for r in records for caption in r.captions):
            assert caption == " ".join(caption.split())
        captioned |= {r.image_id: r for r in records}
    assert captioned["coco_000000397133"].uri.endswith("/000000397133.jpg")
    assert (captioned["coco_000000397133"].width, captioned["coco_000000397133"].height) == (640, 427)
    for name, images in (
        ("coco_tiny_instances_train2017", 80),
        ("tiny_coco_instances_train2017", 32),
        ("tiny_coco_instances_val2017", 6),
        ("coco-mini_person_keypoints_val2017", 79),
    ):
        records, rejections = split(Coco(images=str(tmp_path), instances=str(folder / f"{name}.json")))
        assert (len(records), rejections) == (images, [])
    with pytest.raises(ValueError, match="a list and no list 'images'"):
        list(Coco(images=str(tmp_path), captions=str(folder / "captions_val2014_fakecap_results.json")).batches())


@pytest.mark.skipif(
    not (ANNOTATIONS / "karpathy").is_dir(), reason="no real annotation files (EXPERT_LABELS_ANNOTATIONS)"
)
def test_the_real_karpathy_fragment_is_read(tmp_path: Path) -> None:
    karpathy = str(ANNOTATIONS / "karpathy" / "dataset_coco.fragment.json")
    source = Coco(images=str(tmp_path), karpathy=karpathy, splits=("train", "restval", "val", "test"))
    records, rejections = split(source)
    assert len(records) == 2 and rejections == []
    first = records[0]
    assert first.image_id == "coco_000000391895" and first.split == "test" and len(first.captions) == 5
    assert first.uri == (tmp_path / "val2014" / "COCO_val2014_000000391895.jpg").as_uri()
    assert first.captions[0] == "A man with a red helmet on a small moped on a dirt road."


@pytest.mark.skipif(
    not (PHOTOS.is_dir() and (ANNOTATIONS / "coco_photo_map.csv").is_file()), reason="no real photos and annotations"
)
def test_real_photos_have_the_sizes_and_captions_of_the_real_annotations(tmp_path: Path) -> None:
    """The photos at hand, laid out as COCO lays them out, read through the real JSON files."""
    from PIL import Image

    rows = [row for row in csv.DictReader((ANNOTATIONS / "coco_photo_map.csv").open()) if row["set"] == "photos"]
    for row in rows:
        (tmp_path / f"{int(row['coco_id']):012d}.jpg").symlink_to(PHOTOS / row["file"])
    seen: set[str] = set()
    for file in sorted((ANNOTATIONS / "coco").glob("*_instances_*2017.json")):
        for r in split(Coco(images=str(tmp_path), instances=str(file), check_files=True))[0]:
            if isinstance(r, ImageRecord):
                with Image.open(openable(r.uri)) as photo:
                    assert photo.size == (r.width, r.height), r.uri
                seen.add(r.image_id)
    assert len(seen) == len({row["coco_id"] for row in rows}) >= 30
    records, rejections = split(Folder(path=str(PHOTOS)))
    assert len(records) == len(list(csv.DictReader((PHOTOS / "index.csv").open()))) and rejections == []
