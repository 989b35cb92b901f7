"""One shard through a worker: every status in order, refusals, retries, races, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from expert_zoo.expert import Expert, Needs, Photo
from expert_zoo.labels import Label, Text
from expert_zoo.spec import LabelSpec
from manifests.manifest import Manifest
from manifests.record import ImageRecord
from pipeline import filling
from pipeline.errors import DamagedCell, StoreError, WorkerError
from pipeline.filling import CellResult
from pipeline.journal import MAX_DEATHS, Journal
from pipeline.labeller import Effort, Labeller
from pipeline.lacking import missing_cells
from pipeline.store import LabelStore
from tests.conftest import (
    audited,
    everything,
    label_all,
    unnamed_files,
    write_manifest,
    write_photos,
)
from tests.faults import IO_ERROR, NO_SPACE, Faults
from tests.stand_ins import Darkness, Grey, Hungry, Squares, Troubled, card


@pytest.fixture
def store(url: str, manifest: Manifest) -> LabelStore:
    """Ten photos in shards of 6 and 4."""
    return LabelStore.create(url, manifest, shard_size=6)


def statuses(store: LabelStore, column: str, index: int = 0) -> list[str]:
    return [str(status) for status, *_ in audited(store, column, store.plan.shard(index))[1]]


def threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith(("read", "encode", "write"))}


class Telling(Expert):
    """Says the id of the photo."""

    needs = Needs(batch_size=3)

    def __init__(self, name: str = "telling") -> None:
        self.card = card(name, LabelSpec(kind="text", quantity="caption"))

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [Label.ok(Text(photo.image_id, -1.0)) for photo in photos]


# ---- one shard


def test_a_pack_fills_its_cells_and_only_those(store: LabelStore) -> None:
    experts = [Grey(), Darkness(), Squares(), Telling(), Hungry()]
    columns = [expert.card.column for expert in experts]
    label_all(store, experts[:1], shards=[store.plan.shard(1)])
    before = audited(store, columns[0], store.plan.shard(1))[0]
    results = label_all(store, experts)
    assert [(r.column, r.shard) for r in results if r.receipt] == [
        *[(column, 0) for column in columns],
        *[(column, 1) for column in columns[1:]],
    ]
    assert all(r.images == len(store.plan.shard(r.shard)) and not r.refused for r in results)
    found = everything(store, columns)
    assert audited(store, columns[0], store.plan.shard(1))[0] == before
    ids = [record.image_id for shard in store.plan.shards() for record in store.records(shard)]
    assert [row[3][0] for index in (0, 1) for row in found[columns[3], index]] == ids
    assert found[columns[0], 0] == found[columns[4], 0]
    assert list(missing_cells(store, columns)) == []
    assert all(unnamed_files(store, column) == set() for column in columns)
    assert store.storage.names("attempts/run") == []
    assert [r.receipt for r in label_all(store, experts)] == [None] * 10


def test_every_status_in_its_row(store: LabelStore, records: list[ImageRecord], tmp_path: Path) -> None:
    def path(index: int) -> Path:
        return tmp_path / "photos" / f"photo {index:03d}.png"

    path(1).write_bytes(b"")
    path(2).unlink()
    path(4).write_bytes(path(4).read_bytes()[:-30])
    troubled = Troubled(trouble="nan", at=records[3].image_id)
    results = label_all(store, [troubled, Squares()], shards=[store.plan.shard(0)])
    assert statuses(store, troubled.card.column) == ["ok", "failed", "failed", "failed", "ok", "ok"]
    assert statuses(store, Squares().card.column) == ["ok", "failed", "failed", "empty", "ok", "empty"]
    with store.read(troubled.card.column, store.plan.shard(0)) as cell:
        reasons = [row["reason"].split(":")[0] for row in cell.rows]
        assert reasons == ["", "empty file", "missing", "bad label", "truncated", ""]
        assert [(row["height"], row["width"]) for row in cell.rows] == [
            (30, 40), (None, None), (None, None), (30, 40), (30, 40), (30, 40)
        ]  # fmt: skip
        assert [row["offset"] is None for row in cell.rows] == [False, True, True, True, False, False]
    receipt = results[0].receipt
    assert receipt is not None
    assert (receipt.rows.ok, receipt.rows.empty, receipt.rows.failed) == (3, 0, 3)
    assert receipt.rows.reasons == {"empty file": 1, "missing": 1, "bad label": 1, "truncated": 1}
    assert results[1].receipt is not None and results[1].receipt.rows.empty == 2


@pytest.mark.parametrize("read_threads", [1, 4])
@pytest.mark.parametrize("encode_threads", [1, 4])
def test_slow_threads_do_not_reorder_rows(store: LabelStore, read_threads: int, encode_threads: int) -> None:
    real = filling._encode
    rng = np.random.default_rng(0)

    def slow(*arguments: object) -> object:
        time.sleep(float(rng.random()) / 100)
        return real(*arguments)  # type: ignore[arg-type]

    effort = Effort(read_threads=read_threads, encode_threads=encode_threads, ahead=3)
    with mock.patch.object(filling, "_encode", slow):
        label_all(store, [Telling(), Grey()], effort=effort)
    found = everything(store, [Telling().card.column, Grey().card.column])
    for shard in store.plan.shards():
        told = [row[3][0] for row in found[Telling().card.column, shard.index]]
        assert told == [record.image_id for record in store.records(shard)]


def test_labels_do_not_depend_on_batches_or_threads(url: str, manifest: Manifest) -> None:
    found = []
    for turn, (batch, shard_size) in enumerate([(1, 3), (4, 4), (100, 10)]):
        store = LabelStore.create(f"{url}-{turn}", manifest, shard_size=shard_size)
        store.add_column(Grey().card)
        labeller = Labeller(store, [Grey()], effort=Effort(encode_threads=batch % 3 + 1), batch_sizes={"grey": batch})
        for shard in store.plan.shards():
            labeller.label(shard, [Grey().card.column], Journal(store.storage, "run", shard.name))
        cells = everything(store, [Grey().card.column])
        found.append([row for shard in store.plan.shards() for row in cells[Grey().card.column, shard.index]])
    assert found[0] == found[1] == found[2] and len(found[0]) == 10


def test_seconds_are_counted_where_they_are_spent(store: LabelStore) -> None:
    results = label_all(store, [Grey(delay=0.02), Telling()], shards=[store.plan.shard(0)])
    slow, quick = (result.receipt.seconds for result in results if result.receipt)
    assert 0.12 <= slow.compute < 5 and quick.compute < slow.compute / 2
    assert slow.read > 0 and slow.wait > 0 and slow.encode > 0 and slow.write > 0
    assert slow.read == pytest.approx(quick.read)


# ---- refusals


@pytest.mark.parametrize("failing", [0, 2, 3, 4, 6])
def test_a_cell_with_too_many_failures_is_refused(store: LabelStore, records: list[ImageRecord], failing: int) -> None:
    bad = {record.image_id for record in records[:failing]}

    class Picky(Grey):
        def one(self, photo: Photo) -> Label:
            return Label.failed(f"mood: {photo.image_id[-3:]}") if photo.image_id in bad else super().one(photo)

    (result, other) = label_all(store, [Picky(), Squares()], shards=[store.plan.shard(0)])
    assert other.receipt is not None, "the pack's other experts go on"
    assert (result.receipt is not None) == (failing <= 3) == store.is_committed(Grey().card.column, store.plan.shard(0))
    if failing <= 3:
        assert result.refused == ""
        return
    assert result.refused.startswith(f"grey failed on {failing} of 6 readable photos of shard-000000: 1 x mood: ")
    assert result.refused.count("mood") == 3, "a few reasons, not all"
    assert unnamed_files(store, Grey().card.column) == set()


def test_unreadable_photos_are_not_the_expert_s_failure(store: LabelStore, tmp_path: Path) -> None:
    for index in range(6):
        (tmp_path / "photos" / f"photo {index:03d}.png").write_bytes(b"<html>")
    (result,) = label_all(store, [Grey()], shards=[store.plan.shard(0)])
    assert result.receipt is not None and result.receipt.rows.failed == 6
    assert statuses(store, Grey().card.column) == ["failed"] * 6
    for index in range(6, 9):
        (tmp_path / "photos" / f"photo {index:03d}.png").unlink()
    (result,) = label_all(store, [Troubled(trouble="raise")], shards=[store.plan.shard(1)])
    assert "failed on 1 of 1 readable photos" in result.refused


def test_a_worker_with_other_weights_than_the_driver_says_so(store: LabelStore) -> None:
    """And not a KeyError: the column of the unit is of another version than this worker's expert."""
    labeller = Labeller(store, [Grey()], effort=Effort())
    shard = store.plan.shard(0)
    with pytest.raises(WorkerError, match="this worker has grey@.*differ from the driver's"):
        labeller.label(shard, ["grey@0123456789"], Journal(store.storage, "run", shard.name))
    with pytest.raises(WorkerError, match="no such expert"):
        labeller.label(shard, ["squares@0123456789"], Journal(store.storage, "run", shard.name))


