"""Visual Genome and NoCaps, COCO's pictures of the other year, and what is at hand of all the datasets' real files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from manifests.record import ImageRecord
from manifests.sources import CaptionList, Cc3m, Cc12m, Coco, Nocaps, Sbu, VisualGenome
from tests.source_contents import split

BESIDE = Path(__file__).resolve().parents[1].parent / "shared"
ANNOTATIONS = Path(os.environ.get("EXPERT_LABELS_ANNOTATIONS", BESIDE / "annotations"))


def write_json(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


# ---- Visual Genome


def picture(number: int, folder: str = "VG_100K", **more: Any) -> dict[str, Any]:
    url = f"https://cs.stanford.edu/people/rak248/{folder}/{number}.jpg"
    return {"width": 800, "url": url, "height": 600, "image_id": number, "coco_id": None, "flickr_id": None, **more}


def region(number: int, phrase: str, width: int = 10, height: int = 10, **more: Any) -> dict[str, Any]:
    return {
        "region_id": number,
        "width": width,
        "height": height,
        "image_id": 1,
        "phrase": phrase,
        "y": 5,
        "x": 4,
        **more,
    }


REGIONS = [
    region(1, "the clock is green", 100, 100),
    region(2, "Shade along the street ", 300, 200),
    region(3, "man wearing sneakers", 50, 60),
    region(4, "shade along the street", 200, 200),
    region(5, "a bicycle", 90, 90),
]


def genome(folder: Path, pictures: list[Any], regions: list[Any] | None, **options: Any) -> VisualGenome:
    (folder / "VG_100K").mkdir(exist_ok=True)
    image_data = write_json(folder / "image_data.json", pictures)
    described = None if regions is None else write_json(folder / "region_descriptions.json", regions)
    return VisualGenome(images=str(folder), image_data=image_data, regions=described, **options)


def test_visual_genome_pictures_have_keys_and_captions_of_the_largest_regions(tmp_path: Path) -> None:
    pictures = [picture(1, "VG_100K_2"), picture(61512, coco_id=248774, flickr_id=6273011878)]
    source = genome(tmp_path, pictures, [{"regions": REGIONS, "id": 1}], most_phrases=3, license="CC BY 4.0")
    (first, second), rejections = split(source)
    assert rejections == []
    assert first == ImageRecord(
        image_id="vg_1",
        source="visual_genome",
        uri=(tmp_path / "VG_100K_2" / "1.jpg").as_uri(),
        width=800,
        height=600,
        captions=("Shade along the street", "the clock is green", "a bicycle"),
        license="CC BY 4.0",
        keys=("vg:1",),
    )
    assert second.image_id == "vg_61512" and second.captions == ()
    assert second.keys == ("vg:61512", "coco:248774", "flickr:6273011878")
    choices: dict[Any, int] = {"first": 3, "all": 4}
    for phrases, count in choices.items():
        captions = split(source.model_copy(update={"phrases": phrases}))[0][0].captions
        assert captions == ("the clock is green", "Shade along the street", "man wearing sneakers", "a bicycle")[:count]
    assert split(source.model_copy(update={"flat": True}))[0][0].uri == (tmp_path / "1.jpg").as_uri()
    assert [r.captions for r in split(genome(tmp_path, pictures, None))[0]] == [(), ()]


def test_all_spellings_of_visual_genome_are_read(tmp_path: Path) -> None:
    named = [{"id": 7, "phrase": "old", "image": 1, "width": 1, "height": 1}]
    for entry in (
        {"regions": [region(7, "old")], "id": 1},
        {"regions": [region(7, "old")], "image_id": 1},
        {"regions": [region(7, "old")]},
        {"regions": named, "id": 1},
        {"regions": named},
    ):
        (record,), rejections = split(genome(tmp_path, [{**picture(1), "id": 1, "image_id": None}], [entry]))
        assert (record.image_id, record.captions, rejections) == ("vg_1", ("old",), [])


def test_visual_genome_entries_that_cannot_be_used_are_rejected_one_by_one(tmp_path: Path) -> None:
    pictures = [
        picture(1),
        picture(2),
        picture(2),
        {"image_id": 3},
        {"url": "http://x/y/4.jpg"},
        5,
        picture(6, "..", url="x/../.."),
    ]
    regions = [
        {"id": 1, "regions": [region(1, " "), region(2, "good"), {"region_id": 3}, 7, region(4, "caf\ud83d")]},
        {"id": 1, "regions": []},
        {"id": 9, "regions": [region(1, "of another")]},
        {"regions": []},
        {"id": 2, "regions": "none"},
    ]
    records, rejections = split(genome(tmp_path, pictures, regions))
    assert [(r.image_id, r.captions) for r in records] == [("vg_1", ("good", "caf\ufffd")), ("vg_2", ())]
    assert [(r.what.rpartition("json, ")[2].split(":")[0], r.reason) for r in rejections] == [
        ("[2]", "image listed twice"),
        ("[3]", "entry without an image id"),
        ("[4]", "entry without an image id"),
        ("[5]", "entry without an image id"),
        ("[0], regions[0]", "empty caption"),
        ("[0], regions[2]", "region without a phrase"),
        ("[1]", "image listed twice"),
        ("[2]", "regions of an image that is not in image_data"),
        ("[3]", "entry without an image id"),
        ("[6]", "file name leads out of the image folder"),
    ]


def test_visual_genome_splits_and_files_without_an_entry(tmp_path: Path) -> None:
    source = genome(tmp_path, [picture(1), picture(2), picture(3)], None, check_files=True)
    for name in ("VG_100K/1.jpg", "VG_100K/2.jpg", "VG_100K/107899.jpg"):
        (tmp_path / name).write_bytes(b"photo")
    splits = write_json(tmp_path / "densecap_splits.json", {"train": [1], "val": [], "test": [3, 4]})
    records, rejections = split(source.model_copy(update={"splits": splits}))
    assert [(r.image_id, r.split) for r in records] == [("vg_1", "train"), ("vg_2", "")]
    assert [(r.what.rpartition("/")[2], r.reason) for r in rejections] == [
        ("3.jpg", "image file is missing"),
        ("107899.jpg", "picture without an entry in image_data"),
    ]


def test_visual_genome_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    source = genome(tmp_path, [picture(1)], [{"id": 1, "regions": REGIONS}])
    for swapped in ({"splits": source.regions}, {"image_data": write_json(tmp_path / "x.json", {"images": []})}):
        with pytest.raises(ValueError, match="expected (densecap_splits.json|Visual Genome's image_data.json)"):
            split(source.model_copy(update=swapped))
    text = Path(source.image_data).read_text()
    Path(source.image_data).write_text(text[:-20])
    with pytest.raises(ValueError, match=r"image_data.json: broken JSON in line 1, column \d+ .*is it cut short"):
        split(source)
    with pytest.raises(ValueError, match="images: .*nowhere is not a folder; expected the folder that holds VG_100K"):
        split(source.model_copy(update={"images": str(tmp_path / "nowhere")}))


# ---- NoCaps


def test_nocaps_ids_are_those_of_open_images(tmp_path: Path) -> None:
    image = {"license": 0, "file_name": "0013ea2087020901.jpg", "height": 1024, "width": 732, "id": 0}
    image |= {
        "open_images_id": "0013ea2087020901",
        "coco_url": "https://s3.amazonaws.com/nocaps/val/0013ea2087020901.jpg",
    }
    other = {"file_name": "sub/00a1.jpg", "id": 1, "open_images_id": None}
    captions = [{"image_id": 0, "id": n, "caption": f"A baby {n}."} for n in range(10)] + [
        {"image_id": 7, "id": 99, "caption": "x"}
    ]
    content = {"images": [image, other, {"id": 2}, {**image, "file_name": "x"}], "annotations": captions}
    source = Nocaps(path=write_json(tmp_path / "nocaps_val_4500_captions.json", content), images=str(tmp_path))
    records, rejections = split(source)
    assert [(r.image_id, r.split, len(r.captions), r.width) for r in records] == [
        ("nocaps_0013ea2087020901", "val", 10, 732), ("nocaps_00a1", "val", 0, None),
    ]  # fmt: skip
    assert records[0].keys[0] == "openimages:0013ea2087020901" and records[0].keys[1].startswith("url:")
    assert [r.reason for r in rejections] == [
        "image without a numeric id or a file name", "image listed twice", "caption of an image that is not listed",
    ]  # fmt: skip
    without = write_json(tmp_path / "nocaps_val_image_info.json", {"images": [image]})
    assert split(Nocaps(path=without, images="s3://b"))[0][0].uri == "s3://b/0013ea2087020901.jpg"


# ---- COCO's two years


def test_lists_of_one_year_find_the_pictures_of_the_other(tmp_path: Path) -> None:
    for name in (
        "train2017/000000391895.jpg",
        "val2017/000000000042.jpg",
        "val2014/COCO_val2014_000000000042.jpg",
        "notes.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"photo")
    names = [("val2014", f"COCO_val2014_{number:012d}.jpg", number) for number in (391895, 42, 7)]
    images = [{"filepath": f, "filename": n, "cocoid": c, "split": "train", "sentences": []} for f, n, c in names]
    karpathy = write_json(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    source = Coco(images=str(tmp_path), karpathy=karpathy, splits=("train",), file_names="by number")
    records, rejections = split(source)
    assert [r.uri.removeprefix(tmp_path.as_uri()) for r in records] == [
        "/train2017/000000391895.jpg", "/val2014/COCO_val2014_000000000042.jpg",
    ]  # fmt: skip
    assert [(r.reason, "no file of number 7" in r.what) for r in rejections] == [("image file is missing", True)]
    assert [r.keys for r in records] == [("coco:391895",), ("coco:42",)]


def test_coco_images_and_annotations_may_come_in_any_order_and_twice(tmp_path: Path) -> None:
    image = {
        "id": 42,
        "file_name": "a.jpg",
        "license": 1,
        "flickr_url": "http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg",
    }
    captions = [
        {"image_id": 42, "id": 2, "caption": "b"},
        {"image_id": 42, "id": 1, "caption": "a"},
        {"image_id": 42, "id": 2, "caption": "again"},
    ]
    captions += [{"image_id": 42, "id": 3, "caption": "w" * 100_000}, {"image_id": 42, "id": 4, "caption": "caf\udce9"}]
    content = {"annotations": captions, "images": [image, image], "licenses": [{"id": 1, "name": "CC"}]}
    path = tmp_path / "c.json"
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape"))
    (record,), rejections = split(Coco(images=str(tmp_path), captions=str(path)))
    assert record.captions == ("a", "b") and record.license == "CC" and record.keys == ("coco:42", "flickr:6255196340")
    assert sorted((r.what.rpartition("json, ")[2].split(":")[0], r.reason) for r in rejections) == [
        ("annotations[2]", "annotation listed twice"),
        ("annotations[3]", "caption of more than 10000 bytes"),
        ("annotations[4]", "caption is not UTF-8"),
        ("images[1]", "image listed twice"),
    ]


def test_the_list_of_a_test_set_has_no_annotations(tmp_path: Path) -> None:
    info = {"info": {}, "images": [{"id": 14, "file_name": "COCO_test2015_000000000014.jpg"}], "categories": []}
    source = Coco(images=str(tmp_path), instances=write_json(tmp_path / "image_info_test2015.json", info), split="test")
    assert [(r.image_id, r.split) for r in split(source)[0]] == [("coco_000000000014", "test")]


# ---- the real files, where they are at hand


def real(*names: str) -> Path:
    """A file of the real samples; the test is skipped where they are not at hand."""
    path = ANNOTATIONS.joinpath(*names)
    if not path.exists():
        pytest.skip(f"no real annotation files: {path} (EXPERT_LABELS_ANNOTATIONS)")
    return path


def test_the_real_cc3m_validation_list_is_read_whole_and_not_as_cc12m() -> None:
    path = str(real("cc3m", "Validation_GCC-1.1.0-Validation.first10000.tsv"))
    records, rejections = split(Cc3m(path=path, fetch=True))
    assert (len(records), rejections) == (10_000, []) and len({r.image_id for r in records}) == 10_000
    assert records[1].captions == ("an angler fishes river on a snowy day .",)
    lines = Path(path).read_text("utf-8").split("\n")
    assert [" ".join(line.split("\t")[0].split()) for line in lines[:10_000]] == [r.captions[0] for r in records]
    with pytest.raises(ValueError, match="10000 of the first 10000 rows have a URL for a caption"):
        split(Cc12m(path=path, fetch=True))


def test_the_real_first_pair_of_sbu_is_one_in_both_forms() -> None:
    texts = Sbu(
        urls=str(real("sbu", "SBU_captioned_photo_dataset_urls.first1.txt")),
        captions=str(real("sbu", "SBU_captioned_photo_dataset_captions.first1.txt")),
        fetch=True,
    )
    both = [
        split(source) for source in (texts, Sbu(json_file=str(real("sbu", "sbu-captions-all.first1.json")), fetch=True))
    ]
    assert both[0] == both[1]
    (record,), rejections = both[0]
    assert (record.captions, rejections) == (("A wooden chair in the living room",), [])
    assert "flickr:4385058960" in record.keys


def test_the_real_fragments_of_visual_genome_are_read(tmp_path: Path) -> None:
    folder = real("visual_genome")
    source = VisualGenome(
        images=str(tmp_path),
        image_data=str(folder / "image_data.fragment.json"),
        regions=str(folder / "region_descriptions.fragment.json"),
        splits=str(folder / "densecap_splits.json"),
    )
    (record,), rejections = split(source)
    assert record.uri == (tmp_path / "VG_100K_2" / "1.jpg").as_uri() and (record.width, record.height) == (800, 600)
    assert record.captions[0] == "shade is along the street" and len(record.captions) == 4
    # The fragment of regions goes on with image 2, of which the fragment of image data knows nothing.
    assert [r.reason for r in rejections] == ["regions of an image that is not in image_data"]


@pytest.mark.parametrize(
    ("name", "image_id", "captions"),
    [
        ("coco_karpathy_train", "coco_000000522418", 1),
        ("coco_karpathy_val", "coco_000000184613", 5),
        ("coco_karpathy_test", "coco_000000391895", 5),
        ("vg_caption", "vg_1", 1),
    ],
)
def test_the_real_first_entries_of_blips_lists_are_read(
    tmp_path: Path, name: str, image_id: str, captions: int
) -> None:
    path = str(real("prismer_lists", f"{name}.first.json"))
    (record,), rejections = split(CaptionList(path=path, images=str(tmp_path), path_parts=2))
    assert (record.image_id, len(record.captions), rejections) == (image_id, captions, [])
    assert record.keys == (image_id.replace("vg_", "vg:").replace("coco_000000", "coco:"),)


def test_the_real_coco_files_give_keys_to_all_images(tmp_path: Path) -> None:
    path = str(real("coco", "coco-mini_captions_val2017.json"))
    records, rejections = split(Coco(images=str(tmp_path), captions=path))
    assert (len(records), sum(len(r.captions) for r in records), rejections) == (79, 395, [])
    assert all([key.split(":")[0] for key in r.keys] == ["coco", "flickr"] for r in records)
    assert records[0].keys == ("coco:397133", "flickr:6255196340")
