"""Parquet as Hugging Face's `datasets` opens it: pictures as pictures, classes with names, every label as the reader reads it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from expert_zoo.labels import ClassMap, DenseMap, Instances, Picture, Scores, Text, Words
from pipeline.errors import StoreError
from pipeline.exports.hf import HuggingFace, with_palette
from pipeline.exports.run import export, verify
from pipeline.png import read_png, write_png
from pipeline.reader import LabelReader
from pipeline.store import LabelStore
from tests.small_store import every_kind, small_store
from tests.stand_ins import Grey, Squares

datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed; `pip install datasets`")

PHOTOS = 12


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts what is loaded at its makers', unless it is told not to."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    return small_store(tmp_path_factory.mktemp("hf"), every_kind(), photos=PHOTOS, shard_size=5, broken=[3])


def opened(out: Path, cache: Path) -> Any:
    return datasets.load_dataset("parquet", data_files=f"{out}/data/*.parquet", cache_dir=str(cache), split="train")


def test_datasets_shows_what_the_reader_reads(store: LabelStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = export(store, str(out), HuggingFace())
    assert (report.written, report.samples) == (3, PHOTOS)
    found = opened(out, tmp_path / "cache")
    for name in ("image", "grey", "slopes", "darkness"):
        assert isinstance(found.features[name], datasets.Image)
    assert found.features["discs"]["classes"].feature.names == ["disc", "hole"]
    for sample, row in zip(LabelReader(store).samples(), found, strict=True):
        record = sample.record
        assert (row["image_id"], row["uri"], row["split"]) == (record.image_id, record.uri, record.split)
        assert row["captions"] == list(record.captions) and (row["height"], row["width"]) == (
            sample.height,
            sample.width,
        )
        for name, label in sample.labels.items():
            shown = row[name]
            if name != "image":
                assert (row[f"{name}_status"], row[f"{name}_reason"]) == (label.status, label.reason)
            match label.value:
                case None:
                    assert shown is None
                case Picture(data, _):
                    assert np.array_equal(np.asarray(shown), read_png(data))
                case DenseMap(values):
                    said = np.asarray(shown) * row[f"{name}_scale"] + row[f"{name}_bias"]
                    assert np.array_equal(said.astype(np.float32), values)
                case ClassMap(ids_HW):
                    assert shown.mode == "P" and np.array_equal(np.asarray(shown), ids_HW)
                case Instances(boxes_N4, scores_N, class_ids_N, masks):
                    assert np.array_equal(np.float32(shown["boxes"]), boxes_N4)
                    assert np.array_equal(np.float32(shown["scores"]), scores_N)
                    assert shown["classes"] == class_ids_N.tolist()
                    pairs = zip(shown["masks"], masks or (), strict=True)
                    assert all(np.array_equal(np.asarray(mask), read_png(data)) for mask, data in pairs)
                case Words(polygons_N42, texts, _):
                    assert np.array_equal(np.float32(shown["polygons"]).reshape(-1, 4, 2), polygons_N42)
                    assert shown["texts"] == list(texts)
                case Text(text, log_prob):
                    assert (shown, row[f"{name}_log_prob"]) == (text, log_prob)
                case Scores(values_N):
                    assert np.array_equal(np.float32(shown), values_N)
                case other:
                    raise AssertionError(other)
    assert verify(store, str(out), HuggingFace()) == []


def test_the_folder_is_a_dataset_by_itself(store: LabelStore, tmp_path: Path) -> None:
    """The receipts beside the data are JSON, which datasets must not take for data."""
    export(store, str(tmp_path / "out"), HuggingFace(), columns=["grey"])
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    assert len(found) == PHOTOS and "image" not in found.features
    assert "| grey |" in (tmp_path / "out/README.md").read_text()
    export(store, str(tmp_path / "out"), HuggingFace(), columns=["squares"], overwrite=True)
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache2"), split="train")
    assert "squares" in found.features and "grey" not in found.features
    assert (
        "| squares |" in (tmp_path / "out/README.md").read_text()
        and verify(store, str(tmp_path / "out"), HuggingFace()) == []
    )


def test_photos_and_missing_cells(store: LabelStore, tmp_path: Path) -> None:
    export(store, str(tmp_path / "out"), HuggingFace(photos=True), columns=["squares"])
    found = opened(tmp_path / "out", tmp_path / "cache")
    assert [row["image"] is None for row in found] == [index == 3 for index in range(PHOTOS)]
    partly = small_store(tmp_path, [Grey(), Squares()], photos=4, shard_size=2)
    partly.withdraw(partly.column_of("grey"), 1)
    export(partly, str(tmp_path / "partly"), HuggingFace())
    rows = list(opened(tmp_path / "partly", tmp_path / "cache2"))
    assert [row["grey_status"] for row in rows] == ["ok", "ok", "missing", "missing"]
    assert rows[3]["grey"] is None and rows[1]["grey"] is not None


def test_rows_come_in_small_groups_and_photos_are_not_compressed_again(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.exports.hf.GROUP", 2)
    export(store, str(tmp_path), HuggingFace())
    file = pq.ParquetFile(tmp_path / "data/000000.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [2, 2, 1]
    codecs = {
        column["path_in_schema"]: column["compression"] for column in file.metadata.row_group(0).to_dict()["columns"]
    }
    assert codecs["image.bytes"] == codecs["grey.bytes"] == "UNCOMPRESSED" and codecs["captions.list.element"] == "ZSTD"


def test_a_palette_changes_no_pixel() -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(8, 32)
    shown = Image.open(io.BytesIO(with_palette(write_png(ids))))
    assert shown.mode == "P" and np.array_equal(np.asarray(shown), ids)
    colours = np.asarray(shown.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours[:12], axis=0)) == 12 and colours[255].tolist() == [0, 0, 0]
    for other in (write_png(ids.astype(np.uint16)), b"no picture"):
        assert with_palette(other) == other


def test_a_column_with_a_name_of_the_records_is_refused(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(name="split")], photos=2)
    with pytest.raises(StoreError, match="would be the column split"):
        export(store, str(tmp_path / "out"), HuggingFace())
