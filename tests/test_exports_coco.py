"""COCO results: opened and drawn by COCO's own tools, with COCO's own numbers where there are any."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from expert_zoo.classes import class_names
from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import Instances, Label, Text, instances
from expert_zoo.spec import LabelSpec
from manifests.record import ImageRecord
from pipeline.errors import StoreError
from pipeline.exports.coco import COCO_CATEGORIES, FIRST_OTHER, Coco, image_number
from pipeline.exports.rle import packed, run_lengths
from pipeline.exports.run import export, verify
from pipeline.reader import LabelReader
from tests.small_store import Caption, Discs, label, small_store, write_manifest, write_photos
from tests.stand_ins import Grey, Squares, card


class Things(Expert):
    """A person and a toothbrush, first and last of COCO's classes, in every photo."""

    def __init__(self) -> None:
        self.card = card("things", LabelSpec(kind="instances", quantity="objects", class_names=class_names("coco")))

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [instances([[0.1, 2, 9.7, 10], [20, 20, 25, 25]], [0.9, 0.3], [0, 79]) for _ in photos]


def loaded(path: Path, results: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path)).loadRes(str(results))


def test_cocos_own_tools_open_detections_masks_and_captions(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Discs(), Squares(), Caption(), Grey()], photos=7, shard_size=3, broken=[2])
    out = tmp_path / "out"
    report = export(store, str(out), Coco())
    assert list(report.columns_left) == ["grey"] and report.written == 3
    found = {name: loaded(out / "images.json", out / f"{name}.json") for name in ("discs", "squares")}
    captions = json.loads((out / "caption.json").read_text())
    numbers = {image["name"]: image["id"] for image in json.loads((out / "images.json").read_text())["images"]}
    boxes = dict.fromkeys(found, 0)
    said = {item["image_id"]: item["caption"] for item in captions}
    for sample in LabelReader(store).samples():
        number = numbers[sample.record.image_id]
        for name, results in found.items():
            anns = results.loadAnns(results.getAnnIds(imgIds=[number]))
            value = sample.labels[name].value
            if not isinstance(value, Instances):
                assert anns == []
                continue
            boxes[name] += len(anns)
            for row, ann in enumerate(anns):
                left, top, right, bottom = value.boxes_N4[row].tolist()
                assert ann["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=1e-3)
                assert ann["category_id"] == value.class_ids_N[row] + 1 and ann["score"] == pytest.approx(
                    value.scores_N[row]
                )
                if value.masks is not None:
                    mask = coco_mask.decode(ann["segmentation"])
                    part = cv2.imdecode(np.frombuffer(value.masks[row], np.uint8), cv2.IMREAD_UNCHANGED) > 0
                    assert mask.shape == (sample.height, sample.width) and mask.sum() == part.sum()
                    assert np.array_equal(mask[int(top) : int(bottom), int(left) : int(right)], part)
        text = sample.labels["caption"].value
        assert said.get(number) == (text.text if isinstance(text, Text) else None)
    assert boxes["discs"] == 12 and boxes["squares"] > 0
    assert verify(store, str(out), Coco()) == []


def test_cocos_classes_and_pictures_have_cocos_numbers(tmp_path: Path) -> None:
    records = write_photos(tmp_path / "photos", photos=3)
    ids = ("coco_000000391895", "vg_61512", records[2].image_id)
    keys = ((), ("coco:248774",), ("flickr:1",))
    records = [
        ImageRecord(image_id=name, source=r.source, uri=r.uri, captions=r.captions, split=r.split, keys=also)
        for name, also, r in zip(ids, keys, records, strict=True)
    ]
    from pipeline.store import LabelStore

    store = LabelStore.create(str(tmp_path / "store"), write_manifest(tmp_path, records), shard_size=2)
    label(store, [Things()])
    export(store, str(tmp_path / "out"), Coco())
    about = json.loads((tmp_path / "out/images.json").read_text())
    assert [image["id"] for image in about["images"]] == [391895, 248774, FIRST_OTHER + 1_000_000]
    assert [(c["id"], c["name"]) for c in about["categories"]][::79] == [(1, "person"), (90, "toothbrush")]
    results = json.loads((tmp_path / "out/things.json").read_text())
    assert [result["category_id"] for result in results] == [1, 90] * 3
    assert results[0] == {"image_id": 391895, "category_id": 1, "bbox": [0.1, 2.0, 9.6, 8.0], "score": 0.9}


def test_the_gaps_are_cocos() -> None:
    assert len(COCO_CATEGORIES) == 80 and COCO_CATEGORIES[-1] == 90
    known = {
        "stop sign": 13,
        "backpack": 27,
        "handbag": 31,
        "wine glass": 46,
        "dining table": 67,
        "toilet": 70,
        "tv": 72,
    }
    names = class_names("coco")
    assert {name: COCO_CATEGORIES[names.index(name)] for name in known} == known


def test_numbers_do_not_depend_on_who_else_is_there() -> None:
    record = ImageRecord(image_id="a", source="x", uri="file:///a.jpg")
    assert image_number(record, 3, 17) == FIRST_OTHER + 3_000_017


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(-3, 12), st.integers(-3, 12))
def test_masks_are_packed_as_by_cocos_own_code(seed: int, height: int, width: int, left: int, top: int) -> None:
    rng = np.random.default_rng(seed)
    mask_hw = rng.random((height, width)) < rng.choice([0.0, 0.3, 0.8, 1.0])
    whole = np.zeros((11, 13), np.uint8)
    for y, x in np.argwhere(mask_hw):
        if 0 <= y + top < 11 and 0 <= x + left < 13:
            whole[y + top, x + left] = 1
    expected = coco_mask.encode(np.asfortranarray(whole))["counts"].decode()
    assert packed(run_lengths(mask_hw, left, top, 11, 13)) == expected


@pytest.mark.parametrize("size", [(480, 640), (3000, 4000)])
def test_long_runs_are_packed_as_by_cocos_own_code(size: tuple[int, int]) -> None:
    whole = np.zeros(size, np.uint8)
    cv2.circle(whole, (size[1] // 2, size[0] // 2), size[0] // 3, 1, -1)
    expected = coco_mask.encode(np.asfortranarray(whole))["counts"].decode()
    assert packed(run_lengths(whole > 0, 0, 0, *size)) == expected


def test_a_shard_more_is_added_to_the_results(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Squares()], photos=8, shard_size=2)
    column = store.column_of("squares")
    whole, partly = tmp_path / "whole", tmp_path / "partly"
    export(store, str(whole), Coco())
    store.withdraw(column, 2)
    export(store, str(partly), Coco())
    assert (partly / "squares.json").read_bytes() != (whole / "squares.json").read_bytes()
    label(store, [Squares()])
    report = export(store, str(partly), Coco())
    assert (report.written, report.skipped) == (1, 3)
    for name in ("squares.json", "images.json"):
        assert (partly / name).read_bytes() == (whole / name).read_bytes()
    assert verify(store, str(partly), Coco()) == []


def test_nothing_for_coco_is_one_line(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=2)
    with pytest.raises(StoreError, match="coco: grey: map is no COCO result"):
        export(store, str(tmp_path / "out"), Coco(), columns=["grey", "squares"])
    assert not (tmp_path / "out").exists()
