"""Status from listings and from receipts, and the agreement of a store's columns with its truth columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import DenseMap, Label
from pipeline.against import agreement
from pipeline.errors import DamagedCell, StoreError
from pipeline.receipt import Seconds
from pipeline.status import status
from pipeline.storage import LocalStorage
from pipeline.store import LabelStore
from tests.small_store import Caption, label, small_store
from tests.stand_ins import Darkness, Grey, Squares, Troubled, card


def test_status_lists_and_reads_no_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=11, shard_size=4)
    store.withdraw(store.column_of("squares"), 2)
    store.withdraw(store.column_of("grey"), 0)
    store.add_column(Darkness().card)
    opened: list[str] = []
    read = LocalStorage.read
    monkeypatch.setattr(LocalStorage, "read", lambda self, name: (opened.append(name), read(self, name))[1])
    found = status(store)
    assert [(c.expert, c.committed, c.missing, c.images) for c in found.columns] == [
        ("darkness", 0, 3, 0),
        ("grey", 2, 1, 7),
        ("squares", 2, 1, 8),
    ]
    assert (found.cells, found.committed, found.complete, found.shards) == (9, 4, False, 3)
    assert found.rows is None and found.bytes is None and found.seconds is None
    assert (found.plan.images, found.plan_fingerprint) == (11, store.plan.fingerprint)
    assert not [name for name in opened if "shard-" in name]


def test_status_counts_failures(tmp_path: Path) -> None:
    sick = Troubled(trouble="fail", at="photo-4")
    store = small_store(tmp_path, [Grey(), Squares(), sick], photos=11, shard_size=4, broken=[1, 6])
    found = {column.expert: column for column in status(store, failures=True).columns}
    assert status(store).complete
    assert found["grey"].rows is not None and found["squares"].rows is not None
    assert (found["grey"].rows.ok, found["grey"].rows.failed) == (9, 2)
    assert found["grey"].rows.reasons == {"empty file": 2}
    assert (found["squares"].rows.empty, found["squares"].rows.failed) == (5, 2)
    assert found["troubled"].rows is not None
    assert list(found["troubled"].rows.reasons.items()) == [("empty file", 2), ("dislike", 1)], "most frequent first"
    for column in found.values():
        folder = tmp_path / "store" / "labels" / column.column
        assert column.bytes == sum(p.stat().st_size for p in folder.iterdir() if p.suffix in (".tar", ".parquet"))
    total = status(store, failures=True)
    assert total.rows is not None and (total.rows.ok, total.rows.empty, total.rows.failed) == (9 + 4 + 8, 5, 2 + 2 + 3)
    assert total.bytes == sum(column.bytes or 0 for column in total.columns)
    expected = Seconds()
    for column in store.columns():
        for shard in store.plan.shards():
            expected.add(store.receipt(column, shard).seconds)
    assert total.seconds is not None and total.seconds.compute == pytest.approx(expected.compute)
    assert total.seconds.encode == pytest.approx(expected.encode) and expected.encode > 0


def test_status_tells_of_receipts_that_cannot_be_read(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=6, shard_size=2)
    folder = tmp_path / "store" / store.folder(store.column_of("grey"))
    (folder / "shard-000001.json").write_text("?")
    (folder / "shard-000009.json").write_text("a receipt beyond the plan")
    (about,) = status(store, failures=True).columns
    assert (about.committed, about.missing, about.damaged) == (3, 0, 1)
    assert about.rows is not None and len(about.rows) == 4


# ---- agreement


class Brighter(Expert):
    """`Grey` times ``factor``, called ``name``."""

    def __init__(self, name: str, factor: float) -> None:
        self.card = card(name, Grey().card.spec)
        self._factor = np.float32(factor)

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        values = [Grey().one(photo).value for photo in photos]
        return [Label.ok(DenseMap(value.values * self._factor)) for value in values if isinstance(value, DenseMap)]


class TrueSquares(Squares):
    def __init__(self) -> None:
        super().__init__()
        self.card = card("truth_squares", self.card.spec)


def truth_store(tmp_path: Path) -> LabelStore:
    experts = [Brighter("truth_grey", 1.0), Brighter("close", 1.2), Brighter("far", 1.5), TrueSquares(), Squares()]
    return small_store(tmp_path, [*experts, Caption()], photos=9, shard_size=4, broken=[5])


def test_agreement_pairs_what_measures_the_same(tmp_path: Path) -> None:
    rows = agreement(truth_store(tmp_path), "truth")
    assert [(row.column.split("@")[0], row.truth.split("@")[0], row.quantity) for row in rows] == [
        ("close", "truth_grey", "depth"),
        ("far", "truth_grey", "depth"),
        ("squares", "truth_squares", "objects"),
    ]
    close, far, squares = (row.metrics for row in rows)
    assert (close["delta1"], far["delta1"], squares["ap50"]) == (1.0, 0.0, 1.0)
    assert close["abs_rel"] == pytest.approx(0.2, abs=1e-3) and far["abs_rel"] == pytest.approx(0.5, abs=1e-3)
    for row in rows:
        assert (row.metrics["compared"], row.metrics["without_truth"], row.metrics["without_label"]) == (8, 1, 0)
        assert row.headline in row.metrics


def test_agreement_of_chosen_columns_and_missing_cells(tmp_path: Path) -> None:
    store = truth_store(tmp_path)
    store.withdraw(store.column_of("far"), 0)
    store.withdraw(store.column_of("truth_grey"), 2)
    (row,) = agreement(store, "truth_", columns=["far"])
    counts = row.metrics["compared"], row.metrics["without_label"], row.metrics["without_truth"]
    assert counts == (3, 4, 1), "shard 2 has no truth and is left out; photo 5 is broken"


def test_agreement_says_what_is_lacking(tmp_path: Path) -> None:
    store = truth_store(tmp_path)
    with pytest.raises(StoreError, match=r"has no column gold_\.\.\.; it has caption@"):
        agreement(store, "gold")
    with pytest.raises(StoreError, match="caption@.* cannot be compared with truth_"):
        agreement(store, "truth", columns=["caption"])
    (parquet,) = (tmp_path / "store" / store.folder(store.column_of("far"))).glob("shard-000001.*.parquet")
    parquet.write_bytes(b"")
    with pytest.raises(DamagedCell, match="audit --repair"):
        agreement(store, "truth")


def test_a_refilled_store_is_complete(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=4, shard_size=2)
    store.withdraw(store.column_of("grey"), 1)
    assert not status(store).complete
    label(store, [Grey()])
    assert status(store).complete