def test_a_unit_that_keeps_killing_is_given_up(store: LabelStore) -> None:
    shard = store.plan.shard(0)
    store.add_column(Grey().card)
    for _ in range(MAX_DEATHS):
        Journal(store.storage, "run", shard.name)
    (result,) = label_all(store, [Grey()], shards=[shard])
    assert result.receipt is None and f"killed {MAX_DEATHS} workers" in result.refused
    assert not store.is_committed(Grey().card.column, shard)


def test_a_convicted_photo_fails_at_its_stage_only(store: LabelStore, records: list[ImageRecord]) -> None:
    shard = store.plan.shard(0)
    for stage, guilty in (("grey", 1), ("grey", 1), ("read", 3), ("read", 3), ("grey", 4)):
        Journal(store.storage, "run", shard.name)
        Journal(store.storage, "run", shard.name).enter(stage, [records[guilty].image_id])
    asked: list[str] = []

    class Asked(Grey):
        def one(self, photo: Photo) -> Label:
            asked.append(photo.image_id)
            return super().one(photo)

    label_all(store, [Asked(), Squares()], shards=[shard])
    assert statuses(store, Grey().card.column) == ["ok", "failed", "ok", "failed", "ok", "ok"]
    assert statuses(store, Squares().card.column) == ["ok", "empty", "ok", "failed", "ok", "empty"]
    assert asked == [records[index].image_id for index in (0, 2, 4, 5)]
    with store.read(Grey().card.column, shard) as cell:
        assert [cell.rows[i]["reason"] for i in (1, 3)] == [
            "killed its worker: this photo ended two worker processes in grey",
            "killed its worker: reading this photo ended two worker processes",
        ]


