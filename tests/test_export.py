"""Export as WebDataset: read back by the real package, equal to what LabelReader reads; resumable, and never mixed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import webdataset

from expert_zoo.image import Image
from expert_zoo.labels import ClassMap, DenseMap, Instances, Picture, Scores, Text, Words
from pipeline.errors import DamagedCell, StoreError
from pipeline.export import export_webdataset, verify
from pipeline.reader import LabelReader, Sample
from pipeline.store import LabelStore
from tests.small_store import every_kind, label, small_store
from tests.stand_ins import Grey, Squares, Troubled

PHOTOS = 12
BROKEN = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    return small_store(tmp_path_factory.mktemp("export"), every_kind(), photos=PHOTOS, shard_size=5, broken=[BROKEN])


def read_back(out: Path) -> list[dict[str, Any]]:
    urls = [str(path) for path in sorted(out.glob("*.tar"))]
    return list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))


def contents(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


def png(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.ndim == 3 else pixels


def assert_same(sample: Sample, found: dict[str, Any]) -> set[str]:
    """That the webdataset sample says what the reader's says; returns the fields that were compared."""
    about = json.loads(found["json"])
    seen = {"json", "__key__", "__url__", "__local_path__"}
    for name, expected in sample.labels.items():
        said = about["labels"][name]
        assert (said["status"], said["reason"]) == (expected.status, expected.reason)
        dense = found.get(f"{name}.png")
        match expected.value:
            case None:
                assert dense is None and f"{name}.json" not in found
                continue
            case DenseMap(values):
                assert np.array_equal((png(dense) * said["scale"] + said["bias"]).astype(np.float32), values)
                seen.add(f"{name}.png")
                continue
            case ClassMap(ids_HW):
                assert np.array_equal(png(dense), ids_HW)
                seen.add(f"{name}.png")
                continue
            case Picture(data, ending):
                assert found[ending] == data
                seen.add(ending)
                continue
        value = json.loads(found[f"{name}.json"])
        seen.add(f"{name}.json")
        match expected.value:
            case Instances():
                assert np.array_equal(np.float32(value["boxes"]), expected.value.boxes_N4)
                assert np.array_equal(np.float32(value["scores"]), expected.value.scores_N)
                assert value["class_ids"] == expected.value.class_ids_N.tolist()
                masks = [f"{name}.mask{i:03d}.png" for i in range(len(expected.value.masks or ()))]
                assert [found[mask] for mask in masks] == list(expected.value.masks or ())
                seen |= set(masks)
            case Words():
                assert np.array_equal(np.float32(value["polygons"]).reshape(-1, 4, 2), expected.value.polygons_N42)
                assert tuple(value["texts"]) == expected.value.texts
            case Text():
                assert value == {"text": expected.value.text, "log_prob": expected.value.log_prob}
            case Scores():
                assert np.array_equal(np.float32(value["scores"]), expected.value.values_N)
            case other:
                raise AssertionError(other)
    return seen


def test_webdataset_reads_back_what_the_reader_reads(store: LabelStore, tmp_path: Path) -> None:
    report = export_webdataset(store, str(tmp_path / "out"))
    assert (report.written, report.skipped, report.samples, report.missing) == (3, 0, PHOTOS, 0)
    samples, found = list(LabelReader(store).samples()), read_back(tmp_path / "out")
    assert [sample.record.image_id for sample in samples] == [sample["__key__"] for sample in found]
    for sample, back in zip(samples, found, strict=True):
        fields = assert_same(sample, back)
        captions = sample.record.captions
        assert back.get("txt", b"").decode() == "\n".join(captions) and ("txt" in back) == bool(captions)
        about = json.loads(back["json"])
        assert (about["height"], about["width"]) == (sample.height, sample.width)
        assert about["captions"] == list(captions) and about["split"] == "train" and about["uri"] == sample.record.uri
        assert set(back) - fields - {"txt"} == set(), "the export holds a field that no label accounts for"
    assert report.labels["failed"] == 9 and sum(report.labels.values()) == PHOTOS * 9
    assert verify(str(tmp_path / "out")) == []


