"""The grid: plans are kept, columns are told apart, and a receipt that is not ours is never taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manifests.manifest import Manifest
from manifests.record import ImageRecord
from pipeline.errors import DamagedCell, ExpertLabelsError, StoreError
from pipeline.lacking import failed_cells, missing_cells
from pipeline.plan import ShardPlan, shard_name
from pipeline.receipt import Receipt, Seconds
from pipeline.storage import Storage
from pipeline.store import LabelStore
from tests.conftest import audited, label_all, write_manifest, write_photos
from tests.stand_ins import DARKNESS, GREY, Darkness, Grey, Squares, Troubled, card


@pytest.fixture
def store(url: str, manifest: Manifest) -> LabelStore:
    """Ten photos in shards of 4, 4 and 2."""
    return LabelStore.create(url, manifest, shard_size=4)


def put(store: LabelStore, name: str, data: bytes) -> None:
    store.storage.replace(name, data)


# ---- the plan


@pytest.mark.parametrize(
    ("images", "size", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 512, [1]), (3, 1, [1] * 3)]
)
def test_a_plan_cuts_without_gap_or_overlap(images: int, size: int, sizes: list[int]) -> None:
    plan = ShardPlan(manifest="m", images=images, shard_size=size, seed=0)
    shards = list(plan.shards())
    assert [len(shard) for shard in shards] == sizes and len(plan) == len(sizes)
    assert [row for shard in shards for row in range(shard.start, shard.stop)] == list(range(images))
    assert [shard.name for shard in shards] == [f"shard-{index:06d}" for index in range(len(sizes))]
    assert shard_name(1_234_567) == "shard-1234567"


def test_the_fingerprint_is_of_what_decides_the_rows() -> None:
    plan = ShardPlan(manifest="m", images=10, shard_size=4, seed=0)
    for change in ({"manifest": "n"}, {"images": 11}, {"shard_size": 5}, {"seed": 1}):
        assert plan.model_copy(update=change).fingerprint != plan.fingerprint
    assert plan.model_copy(update={"sources": [{"folder": "x"}]}).fingerprint == plan.fingerprint


def test_creating_again_opens_what_is_there(url: str, store: LabelStore, manifest: Manifest) -> None:
    before = store.storage.read("store.json")
    again = LabelStore.create(url, manifest, shard_size=4, sources=[{"folder": "another way to say it"}])
    assert again.plan == store.plan == LabelStore.open(url).plan
    assert store.storage.read("store.json") == before
    assert sorted(store.storage.names("")) == ["manifest.parquet", "store.json"]


def test_another_plan_on_the_same_store_is_told_with_the_difference(
    url: str, store: LabelStore, manifest: Manifest, records: list[ImageRecord], tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="shard_size 4 there, 5 asked"):
        LabelStore.create(url, manifest, shard_size=5)
    fewer = write_manifest(str(tmp_path / "fewer.parquet"), records[:9])
    with pytest.raises(StoreError, match=f"manifest {manifest.fingerprint}.*images 10 there, 9 asked"):
        LabelStore.create(url, fewer, shard_size=4)
    shuffled = write_manifest(str(tmp_path / "shuffled.parquet"), records[::-1], seed=1)
    with pytest.raises(StoreError, match="seed 0 there, 1 asked"):
        LabelStore.create(url, shuffled, shard_size=4)
    assert LabelStore.open(url).plan == store.plan
    assert [r for s in store.plan.shards() for r in store.records(s)] == records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not a plan"),
        (b"[]", "is not a plan"),
        (b'{"format": 1}', "is not a plan"),
        (b'{"format": 2, "fresh": 1}', "has store format 2; this version reads format 1"),
        (b"{}", "has store format None"),
        (b"\xff\xfe", "is not a plan"),
    ],
)
def test_a_broken_plan_is_told(url: str, store: LabelStore, text: bytes, message: str) -> None:
    put(store, "store.json", text)
    with pytest.raises(StoreError, match=message):
        LabelStore.open(url)


def test_no_store(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        LabelStore.open(url)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoreError, match="no store at"):
        LabelStore.open(str(tmp_path / "file"))
    assert issubclass(StoreError, ExpertLabelsError)


def test_more_shards_than_a_footer_may_have_are_refused(
    url: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.MOST_SHARDS", 3)
    with pytest.raises(StoreError, match="are 4 shards, and a store has at most 3: expected a shard_size of 4 or more"):
        LabelStore.create(url, manifest, shard_size=3)
    assert len(LabelStore.create(url, manifest, shard_size=4).plan) == 3


# ---- the manifest


def test_records_of_a_shard_are_its_slice(store: LabelStore, records: list[ImageRecord]) -> None:
    for shard in store.plan.shards():
        assert store.records(shard) == records[shard.start : shard.stop]


@pytest.mark.parametrize("rows", [slice(0, 9), slice(None, None, -1)], ids=["another number", "another order"])
def test_a_manifest_that_was_replaced_is_told(
    store: LabelStore, records: list[ImageRecord], tmp_path: Path, rows: slice
) -> None:
    other = LabelStore.create(
        str(tmp_path / "other"), write_manifest(str(tmp_path / "m2.parquet"), records[rows]), shard_size=4
    )
    put(store, "manifest.parquet", other.storage.read("manifest.parquet"))
    with pytest.raises(StoreError, match="was replaced"):
        store.records(store.plan.shard(0))


@pytest.mark.parametrize("data", [None, b"", b"no parquet"])
def test_a_manifest_that_is_gone_or_broken_is_told(store: LabelStore, data: bytes | None) -> None:
    if data is None:
        store.storage.delete("manifest.parquet")
    else:
        put(store, "manifest.parquet", data)
    with pytest.raises(StoreError, match=r"cannot read .*manifest\.parquet"):
        store.records(store.plan.shard(0))


def test_a_source_that_is_gone_does_not_matter_to_a_planned_store(url: str, tmp_path: Path) -> None:
    manifest = write_manifest(str(tmp_path / "m.parquet"), write_photos(tmp_path / "p", 3))
    store = LabelStore.create(url, manifest, shard_size=2)
    Path(manifest.url).unlink()
    assert LabelStore.create(url, manifest, shard_size=2).plan == store.plan


# ---- columns


def test_columns_are_told_apart(store: LabelStore) -> None:
    first, second = card("grey", GREY), card("grey", GREY, revision=2)
    others = [card("dark", DARKNESS), card("grey_2", GREY)]
    for each in (first, second, *others):
        store.add_column(each)
        store.add_column(each)
    assert store.columns() == {each.column: each for each in sorted([first, second, *others], key=lambda c: c.column)}
    assert store.column_of("dark") == others[0].column
    assert store.column_of(second.column) == second.column
    with pytest.raises(StoreError, match=f"more than one version of 'grey'.*{first.column}, {second.column}|{second.column}, {first.column}"):  # fmt: skip
        store.column_of("grey")
    for unknown in ("gre", "grey@", "grey@0000000000", ""):
        with pytest.raises(StoreError, match=r"no column .*name one of: dark@"):
            store.column_of(unknown)


def test_a_store_without_columns(store: LabelStore) -> None:
    assert store.columns() == {}
    with pytest.raises(StoreError, match="none yet"):
        store.column_of("grey")
    with pytest.raises(StoreError, match="has no column grey@0123456789"):
        store.card("grey@0123456789")


def test_strange_folders_are_no_columns(store: LabelStore) -> None:
    store.add_column(Grey().card)
    for name in ("notes/expert.json", "grey@xyz/expert.json", "dark@0123456789/no-card", "README"):
        put(store, f"labels/{name}", b"{}")
    assert list(store.columns()) == [Grey().card.column]


def test_prose_may_change_and_meaning_may_not(store: LabelStore) -> None:
    store.add_column(card("grey", GREY, summary="first words"))
    store.add_column(card("grey", GREY, summary="better words"))
    assert store.card(Grey().card.column).summary == "first words"
    changed = Grey().card.model_dump(mode="json") | {"revision": 7}
    put(store, f"labels/{Grey().card.column}/expert.json", json.dumps(changed).encode())
    with pytest.raises(StoreError, match="changed by hand"):
        store.add_column(Grey().card)


def test_a_broken_card_is_told(store: LabelStore) -> None:
    put(store, f"labels/{Grey().card.column}/expert.json", b'{"name": "grey"}')
    with pytest.raises(StoreError, match="is not an expert card"):
        store.columns()


# ---- cells


def test_missing_and_failed_cells(store: LabelStore, records: list[ImageRecord]) -> None:
    grey, dark, sick = Grey(), Darkness(), Troubled(trouble="raise", at=records[5].image_id)
    columns = [grey.card.column, dark.card.column, sick.card.column]
    for expert in (grey, dark, sick):
        store.add_column(expert.card)
    assert [(s.index, lacking) for s, lacking in missing_cells(store, columns)] == [(i, columns) for i in range(3)]
    label_all(store, [grey], shards=[store.plan.shard(1)])
    label_all(store, [dark, sick], shards=[store.plan.shard(0), store.plan.shard(1)])
    assert [(s.index, lacking) for s, lacking in missing_cells(store, columns)] == [(0, columns[:1]), (2, columns)]
    assert [(s.index, having) for s, having in failed_cells(store, columns)] == [(1, columns[2:])]
    assert [store.committed(column) for column in columns] == [{1}, {0, 1}, {0, 1}]
    assert store.committed("nobody@0123456789") == set()


def test_only_receipts_count_as_committed(store: LabelStore) -> None:
    column = Grey().card.column
    for name in (
        "expert.json", "shard-000000.abc.parquet", "shard-000000.abc.tar", "tmp-000000", "shard-1.json",
        "shard-000001.json.bak", "shard-000002.json",
    ):  # fmt: skip
        put(store, f"labels/{column}/{name}", b"")
    assert store.committed(column) == {2}
    assert [store.is_committed(column, shard) for shard in store.plan.shards()] == [False, False, True]


def test_a_resume_reads_no_receipt(store: LabelStore) -> None:
    label_all(store, [Grey()])
    for shard in store.plan.shards():
        put(store, f"labels/{Grey().card.column}/{shard.name}.json", b"not even JSON")
    assert list(missing_cells(store, [Grey().card.column])) == []


def test_a_receipt_that_is_not_of_this_cell_is_told(store: LabelStore) -> None:
    label_all(store, [Grey()])
    column, shard = Grey().card.column, store.plan.shard(1)
    name = f"labels/{column}/{shard.name}.json"
    ours = store.receipt(column, shard)
    for change in ({"plan": "0" * 16}, {"column": "grey@0000000000"}, {"shard": 2}):
        put(store, name, ours.model_copy(update=change).to_bytes())
        with pytest.raises(StoreError, match="it came from another store") as caught:
            store.read(column, shard)
        assert not isinstance(caught.value, DamagedCell), "it must never be repaired away: it may be somebody's work"
    put(store, name, ours.to_bytes())
    audited(store, column, shard)


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b'{"format": 1}', b"null", b"\xff\xff", b"\0" * 100])
def test_a_broken_receipt_is_damage(store: LabelStore, text: bytes) -> None:
    label_all(store, [Grey()], shards=[store.plan.shard(0)])
    put(store, f"labels/{Grey().card.column}/shard-000000.json", text)
    with pytest.raises(DamagedCell, match="is not a receipt"):
        store.receipt(Grey().card.column, store.plan.shard(0))


@pytest.mark.parametrize("which", ["table", "tar"])
@pytest.mark.parametrize("how", ["gone", "empty", "cut"])
def test_a_cell_without_its_files_is_damage(store: LabelStore, which: str, how: str) -> None:
    label_all(store, [Grey()], shards=[store.plan.shard(0)])
    column, shard = Grey().card.column, store.plan.shard(0)
    entry = getattr(store.receipt(column, shard), which)
    name = f"{store.folder(column)}/{entry.name}"
    data = store.storage.read(name)
    store.storage.delete(name)
    if how != "gone":
        put(store, name, b"" if how == "empty" else data[: len(data) // 2])
    with pytest.raises(DamagedCell, match="repair"), store.read(column, shard) as cell:
        list(cell.labels())


def test_an_uncommitted_cell(store: LabelStore) -> None:
    store.add_column(Grey().card)
    with pytest.raises(StoreError, match="is not committed"):
        store.read(Grey().card.column, store.plan.shard(0))


def test_a_withdrawn_cell_is_labelled_again(store: LabelStore) -> None:
    label_all(store, [Grey(), Squares()])
    before = audited(store, Grey().card.column, store.plan.shard(1))
    store.withdraw(Grey().card.column, 1)
    assert [(s.index, c) for s, c in missing_cells(store, [Grey().card.column])] == [(1, [Grey().card.column])]
    label_all(store, [Grey(), Squares()])
    after = audited(store, Grey().card.column, store.plan.shard(1))
    assert after[1] == before[1] and after[0].attempt != before[0].attempt


def test_a_receipt_says_what_it_completed(store: LabelStore) -> None:
    (result, *_) = label_all(store, [Grey()])
    receipt = store.receipt(Grey().card.column, store.plan.shard(0))
    assert (receipt.column, receipt.shard, receipt.plan) == (Grey().card.column, 0, store.plan.fingerprint)
    assert receipt.table.name == f"shard-000000.{receipt.attempt}.parquet"
    assert receipt.tar is not None and receipt.tar.name == f"shard-000000.{receipt.attempt}.tar"
    assert (
        {"python", "numpy", "timm", "easyocr", "tokenizers"} <= set(receipt.packages)
        and receipt.licence == "MIT"
        and receipt.commercial_use
    )
    assert receipt.committed_at.endswith("+00:00") and receipt.host
    assert Receipt.model_validate_json(receipt.to_bytes()) == receipt
    assert result.receipt is not None and result.receipt.attempt == receipt.attempt


def test_provenance_travels_inside_the_parquet(store: LabelStore) -> None:
    import pyarrow.parquet as pq

    label_all(store, [Grey()], shards=[store.plan.shard(0)])
    receipt = store.receipt(Grey().card.column, store.plan.shard(0))
    with store.storage.open(f"{store.folder(receipt.column)}/{receipt.table.name}") as stream:
        found = pq.read_schema(stream).metadata
    assert json.loads(found[b"expert_card"])["name"] == "grey"
    assert (found[b"plan"], found[b"shard"]) == (store.plan.fingerprint.encode(), b"0")


def test_a_run_s_journal_is_forgotten(store: LabelStore) -> None:
    from pipeline.journal import Journal

    for run in ("one", "two"):
        Journal(store.storage, run, "unit-a")
        Journal(store.storage, run, "unit-b")
    store.forget_attempts("one")
    store.forget_attempts("never")
    assert store.storage.names("attempts/one") == [] and len(store.storage.names("attempts/two")) == 2


# ---- two at once


def second_retry(store: LabelStore, old: Receipt) -> Receipt | None:
    """Commits the rows of grey's first cell again, in place of ``old``."""
    shard = store.plan.shard(0)
    attempt, writer = store.writer(Grey().card, shard)
    with store.read(Grey().card.column, shard, old) as cell:
        for row in cell.rows:
            writer.add(cell.encoded(row))
    return store.commit(Grey().card, shard, attempt, writer, Seconds(), replacing=old)