# ---- retry


def failing_first(store: LabelStore, records: list[ImageRecord], *at: int) -> Callable[..., list[CellResult]]:
    """Labels shard 0 such that the photos ``at`` failed; returns how to ask again."""

    class Picky(Telling):
        ill = {records[index].image_id for index in at}
        asked: list[str] = []

        def label(self, photos: Sequence[Photo]) -> list[Label]:
            self.asked += [photo.image_id for photo in photos]
            return [
                Label.failed("ill: today") if p.image_id in self.ill else Label.ok(Text(f"well {p.image_id}", -1.0))
                for p in photos
            ]

    label_all(store, [Picky()], shards=[store.plan.shard(0)], effort=Effort(failure_limit=1))

    def again(*still_ill: int) -> tuple[list[CellResult], list[str]]:
        expert = Picky()
        expert.ill = {records[index].image_id for index in still_ill}
        expert.asked = []
        return label_all(store, [expert], shards=[store.plan.shard(0)], retry=True), expert.asked

    return again


def test_a_retry_asks_failed_rows_and_keeps_the_others(store: LabelStore, records: list[ImageRecord]) -> None:
    shard, column = store.plan.shard(0), Telling().card.column
    again = failing_first(store, records, 0, 3, 5)
    old, before = audited(store, column, shard)
    ((result,), asked) = again(3)
    assert asked == [records[index].image_id for index in (0, 3, 5)]
    new, after = audited(store, column, shard)
    assert result.receipt is not None and result.receipt.attempt == new.attempt != old.attempt
    assert [status for status, *_ in after] == ["ok", "ok", "ok", "failed", "ok", "ok"]
    assert [after[i] for i in (1, 2, 4)] == [before[i] for i in (1, 2, 4)]
    # The old files may still be being read: they are garbage for the sweep, not ours to take away.
    assert unnamed_files(store, column) == {old.table.name}


def test_a_retry_copies_the_bytes_of_kept_maps(store: LabelStore, records: list[ImageRecord]) -> None:
    shard = store.plan.shard(0)
    sick = Troubled(trouble="raise", at=records[2].image_id)
    column = sick.card.column
    label_all(store, [sick], shards=[shard])
    with store.read(column, shard) as cell:
        before = [cell.member(row) for row in cell.rows]
    label_all(store, [Troubled(trouble="")], shards=[shard], retry=True)
    audited(store, column, shard)
    with store.read(column, shard) as cell:
        after = [cell.member(row) for row in cell.rows]
        assert [row["status"] for row in cell.rows] == ["ok"] * 6
    assert before[2] is None and after[2] is not None
    assert before[:2] + before[3:] == after[:2] + after[3:]


