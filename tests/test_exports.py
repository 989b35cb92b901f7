"""Exports in general, by the example of WebDataset: read back by the real package, resumable, verified, and never mixed."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import webdataset

from expert_zoo.image import Image
from expert_zoo.labels import ClassMap, DenseMap, Instances, Picture, Scores, Text, Words
from pipeline.difference import difference
from pipeline.errors import DamagedCell, StoreError
from pipeline.exports.claim import CLAIM, LOCK
from pipeline.exports.coco import Coco
from pipeline.exports.run import ExportReport, export, verify
from pipeline.exports.webdataset import WebDataset
from pipeline.growing import grow
from pipeline.reader import LabelReader, Sample
from pipeline.store import LabelStore
from tests.small_store import every_kind, label, small_store, write_manifest, write_photos
from tests.stand_ins import Grey, Squares, Troubled

PHOTOS = 12
BROKEN = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    return small_store(tmp_path_factory.mktemp("export"), every_kind(), photos=PHOTOS, shard_size=5, broken=[BROKEN])


def export_webdataset(store: LabelStore, out: str, **more: Any) -> ExportReport:
    return export(store, out, WebDataset(), **more)


def problems_with(store: LabelStore, out: Path | str) -> list[str]:
    return verify(store, str(out), WebDataset())


def read_back(out: Path) -> list[dict[str, Any]]:
    urls = [str(path) for path in sorted(out.glob("*.tar"))]
    return list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))


def contents(out: Path) -> dict[str, str]:
    found = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != LOCK)
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


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
    assert problems_with(store, tmp_path / "out") == []


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


def test_the_same_cells_are_the_same_bytes_in_whatever_order_they_are_named(store: LabelStore, tmp_path: Path) -> None:
    names = ["squares", "image", "grey"]
    export_webdataset(store, str(tmp_path / "one"), columns=names)
    export_webdataset(store, str(tmp_path / "two"), columns=names[::-1])
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert problems_with(store, tmp_path / "one") == []
    assert export_webdataset(store, str(tmp_path / "one"), columns=names[::-1]).skipped == 3


def test_export_json_has_every_spec(store: LabelStore, tmp_path: Path) -> None:
    export_webdataset(store, str(tmp_path))
    about = json.loads((tmp_path / "export.json").read_text())
    assert about["plan"] == store.plan.parts[0].fingerprint and about["layout"] == "webdataset"
    for card in store.columns().values():
        assert type(card.spec).model_validate(about["columns"][card.name]["spec"]) == card.spec


def test_a_second_export_touches_nothing(store: LabelStore, tmp_path: Path) -> None:
    export_webdataset(store, str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != LOCK}
    report = export_webdataset(store, str(tmp_path))
    assert (report.written, report.skipped, report.files) == (0, 3, 0) and report.samples == PHOTOS
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != LOCK} == before


@pytest.mark.parametrize("step", range(1, 12))
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
    if (tmp_path / "out" / "export.json").exists():
        problems = problems_with(store, tmp_path / "out")
        # The last write is the receipt of the whole, of which WebDataset has no file.
        assert len(problems) == (step < 11) and all("shards are not there" in problem for problem in problems)
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
    assert problems_with(store, out) == []


def test_missing_cells_are_named_and_have_no_member(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=9, shard_size=3)
    for column in store.columns():
        store.withdraw(column, 1)
    store.withdraw(store.column_of("squares"), 0)
    report = export_webdataset(store, str(tmp_path / "out"))
    assert (report.written, report.left_out, report.missing, report.samples) == (2, 1, 1, 6)
    for sample in read_back(tmp_path / "out")[:3]:
        assert json.loads(sample["json"])["labels"]["squares"]["status"] == "missing"
        assert "squares.json" not in sample and "grey.png" in sample


def test_verify_finds_damage_and_what_is_missing(store: LabelStore, tmp_path: Path) -> None:
    export_webdataset(store, str(tmp_path), columns=["grey"])
    data = bytearray((tmp_path / "000001.tar").read_bytes())
    data[700] ^= 1
    (tmp_path / "000001.tar").write_bytes(data)
    (tmp_path / "000002.tar").unlink()
    (tmp_path / "receipts/000000.json").unlink()
    found = problems_with(store, tmp_path)
    assert found == [
        "000001.tar is not what the store says; export again",
        "000002.tar is missing; export again",
        "1 of 3 shards are not there (000000); export again",
    ]
    report = export_webdataset(store, str(tmp_path), columns=["grey"])
    assert (report.written, report.skipped) == (2, 1), "a tar of the right size is not read again by an export"
    (tmp_path / "receipts/000001.json").unlink()
    export_webdataset(store, str(tmp_path), columns=["grey"])
    assert problems_with(store, tmp_path) == []
    with (tmp_path / "000002.tar").open("ab") as tar:
        tar.write(b"more")
    assert problems_with(store, tmp_path) == ["000002.tar is not what the store says; export again"]
    export_webdataset(store, str(tmp_path), columns=["grey"], overwrite=True)
    assert problems_with(store, tmp_path) == []


def test_verify_sees_that_the_store_went_on(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(), Troubled(trouble="fail", at="photo-0")], photos=6, shard_size=3)
    export_webdataset(store, str(tmp_path / "out"))
    assert problems_with(store, tmp_path / "out") == []
    label(store, [Troubled(trouble="", at="nobody")], retry=True)
    (problem,) = problems_with(store, tmp_path / "out")
    assert problem == "shard 000000 was labelled again or further since it was exported; export again"


def test_another_store_or_other_columns_are_refused(store: LabelStore, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    export_webdataset(store, out, columns=["grey", "squares"])
    with pytest.raises(StoreError, match="asked for is grey@"):
        export_webdataset(store, out, columns=["grey"])
    with pytest.raises(StoreError, match="with photos False, asked for is True"):
        export(store, out, WebDataset(photos=True), columns=["grey", "squares"])
    with pytest.raises(StoreError, match="export as webdataset, not coco"):
        export(store, out, Coco(), columns=["squares"])
    with pytest.raises(StoreError, match="export as webdataset, not coco"):
        export(store, out, Coco(), columns=["squares"], overwrite=True)
    other = small_store(tmp_path / "other", [Grey(), Squares()], photos=3, shard_size=2)
    with pytest.raises(StoreError, match="export of another store"):
        export_webdataset(other, out)
    report = export_webdataset(other, out, overwrite=True)
    assert report.written == 2 and len(read_back(tmp_path / "out")) == 3, "the larger export's tars must be gone"


def test_what_is_not_ours_is_refused(store: LabelStore, tmp_path: Path) -> None:
    (tmp_path / "000000.tar").write_bytes(b"somebody's")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="no export of ours"):
            export_webdataset(store, str(tmp_path), overwrite=overwrite)
    with pytest.raises(StoreError, match="is a label store"):
        export_webdataset(store, store.storage.url, overwrite=True)
    with pytest.raises(StoreError, match="is no export"):
        problems_with(store, tmp_path / "nowhere")
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
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", LOCK]


def test_memory_store_to_memory_export(tmp_path: Path) -> None:
    import fsspec

    name = tmp_path.name
    store = small_store(tmp_path, [Grey(), Squares()], photos=4, url=f"memory://{name}/store")
    report = export_webdataset(store, f"memory://{name}/out")
    assert report.written == 1 and problems_with(store, f"memory://{name}/out") == []
    assert export_webdataset(store, f"memory://{name}/out").skipped == 1
    data = fsspec.filesystem("memory").cat(f"/{name}/out/000000.tar")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert sum(member.name.endswith(".grey.png") for member in tar) == 4


def test_a_receipt_of_a_newer_version_is_read(store: LabelStore, tmp_path: Path) -> None:
    export_webdataset(store, str(tmp_path), columns=["grey"])
    path = tmp_path / "receipts/000000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fresh": 1}))
    assert problems_with(store, tmp_path) == []
    assert export_webdataset(store, str(tmp_path), columns=["grey"]).written == 0


def test_photos_come_from_their_addresses_where_no_column_has_them(store: LabelStore, tmp_path: Path) -> None:
    report = export(store, str(tmp_path), WebDataset(photos=True), columns=["grey"])
    (broken,) = [
        sample for sample in LabelReader(store, ["image"]).samples() if sample.labels["image"].status == "failed"
    ]
    assert report.unread == {broken.record.image_id: broken.labels["image"].reason}
    assert report.photos_failed == {broken.labels["image"].reason.partition(":")[0]: 1}
    for sample, found in zip(LabelReader(store, ["image"]).samples(), read_back(tmp_path), strict=True):
        picture = sample.labels["image"].value
        assert found.get("png") == (picture.data if isinstance(picture, Picture) else None)
    assert verify(store, str(tmp_path), WebDataset(photos=True)) == []


# ---- two at once, and kills


def test_two_exports_into_one_folder_are_refused(store: LabelStore, tmp_path: Path) -> None:
    refused = []

    def second(done: int, total: int) -> None:
        with pytest.raises(StoreError, match="another export is at work"):
            export_webdataset(store, str(tmp_path))
        refused.append(done)

    report = export_webdataset(store, str(tmp_path), progress=second)
    assert refused == [1, 2, 3] and report.written == 3
    assert problems_with(store, tmp_path) == []


def test_two_exports_to_one_url_are_refused_until_the_claim_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    url = f"memory://{tmp_path.name}/out"
    store = small_store(tmp_path, [Grey()], photos=4, shard_size=2)

    def killed(done: int, total: int) -> None:
        with pytest.raises(StoreError, match="is at work in"):
            export_webdataset(store, url)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        # A SIGKILL leaves the claim behind.
        patch.setattr("pipeline.storage.RemoteStorage.delete", lambda self, name: None)
        export_webdataset(store, url, progress=killed)
    with pytest.raises(StoreError, match="was killed there a short while ago"):
        export_webdataset(store, url)
    files = fsspec.filesystem("memory")
    claim = json.loads(files.cat(f"/{tmp_path.name}/out/{CLAIM}"))
    files.pipe(f"/{tmp_path.name}/out/{CLAIM}", json.dumps(claim | {"until": 0}).encode())
    report = export_webdataset(store, url)
    assert (report.written, report.skipped) == (1, 1)
    assert not files.exists(f"/{tmp_path.name}/out/{CLAIM}") and problems_with(store, url) == []


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    """SIGKILL in the middle of a shard; the next export goes on at once, writes only what is missing, and leaves no litter."""
    store = small_store(tmp_path, [Grey(), Squares()], photos=8, shard_size=2)
    out = tmp_path / "out"
    script = (
        "import os, signal, sys\n"
        "from pipeline.exports.run import export\n"
        "from pipeline.exports.webdataset import WebDataset\n"
        "from pipeline.store import LabelStore\n"
        "from pipeline.storage import LocalStorage\n"
        "settle = LocalStorage.settle\n"
        "def dying(self, temporary, name):\n"
        "    if name == '000002.tar':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return settle(self, temporary, name)\n"
        "LocalStorage.settle = dying\n"
        "export(LabelStore.open(sys.argv[1]), sys.argv[2], WebDataset())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, store.storage.url, str(out)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()
    assert len(list(out.glob("tmp-*"))) == 1
    report = export_webdataset(store, str(out))
    assert (report.written, report.skipped) == (2, 2)
    assert list(out.rglob("tmp-*")) == [] and problems_with(store, out) == []


def test_a_store_that_grew_and_shrank_is_exported_further(tmp_path: Path) -> None:
    """New images are new tars; where an image was dropped or a caption changed, the tar is made again; no other is touched."""
    records = write_photos(tmp_path / "photos", photos=12)
    store = LabelStore.create(str(tmp_path / "store"), write_manifest(tmp_path, records[:8]), shard_size=2)
    label(store, [Grey()])
    out = tmp_path / "out"
    assert export_webdataset(store, str(out)).written == 4
    asked = [record for index, record in enumerate(records) if index != 2]
    asked[0] = dataclasses.replace(asked[0], captions=("another",))
    manifest = write_manifest(tmp_path, asked)
    store = grow(store, manifest, difference(store, manifest))
    label(store, [Grey()])
    assert "labelled again or further" in problems_with(store, out)[0]
    report = export_webdataset(store, str(out))
    assert (report.written, report.skipped, report.samples) == (4, 2, 11), "shards 0 and 1 changed, 4 and 5 are new"
    found = read_back(out)
    assert [sample["__key__"] for sample in found] == [s.record.image_id for s in LabelReader(store).samples()]
    assert found[0]["txt"] == b"another" and problems_with(store, out) == []


def test_two_versions_of_one_expert_stand_side_by_side(tmp_path: Path) -> None:
    class Darker(Grey):
        def __init__(self) -> None:
            super().__init__()
            self.card = self.card.model_copy(update={"revision": 2})

    store = small_store(tmp_path, [Grey()], photos=4, shard_size=2)
    label(store, [Darker()])
    columns = [Grey().card.column, Darker().card.column]
    export_webdataset(store, str(tmp_path / "out"), columns=columns)
    (sample, *_) = read_back(tmp_path / "out")
    assert {f"{column}.png" for column in columns} < set(sample)
    assert set(json.loads(sample["json"])["labels"]) == set(columns)
    assert problems_with(store, tmp_path / "out") == []