def test_standard_decoders_show_the_photo(store: LabelStore, tmp_path: Path) -> None:
    export_webdataset(store, str(tmp_path), columns=["image", "squares"])
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    decoded = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("rgb8"))
    for sample, reference in zip(decoded, LabelReader(store, ["image"]).samples(), strict=True):
        picture = reference.labels["image"].value
        assert ("png" in sample) == isinstance(picture, Picture)
        if isinstance(picture, Picture):
            assert np.array_equal(sample["png"], png(picture.data))
        assert set(sample["json"]["labels"]) == {"image", "squares"}


def test_the_same_cells_are_the_same_bytes(store: LabelStore, tmp_path: Path) -> None:
    export_webdataset(store, str(tmp_path / "one"))
    export_webdataset(store, str(tmp_path / "two"))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_dataset_json_has_every_spec(store: LabelStore, tmp_path: Path) -> None:
    export_webdataset(store, str(tmp_path))
    about = json.loads((tmp_path / "dataset.json").read_text())
    assert about["plan"] == store.plan.fingerprint and about["shards"] == 3
    for card in store.columns().values():
        assert type(card.spec).model_validate(about["columns"][card.name]["spec"]) == card.spec


def test_a_second_export_touches_nothing(store: LabelStore, tmp_path: Path) -> None:
    export_webdataset(store, str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    report = export_webdataset(store, str(tmp_path))
    assert (report.written, report.skipped) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("step", range(1, 9))
def test_killed_at_any_write_and_resumed(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The n-th change to the folder fails: what is there has no wrong tar, and a second run makes it whole."""
    from pipeline.storage import LocalStorage

    export_webdataset(store, str(tmp_path / "whole"))
    done = 0

    def failing(method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                raise KeyboardInterrupt
            return method(*arguments)

        return call

    with monkeypatch.context() as patch:
        for name in ("publish", "settle", "_finish"):
            patch.setattr(LocalStorage, name, failing(getattr(LocalStorage, name)))
        with pytest.raises(KeyboardInterrupt):
            export_webdataset(store, str(tmp_path / "out"))
    if (tmp_path / "out" / "dataset.json").exists():
        assert all(re.search("is not finished|are not there", problem) for problem in verify(str(tmp_path / "out")))
    export_webdataset(store, str(tmp_path / "out"))
    for temporary in (tmp_path / "out").glob("tmp-*"):
        os.utime(temporary, (0, 0))  # a young one might be another export's
    export_webdataset(store, str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_new_and_mended_cells_are_exported_again(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(), Troubled(trouble="fail", at="photo-0")], photos=6, shard_size=3)
    out = tmp_path / "out"
    export_webdataset(store, str(out))
    about = json.loads(read_back(out)[0]["json"])["labels"]["troubled"]
    assert about["status"] == "failed" and about["reason"] == "dislike: said so itself" and "scale" not in about
    label(store, [Troubled(trouble="", at="nobody")], retry=True)
    report = export_webdataset(store, str(out))
    assert (report.written, report.skipped) == (1, 1)
    assert json.loads(read_back(out)[0]["json"])["labels"]["troubled"]["status"] == "ok"
    assert verify(str(out)) == []


def test_missing_cells_are_named_and_have_no_member(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=6, shard_size=3)
    for column in store.columns():
        store.withdraw(column, 1)
    store.withdraw(store.column_of("squares"), 0)
    report = export_webdataset(store, str(tmp_path / "out"))
    assert (report.written, report.left_out, report.missing, report.samples) == (1, 1, 1, 3)
    for sample in read_back(tmp_path / "out"):
        assert json.loads(sample["json"])["labels"]["squares"]["status"] == "missing"
        assert "squares.json" not in sample and "grey.png" in sample


def test_verify_finds_damage(store: LabelStore, tmp_path: Path) -> None:
    export_webdataset(store, str(tmp_path), columns=["grey"])
    data = bytearray((tmp_path / "000001.tar").read_bytes())
    data[700] ^= 1
    (tmp_path / "000001.tar").write_bytes(data)
    (tmp_path / "000002.tar").unlink()
    (tmp_path / "000000.json").unlink()
    found = " | ".join(verify(str(tmp_path)))
    assert "000000.tar is not finished" in found and "000001.tar was changed" in found
    assert "000002.tar is missing" in found and found.count("|") == 2
    export_webdataset(store, str(tmp_path), columns=["grey"])
    assert verify(str(tmp_path)) == ["000001.tar was changed after it was written; remove 000001.json and export again"]
    export_webdataset(store, str(tmp_path), columns=["grey"], overwrite=True)
    assert verify(str(tmp_path)) == []


def test_another_store_or_other_columns_are_refused(store: LabelStore, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    export_webdataset(store, out, columns=["grey", "squares"])
    with pytest.raises(StoreError, match="asked for is grey@"):
        export_webdataset(store, out, columns=["grey"])
    other = small_store(tmp_path / "other", [Grey(), Squares()], photos=3, shard_size=2)
    with pytest.raises(StoreError, match="export of another store"):
        export_webdataset(other, out)
    report = export_webdataset(other, out, overwrite=True)
    assert report.written == 2 and len(read_back(tmp_path / "out")) == 3, "the larger export's tars must be gone"


def test_what_is_not_ours_is_refused(store: LabelStore, tmp_path: Path) -> None:
    (tmp_path / "000000.tar").write_bytes(b"somebody's")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="not an export of ours"):
            export_webdataset(store, str(tmp_path), overwrite=overwrite)
    with pytest.raises(StoreError, match="is a label store"):
        export_webdataset(store, store.storage.url, overwrite=True)
    with pytest.raises(StoreError, match="is no export"):
        verify(str(tmp_path / "nowhere"))
    assert (tmp_path / "000000.tar").read_bytes() == b"somebody's"


def test_two_columns_of_photos_are_refused(store: LabelStore, tmp_path: Path) -> None:
    class Copy(Image):
        def __init__(self) -> None:
            super().__init__()
            self.card = self.card.model_copy(update={"name": "copy"})

    two = small_store(tmp_path, [Image(), Copy()], photos=2)
    with pytest.raises(StoreError, match="both hold the photo"):
        export_webdataset(two, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert export_webdataset(two, str(tmp_path / "out"), columns=["copy"]).written == 1


def test_a_cut_cell_stops_the_export(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=3)
    (tar,) = (tmp_path / "store" / "labels").rglob("*.tar")
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(DamagedCell, match="audit --deep --repair"):
        export_webdataset(store, str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset.json"]


def test_memory_store_to_memory_export(tmp_path: Path) -> None:
    import fsspec

    name = tmp_path.name
    store = small_store(tmp_path, [Grey(), Squares()], photos=4, url=f"memory://{name}/store")
    report = export_webdataset(store, f"memory://{name}/out")
    assert report.written == 1 and verify(f"memory://{name}/out") == []
    assert export_webdataset(store, f"memory://{name}/out").skipped == 1
    data = fsspec.filesystem("memory").cat(f"/{name}/out/000000.tar")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert sum(member.name.endswith(".grey.png") for member in tar) == 4


def test_verify_misses_tars_that_are_not_there(store: LabelStore, tmp_path: Path) -> None:
    export_webdataset(store, str(tmp_path), columns=["grey"])
    for ending in ("tar", "json"):
        (tmp_path / f"000001.{ending}").unlink()
    (problem,) = verify(str(tmp_path))
    assert problem.startswith(f"1 of {len(store.plan)} shards are not there (000001.tar)")
    export_webdataset(store, str(tmp_path), columns=["grey"])
    assert verify(str(tmp_path)) == []
    for path in tmp_path.glob("0*"):
        path.unlink()
    assert "are not there (000000.tar, 000001.tar, " in verify(str(tmp_path))[0]


def test_a_tar_receipt_of_a_newer_version_is_read(store: LabelStore, tmp_path: Path) -> None:
    export_webdataset(store, str(tmp_path), columns=["grey"])
    path = tmp_path / "000000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fresh": 1}))
    assert verify(str(tmp_path)) == []
    assert export_webdataset(store, str(tmp_path), columns=["grey"]).written == 0