def test_a_retry_that_mends_nothing_changes_nothing(store: LabelStore, records: list[ImageRecord]) -> None:
    shard, column = store.plan.shard(0), Telling().card.column
    again = failing_first(store, records, 0, 3)
    old = store.receipt(column, shard)
    ((result,), asked) = again(0, 3)
    assert result.receipt is None and result.refused == "" and len(asked) == 2
    assert store.receipt(column, shard) == old and unnamed_files(store, column) == set()


def test_a_retry_of_a_whole_or_missing_cell_asks_nobody(store: LabelStore, records: list[ImageRecord]) -> None:
    again = failing_first(store, records)
    ((result,), asked) = again()
    assert result.receipt is None and asked == []
    (missing,) = label_all(store, [Grey()], shards=[store.plan.shard(0)], retry=True)
    assert missing.receipt is None and not store.is_committed(Grey().card.column, store.plan.shard(0))


def test_a_retry_does_not_copy_a_damaged_cell_into_a_fresh_one(store: LabelStore, records: list[ImageRecord]) -> None:
    shard = store.plan.shard(0)
    sick = Troubled(trouble="raise", at=records[0].image_id)
    label_all(store, [sick], shards=[shard])
    receipt = store.receipt(sick.card.column, shard)
    assert receipt.tar is not None
    name = f"{store.folder(sick.card.column)}/{receipt.tar.name}"
    store.storage.replace(name, store.storage.read(name)[:-1500])
    with pytest.raises(DamagedCell, match="the tar ends"):
        label_all(store, [Troubled(trouble="")], shards=[shard], retry=True)
    assert store.receipt(sick.card.column, shard) == receipt and threads() == set()


def test_a_retry_that_is_interrupted_keeps_the_old_cell(store: LabelStore, records: list[ImageRecord]) -> None:
    class Interrupted(Telling):
        def label(self, photos: Sequence[Photo]) -> list[Label]:
            raise KeyboardInterrupt

    failing_first(store, records, 4)
    shard, column = store.plan.shard(0), Telling().card.column
    old = audited(store, column, shard)
    with pytest.raises(KeyboardInterrupt):
        label_all(store, [Interrupted()], shards=[shard], retry=True)
    assert audited(store, column, shard) == old and unnamed_files(store, column) == set()


# ---- two at once


