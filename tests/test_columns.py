"""Columns side by side: versions of one expert, columns without a cell, columns of a later version of this package."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expert_zoo.card import ExpertCard
from jobs.cli import app
from jobs.preview import write_preview
from pipeline.audit import audit, repair
from pipeline.errors import StoreError, UnknownFormat
from pipeline.exports.run import export, verify
from pipeline.exports.webdataset import WebDataset
from pipeline.reader import LabelReader
from pipeline.status import status
from pipeline.storage import LocalStorage, open_storage
from pipeline.store import LabelStore
from tests.small_store import label, small_store
from tests.stand_ins import Darkness, Grey, Squares, Troubled

runner = CliRunner()


class Sided(Grey):
    """`Grey` in a version of its own for every ``side``; the values tell which."""

    def __init__(self, side: int) -> None:
        super().__init__()
        about = {"preprocessing": {"side": side, "fit": "squash"}, "processing": {"cut": 0.5} if side > 64 else {}}
        self.card = ExpertCard(**(self.card.model_dump() | about))


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return small_store(tmp_path, [Sided(64), Sided(96), Squares()], photos=5, shard_size=3)


SMALL, LARGE = Sided(64).card.column, Sided(96).card.column


# ---- versions of one expert


def test_versions_that_are_not_named_are_refused(store: LabelStore) -> None:
    with pytest.raises(StoreError, match="name the one to read as expert@version"):
        LabelReader(store)
    with pytest.raises(StoreError, match="more than one version of 'grey'"):
        LabelReader(store, ["grey"])


def test_one_that_is_named_goes_by_its_expert(store: LabelStore) -> None:
    reader = LabelReader(store, [LARGE, "squares"])
    assert list(reader.cards) == ["grey", "squares"] and reader.cards["grey"].column == LARGE


def test_both_that_are_named_go_by_their_columns(tmp_path: Path, store: LabelStore) -> None:
    reader = LabelReader(store, [LARGE, SMALL, "squares"])
    assert list(reader.cards) == [LARGE, SMALL, "squares"]
    samples = list(reader.samples())
    assert all(list(sample.labels) == [LARGE, SMALL, "squares"] for sample in samples)
    done = write_preview(reader.samples(), reader.cards, tmp_path / "preview", title="t")
    assert done.shown == 5 and SMALL in done.page.read_text() and LARGE in done.page.read_text()
    out = str(tmp_path / "export")
    assert export(store, out, WebDataset(), columns=sorted([SMALL, LARGE])).samples == 5
    assert not verify(store, out, WebDataset())


def test_the_same_column_twice_is_one(store: LabelStore) -> None:
    assert list(LabelReader(store, [SMALL, SMALL]).cards) == ["grey"]


def test_of_versions_the_one_with_cells_is_meant(store: LabelStore) -> None:
    for index in store.committed(SMALL):
        store.withdraw(SMALL, index)
    assert store.column_of("grey") == LARGE
    assert LabelReader(store).cards["grey"].column == LARGE


def test_status_tells_versions_apart(store: LabelStore) -> None:
    found = {column.column: column.differs for column in status(store).columns}
    assert found[SMALL] == ["side=64", "no cut"] and found[LARGE] == ["side=96", "cut=0.5"]
    assert found[store.column_of("squares")] == []
    told = runner.invoke(app, ["status", store.storage.url], catch_exceptions=False).stdout
    assert f"{SMALL}: side=64, no cut" in told and f"{LARGE}: side=96, cut=0.5" in told


# ---- columns without a cell


def test_a_column_without_a_cell_is_in_nobodys_way(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=5, shard_size=3)
    store.add_column(Darkness().card)
    store.add_column(Sided(64).card)
    reader = LabelReader(store)
    assert list(reader.cards) == ["grey", "squares"] and store.column_of("grey") == Grey().card.column
    assert sorted(column.committed for column in status(store).columns) == [0, 0, 2, 2]
    assert list(LabelReader(store, ["darkness"]).cards) == ["darkness"], "by name it can be asked for"
    done = runner.invoke(app, ["preview", store.storage.url, "-o", str(tmp_path / "p")], catch_exceptions=False)
    assert done.exit_code == 0 and "darkness" not in (tmp_path / "p" / "preview.html").read_text()


# ---- columns of a later version


@pytest.mark.parametrize(("key", "word"), [("kind", "point_cloud"), ("quantity", "temperature"), ("flip", "rotate")])
def test_a_column_of_a_later_version_is_listed_and_left_out(tmp_path: Path, key: str, word: str) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], photos=5, shard_size=3)
    folder = tmp_path / "store" / "labels" / Squares().card.column
    later = folder.with_name("squares@0123456789")
    folder.rename(later)
    about = json.loads((later / "expert.json").read_text())
    about["spec"][key] = word
    (later / "expert.json").write_text(json.dumps(about))
    before = {path.name: path.read_bytes() for path in later.iterdir()}
    found = status(store, failures=True)
    assert [column.expert for column in found.columns] == ["grey"]
    assert list(found.unknown) == [later.name] and f"{key} {word!r} is unknown" in found.unknown[later.name]
    told = runner.invoke(app, ["status", store.storage.url], catch_exceptions=False).stdout
    assert f"left out: {later.name}: " in told
    assert list(LabelReader(store).cards) == ["grey"]
    with pytest.raises(UnknownFormat, match="use the version of expert-labels that wrote it"):
        LabelReader(store, [later.name])
    report = audit(store, deep=True, grace_seconds=0)
    assert [finding.column for finding in report.errors] == [later.name] and not report.damaged
    assert not repair(store, report, grace_seconds=0).swept
    assert {path.name: path.read_bytes() for path in later.iterdir()} == before


def test_a_card_that_is_no_card_is_still_an_error(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()], photos=2)
    (tmp_path / "store" / "labels" / Grey().card.column / "expert.json").write_text('{"spec": {"kind": "map"}}')
    with pytest.raises(StoreError, match="is not an expert card"):
        status(store)


# ---- two retries at once


def test_of_two_retries_of_a_cell_one_replaces_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have read the receipt that they are to replace before either does."""
    sick, well = Troubled(trouble="fail", at="photo-1"), Troubled(trouble="", at="nobody")
    store = small_store(tmp_path, [sick], photos=4, shard_size=4)
    together = threading.Barrier(2)
    replace_if = LocalStorage.replace_if

    def at_once(self: LocalStorage, name: str, stands: object, data: bytes) -> bool:
        together.wait(10)
        return replace_if(self, name, stands, data)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStorage, "replace_if", at_once)
    receipts: list[object] = []
    retries = [
        threading.Thread(
            target=lambda: receipts.extend(
                r.receipt for r in label(LabelStore.open(store.storage.url), [well], retry=True)
            )
        )
        for _ in range(2)
    ]
    for thread in retries:
        thread.start()
    for thread in retries:
        thread.join()
    assert sorted(receipt is None for receipt in receipts) == [False, True]
    (stands,) = (receipt for receipt in receipts if receipt is not None)
    assert store.receipt(well.card.column, store.plan.shard(0)) == stands
    assert not audit(store, deep=True).findings and len(audit(store).garbage) <= 2, (
        "the first cell's, the loser's are gone"
    )


def test_replacing_on_condition(tmp_path: Path, url: str) -> None:
    storage = open_storage(url)
    assert not storage.replace_if("a.json", lambda data: True, b"1") and not storage.exists("a.json")
    storage.publish("a.json", b"1")
    assert not storage.replace_if("a.json", lambda data: data == b"2", b"3") and storage.read("a.json") == b"1"
    assert storage.replace_if("a.json", lambda data: data == b"1", b"3") and storage.read("a.json") == b"3"


def test_many_at_once_find_each_other(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    for turn in range(20):
        name = f"{turn}.json"
        storage.publish(name, b"old")
        start, won = threading.Barrier(6), []

        def one(number: int, name: str = name, start: threading.Barrier = start, won: list[bytes] = won) -> None:
            data = str(number).encode()
            start.wait(10)
            if storage.replace_if(name, lambda found: found == b"old", data):
                won.append(data)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [storage.read(name)] == won
