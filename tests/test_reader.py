"""LabelReader: any image in any order, one seek for each dense column, from disks and remote stores alike."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DamagedCell, StoreError
from pipeline.reader import LabelReader
from pipeline.storage import LocalStorage, RemoteStorage, Storage
from pipeline.storage.cache import FileCache
from pipeline.store import LabelStore
from tests.conftest import comparable
from tests.small_store import every_kind, small_store
from tests.stand_ins import Grey, Squares


@pytest.fixture
def store(tmp_path: Path, url: str) -> LabelStore:
    return small_store(tmp_path, every_kind(), url=url, broken=(3,))


def as_values(reader: LabelReader, shard: int, row: int) -> tuple[object, ...]:
    sample = reader.sample(reader.plan.shard(shard), row)
    labels = {name: comparable(label) for name, label in sample.labels.items()}
    return sample.record, labels, sample.height, sample.width


@pytest.mark.parametrize("keep_open", [1, 2, 9])
def test_any_order_gives_what_the_stream_gives(store: LabelStore, keep_open: int) -> None:
    stream = list(LabelReader(store).samples())
    places = [(shard.index, row) for shard in store.plan.shards() for row in range(len(shard))]
    assert [sample.record.image_id for sample in stream] == [
        record.image_id for shard in store.plan.shards() for record in store.records(shard)
    ]
    reader = LabelReader(store, keep_open=keep_open)
    for place in np.random.default_rng(0).permutation(len(places)).tolist():
        labels = {name: comparable(label) for name, label in stream[place].labels.items()}
        expected = (stream[place].record, labels, stream[place].height, stream[place].width)
        assert as_values(reader, *places[place]) == expected
    statuses = {label.status for sample in stream for label in sample.labels.values()}
    assert statuses == {"ok", "empty", "failed"} and len(stream[0].labels) == len(every_kind())


def test_a_cell_that_is_not_committed_is_absent(store: LabelStore) -> None:
    store.withdraw(Grey().card.column, 1)
    reader = LabelReader(store, ["grey", "squares"])
    found = [set(reader.sample(shard, 0).labels) for shard in store.plan.shards()]
    assert found == [{"grey", "squares"}, {"squares"}, {"grey", "squares"}]


class Requests:
    """Every range that is asked of remote storages: (file name's ending, offset, bytes)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, int, int]] = []
        inner = RemoteStorage.read_range

        def read_range(storage: RemoteStorage, name: str, offset: int, length: int) -> bytes:
            self.seen.append((name.rsplit(".", 1)[-1], offset, length))
            return inner(storage, name, offset, length)

        monkeypatch.setattr(RemoteStorage, "read_range", read_range)


def test_one_image_of_a_remote_store_is_one_request_a_dense_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small_store(tmp_path, every_kind(), url="memory://one-request")
    reader = LabelReader(store)
    rows = reader.open(store.plan.shard(0)).rows(3)
    requests = Requests(monkeypatch)
    reader.sample(store.plan.shard(0), 3)
    members = [("tar", row["offset"], row["length"]) for row in rows.values() if row.get("offset") is not None]
    assert sorted(requests.seen) == sorted(members) and len(members) == 4


def test_a_stream_of_a_remote_store_comes_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small_store(tmp_path, [Grey()], url="memory://in-blocks", photos=20, shard_size=20)
    requests = Requests(monkeypatch)
    stream = list(LabelReader(store).samples())
    assert len(stream) == 20 and all(sample.labels["grey"].status == "ok" for sample in stream)
    assert len(requests.seen) <= 2, "the second member follows the first, and so the rest comes with it"


def test_a_shard_that_is_open_is_not_opened_again(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    for kind in (LocalStorage, RemoteStorage):
        for method in ("open", "read"):
            inner = getattr(kind, method)

            def count(storage: Storage, name: str, inner: object = inner) -> object:
                opened.append(name)
                return inner(storage, name)  # type: ignore[operator]

            monkeypatch.setattr(kind, method, count)
    reader = LabelReader(store, ["grey", "squares"], keep_open=2)

    def files_of(shard: int) -> set[str]:
        opened.clear()
        reader.sample(store.plan.shard(shard), 0)
        return {name.rsplit(".", 1)[-1] for name in opened}

    whole = files_of(0)
    assert {"json", "parquet"} <= whole
    assert files_of(1) == whole
    assert files_of(0) == set() and files_of(1) == set()
    assert files_of(2) == whole, "shard 0 was used longest ago"
    assert files_of(1) == set() and files_of(0) == whole
    reader.close()
    assert files_of(0) == whole


def test_only_the_rows_behind_a_cut_are_damaged(store: LabelStore) -> None:
    column, shard = Grey().card.column, store.plan.shard(0)
    receipt = store.receipt(column, shard)
    assert receipt.tar is not None
    name = f"{store.folder(column)}/{receipt.tar.name}"
    data = store.storage.read(name)
    with store.read(column, shard) as cell:
        last = cell.row(4)["offset"]
    store.storage.delete(name)
    with store.storage.create(name) as file:
        file.write(data[: last + 10])
    reader = LabelReader(store, ["grey"])
    assert [reader.sample(shard, row).labels["grey"].status for row in (2, 0, 3)] == ["ok", "ok", "failed"]
    with pytest.raises(DamagedCell, match=r"the tar ends after 10 of \d+ bytes"):
        reader.sample(shard, 4)
    with pytest.raises(DamagedCell, match="the tar ends after"):
        list(reader.samples([shard]))


def test_a_tar_that_is_gone_is_damage(store: LabelStore) -> None:
    column, shard = Grey().card.column, store.plan.shard(0)
    receipt = store.receipt(column, shard)
    assert receipt.tar is not None
    store.storage.delete(f"{store.folder(column)}/{receipt.tar.name}")
    with pytest.raises(DamagedCell, match="repair"):
        LabelReader(store, ["grey"]).sample(shard, 0)


def test_a_cell_of_other_images_is_damage(store: LabelStore) -> None:
    column = Squares().card.column
    receipts = [store.receipt(column, store.plan.shard(index)) for index in (0, 1)]
    other = f"{store.folder(column)}/{receipts[1].table.name}"
    store.storage.delete(other)
    with store.storage.create(other) as file:
        file.write(store.storage.read(f"{store.folder(column)}/{receipts[0].table.name}"))
    reader = LabelReader(store, ["squares"])
    reader.sample(store.plan.shard(0), 0)
    with pytest.raises(DamagedCell, match="does not hold the images of its shard"):
        reader.sample(store.plan.shard(1), 0)


def test_a_reader_can_be_pickled_and_forked(tmp_path: Path) -> None:
    store = small_store(tmp_path, every_kind())
    reader = LabelReader(store, ["grey", "squares"], keep_open=2)
    expected = [as_values(reader, 0, row) for row in range(5)]
    copy = pickle.loads(pickle.dumps(reader))
    assert [as_values(copy, 0, row) for row in range(5)] == expected
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def in_child() -> None:
        # Parent and child read the same open file by turns: with one file position they would hand each other wrong bytes.
        for row in range(5):
            here.recv()
            here.send(as_values(reader, 0, row))

    child = context.Process(target=in_child)
    child.start()
    for row in range(5):
        there.send(None)
        assert as_values(reader, 0, 4 - row) == expected[4 - row]
        assert there.recv() == expected[row]
    child.join(10)
    assert child.exitcode == 0


def test_columns_that_are_not_there_are_told(store: LabelStore) -> None:
    with pytest.raises(StoreError, match="has no column 'depth'; name one of"):
        LabelReader(store, ["depth"])


# ---- a remote store through a cache


def test_a_cached_store_reads_as_the_store_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small_store(tmp_path, every_kind(), url="memory://cached")
    direct = [as_values(LabelReader(store), shard.index, 1) for shard in store.plan.shards()]
    cache = FileCache(tmp_path / "cache", limit_bytes=10_000_000)
    reader = LabelReader(store, cache=cache)
    requests = Requests(monkeypatch)
    assert [as_values(reader, shard.index, 1) for shard in store.plan.shards()] == direct
    assert requests.seen == [], "whole files come, and each once"
    downloads: list[str] = []
    monkeypatch.setattr(RemoteStorage, "download", lambda storage, name, to: downloads.append(name))
    again = LabelReader(store, cache=cache, keep_open=2)
    assert [as_values(again, shard.index, 1) for shard in store.plan.shards()] == direct
    assert downloads == []


def test_fetching_a_shard_brings_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small_store(tmp_path, [Grey(), Squares()], url="memory://fetched")
    cache = FileCache(tmp_path / "cache", limit_bytes=10_000_000)
    reader = LabelReader(store, cache=cache)
    assert reader.fetch(store.plan.shard(1)) == cache.size() > 0
    monkeypatch.setattr(RemoteStorage, "download", None)
    reader.sample(store.plan.shard(1), 0)
    with pytest.raises(TypeError):
        reader.sample(store.plan.shard(0), 0)


def test_local_stores_are_not_copied(tmp_path: Path) -> None:
    store = small_store(tmp_path, [Grey()])
    cache = FileCache(tmp_path / "cache", limit_bytes=1)
    reader = LabelReader(store, cache=cache)
    assert reader.fetch(store.plan.shard(0)) == 0
    assert reader.sample(store.plan.shard(0), 0).labels["grey"].status == "ok"
    assert not (tmp_path / "cache").exists()