def test_two_labellers_on_one_cell_leave_one_receipt(store: LabelStore) -> None:
    shard = store.plan.shard(0)
    experts = [Grey(delay=0.005), Squares()]
    columns = [expert.card.column for expert in experts]
    for expert in experts:
        store.add_column(expert.card)
    barrier = threading.Barrier(2)
    results: list[CellResult] = []

    def work(run: str) -> None:
        labeller = Labeller(store, [Grey(delay=0.005), Squares()], effort=Effort())
        journal = Journal(store.storage, run, shard.name)
        barrier.wait(10)
        results.extend(labeller.label(shard, columns, journal))

    workers = [threading.Thread(target=work, args=(run,)) for run in ("one", "two")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4 and not any(result.refused for result in results)
    for column in columns:
        attempts = [result.receipt.attempt for result in results if result.column == column and result.receipt]
        assert attempts == [audited(store, column, shard)[0].attempt]
        assert unnamed_files(store, column) == set(), "the loser takes its files away"


def test_a_commit_whose_answer_got_lost_is_no_defeat(store: LabelStore) -> None:
    """Networks repeat a link or a PUT whose answer is lost, and find their own receipt: its files must stay."""
    real = store.storage.publish

    def twice(name: str, data: bytes) -> bool:
        real(name, data)
        return real(name, data)

    store.add_column(Grey().card)
    with mock.patch.object(store.storage, "publish", twice):
        (result,) = label_all(store, [Grey()], shards=[store.plan.shard(0)])
    assert result.receipt is not None
    assert result.receipt.attempt == audited(store, Grey().card.column, store.plan.shard(0))[0].attempt


def test_a_receipt_of_another_plan_stops_the_job(store: LabelStore) -> None:
    """It was not there when the shard began; the commit finds it, stops, and does not take its place."""
    shard, column = store.plan.shard(0), Grey().card.column
    label_all(store, [Grey()], shards=[shard])
    foreign = store.receipt(column, shard).model_copy(update={"plan": "0" * 16})
    store.withdraw(column, 0)
    name = f"{store.folder(column)}/{shard.name}.json"

    class Late(Grey):
        def one(self, photo: Photo) -> Label:
            store.storage.replace(name, foreign.to_bytes())
            return super().one(photo)

    with pytest.raises(StoreError, match="belongs to plan 0000000000000000"):
        label_all(store, [Late()], shards=[shard])
    assert store.storage.read(name) == foreign.to_bytes()


# ---- ends


def test_no_thread_outlives_a_shard(store: LabelStore) -> None:
    label_all(store, [Grey(), Squares()], effort=Effort(read_threads=3, encode_threads=3))
    assert threads() == set()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_everything(store: LabelStore, kind: type[BaseException]) -> None:
    class Interrupted(Grey):
        def label(self, photos: Sequence[Photo]) -> list[Label]:
            if any("005" in photo.image_id for photo in photos):
                raise kind
            return super().label(photos)

    with pytest.raises(kind) as caught:
        label_all(store, [Squares(), Interrupted()], effort=Effort(read_threads=2))
    assert caught.traceback and threads() == set(), "not even while somebody holds the traceback"
    for expert in (Squares(), Grey()):
        assert store.storage.names(store.folder(expert.card.column)) == ["expert.json"]


@pytest.mark.parametrize("error", [NO_SPACE, IO_ERROR], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_a_disk_that_stays_full_comes_through_and_leaves_nothing(
    tmp_path: Path, manifest: Manifest, call: str, error: Callable[[], None]
) -> None:
    """Not one call fails but all of them from the first map on, in both cells, as a full disk would."""
    store = LabelStore.create(str(tmp_path / "store"), manifest, shard_size=6)
    experts = [Grey(), Darkness()]
    for expert in experts:
        store.add_column(expert.card)
    labeller = Labeller(store, experts, effort=Effort(encode_threads=2))
    journal = Journal(store.storage, "run", "unit")
    with Faults(only=call).installed() as faults, pytest.raises(OSError, match="space|Input/output"):
        faults.fail_from_now(error)
        labeller.label(store.plan.shard(0), [expert.card.column for expert in experts], journal)
    assert threads() == set()
    for expert in experts:
        assert store.storage.names(store.folder(expert.card.column)) == ["expert.json"]


def test_a_slow_disk_holds_the_model_back(tmp_path: Path) -> None:
    """The labels on their way to the disk are bounded, or a slow disk would fill the memory."""
    records = write_photos(tmp_path / "photos", 150)
    manifest = write_manifest(str(tmp_path / "manifest.parquet"), records)
    store = LabelStore.create(str(tmp_path / "store"), manifest, shard_size=150)
    labelled, written, worst = 0, 0, 0

    class Counting(Telling):
        needs = Needs(batch_size=4)

        def label(self, photos: Sequence[Photo]) -> list[Label]:
            nonlocal labelled, worst
            labelled += len(photos)
            worst = max(worst, labelled - written)
            return super().label(photos)

    real = filling.CellInWork.write

    def slow(self: filling.CellInWork, *arguments: object) -> None:
        nonlocal written
        time.sleep(0.001)
        real(self, *arguments)  # type: ignore[arg-type]
        written += 1

    with mock.patch.object(filling.CellInWork, "write", slow):
        label_all(store, [Counting()])
    assert 60 <= worst <= 64 + 4 + 1
    assert len(statuses(store, Telling().card.column)) == 150


def test_an_error_in_an_encoder_comes_through(store: LabelStore) -> None:
    def broken(*_: object) -> object:
        raise ZeroDivisionError("encoder")

    with mock.patch.object(filling, "_encode", broken), pytest.raises(ZeroDivisionError):
        label_all(store, [Grey()], shards=[store.plan.shard(0)])
    assert threads() == set() and not store.is_committed(Grey().card.column, store.plan.shard(0))
    assert store.storage.names(store.folder(Grey().card.column)) == ["expert.json"]


def test_an_unreadable_name_does_not_stop_the_row_from_being_stored(tmp_path: Path) -> None:
    """A name that is no UTF-8 comes up in error messages, and Parquet holds nothing but UTF-8."""
    uri = "file://" + (tmp_path / "no").as_posix() + "%FF%FE.jpg"
    records = [ImageRecord(image_id="odd", source="t", uri=uri)]
    (tmp_path / "no\udcff\udcfe.jpg").mkdir()
    store = LabelStore.create(
        str(tmp_path / "store"), write_manifest(str(tmp_path / "m.parquet"), records), shard_size=1
    )
    label_all(store, [Grey()])
    assert statuses(store, Grey().card.column) == ["failed"]
