"""Statistics in receipts: what each kind says, that a retry says the same, and that older receipts are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from expert_zoo.labels import ClassMap, DenseMap, Label, Text, instances
from pipeline.receipt import Receipt
from pipeline.statistics import Statistics, Sums, facts_of
from pipeline.store import LabelStore
from tests.small_store import Caption, Slopes, every_kind, label, small_store
from tests.stand_ins import DARKNESS, GREY, SQUARES, Squares, Troubled

SIZE = (10, 20)


def summed(spec: object, *labels: Label) -> Statistics:
    sums = Sums()
    for one in labels:
        sums.add(facts_of(spec, one, SIZE))  # type: ignore[arg-type]
    return sums.statistics


def test_maps() -> None:
    ramp_HW = np.linspace(0, 2, 11, dtype=np.float32)[None].repeat(4, 0)
    flat_HW = np.full((4, 11), 3, np.float32)
    labels = [Label.ok(DenseMap(ramp_HW)), Label.ok(DenseMap(flat_HW)), Label.failed("missing: no file")]
    found = summed(GREY, *labels, Label.failed("bad label: 3 of 4 values are NaN or infinite")).numbers
    assert found == {
        "constant": 0.5,
        "mean": 2.0,
        "spread": pytest.approx(0.316228),
        "not_finite": pytest.approx(1 / 3, 1e-5),
    }


def test_three_channels_are_told_apart() -> None:
    values_HW3 = np.zeros((2, 2, 3), np.float32)
    values_HW3[..., 2] = 1
    found = summed(Slopes().card.spec, Label.ok(DenseMap(values_HW3))).numbers
    assert (found["mean_0"], found["mean_1"], found["mean_2"], found["constant"]) == (0, 0, 1, 1)


def test_classes() -> None:
    half_HW = np.array([[0, 1], [1, 1]], np.uint8)
    ignored_HW = np.array([[255, 255], [255, 1]], np.uint8)
    found = summed(DARKNESS, Label.ok(ClassMap(half_HW)), Label.ok(ClassMap(ignored_HW)))
    assert found.numbers["coverage"] == 0.625 and found.numbers["constant"] == 0 and found.numbers["distinct"] == 1.5
    assert found.classes == {"1": 0.8, "0": 0.2} and found.numbers["entropy"] == pytest.approx(0.721928)


def test_objects_count_empty_rows_and_texts_their_repeats() -> None:
    boxes = instances([[0, 0, 10, 10], [5, 5, 15, 10]], [0.5, 1.0], [0, 0])
    found = summed(SQUARES, boxes, Label.empty()).numbers
    assert found == {"per_image": 1, "coverage": 0.375, "score": 0.75, "entropy": 0}
    texts = [Label.ok(Text(text, -2.0)) for text in ("a room", "a room", "a red room", "a room")]
    found = summed(Caption().card.spec, *texts).numbers
    assert found == {"words": 2.25, "log_prob": -2, "distinct": 0.5, "not_finite": 0}


def test_every_number_of_a_store_is_documented(tmp_path: Path) -> None:
    document = (Path(__file__).parents[1] / "docs/store-format.md").read_text("utf-8")
    lines = re.findall(
        r"^\| ([\w, ]+) \| (`.*?`) \|", document.split("### Statistics")[1].split("\n## ")[0], re.MULTILINE
    )
    told = {
        (kind, name) for kinds, names in lines for kind in kinds.split(", ") for name in re.findall(r"`(\w+)`", names)
    }
    store = small_store(tmp_path, every_kind(), broken=[2])
    seen = set()
    for column, card in store.columns().items():
        statistics = store.receipt(column, store.plan.shard(0)).statistics
        assert statistics is not None and statistics.numbers
        seen |= {(card.spec.kind, re.sub(r"_\d$", "", name)) for name in statistics.numbers}
    assert seen == told


def test_a_retry_counts_the_rows_that_it_keeps(tmp_path: Path) -> None:
    sick, well = Troubled(trouble="fail", at="photo-1"), Troubled(trouble="", at="nobody")
    store = small_store(tmp_path / "retried", [sick, Squares()])
    label(store, [well], retry=True)
    other = small_store(tmp_path / "at_once", [well, Squares()])
    for shard in store.plan.shards():
        column = well.card.column
        mended, whole = (s.receipt(column, shard).statistics for s in (store, other))
        assert mended and whole and mended.classes == whole.classes
        assert mended.numbers == pytest.approx(whole.numbers, abs=2e-5), "kept rows are as they are stored, to 16 bits"


def test_a_receipt_from_before_statistics_is_read(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Squares()])
    (column,) = store.columns()
    path = tmp_path / "store" / "labels" / column / "shard-000000.json"
    older = json.loads(path.read_text())
    assert older.pop("statistics") and older.pop("worker")
    path.write_text(json.dumps(older))
    receipt = LabelStore.open(store.storage.url).receipt(column, store.plan.shard(0))
    assert isinstance(receipt, Receipt) and receipt.statistics is None and receipt.worker == ""