def test_of_two_retries_the_first_stays(store: LabelStore) -> None:
    label_all(store, [Grey()])
    column, shard = Grey().card.column, store.plan.shard(0)
    old = store.receipt(column, shard)
    first = second_retry(store, old)
    assert first is not None and store.receipt(column, shard) == first
    files = set(store.storage.names(store.folder(column)))
    assert second_retry(store, old) is None, "it started from a receipt that is no longer there"
    assert store.receipt(column, shard) == first
    assert set(store.storage.names(store.folder(column))) == files, "its own files are gone"


def test_a_retry_of_a_cell_that_was_taken_back_commits_nothing(store: LabelStore) -> None:
    label_all(store, [Grey()])
    column, shard = Grey().card.column, store.plan.shard(0)
    old = store.receipt(column, shard)
    store.withdraw(column, 0)
    files = set(store.storage.names(store.folder(column)))
    assert second_retry(store, old) is None and not store.is_committed(column, shard)
    assert set(store.storage.names(store.folder(column))) == files


def test_a_cell_that_is_taken_back_during_a_commit_is_committed(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing found a receipt, and when it was to be read it was gone."""
    publish, tries = type(store.storage).publish, []

    def late(self: Storage, name: str, data: bytes) -> bool:
        if not name.endswith("shard-000000.json"):
            return publish(self, name, data)
        tries.append(name)
        return len(tries) > 1 and publish(self, name, data)

    monkeypatch.setattr(type(store.storage), "publish", late)
    (result,) = label_all(store, [Grey()], shards=[store.plan.shard(0)])
    assert len(tries) == 2 and result.receipt is not None
    audited(store, Grey().card.column, store.plan.shard(0))
