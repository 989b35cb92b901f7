"""A whole store on S3: the same labels as on a disk, read, audited, mended, grown and exported from there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from manifests.record import ImageRecord
from pipeline.audit import audit
from pipeline.difference import difference
from pipeline.exports.run import export, verify
from pipeline.exports.webdataset import WebDataset
from pipeline.growing import grow
from pipeline.lacking import missing_cells
from pipeline.reader import LabelReader
from pipeline.repair import repair
from pipeline.storage import open_storage, s3_calls
from pipeline.storage.cache import FileCache
from pipeline.store import LabelStore
from tests.conftest import label_all, write_manifest, write_photos
from tests.s3_server import SECRET, S3Server
from tests.small_store import every_kind, small_store
from tests.stand_ins import Grey, Squares


def label_files(store: LabelStore) -> dict[str, tuple[str, str]]:
    """The digests of every cell's two files, and what its receipt counts; attempts have names of their own."""
    return {
        f"{column}/{index}": (receipt.table.sha256, receipt.tar.sha256 if receipt.tar else "")
        for column in store.columns()
        for index in sorted(store.committed(column))
        for receipt in [store.receipt(column, store.plan.shard(index))]
    }


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_calls, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(s3_calls, "LONGEST_PAUSE", 0.01)


def test_the_same_store_as_on_a_disk_byte_for_byte(tmp_path: Path, s3_url: str, s3: S3Server, quick: None) -> None:
    """Labelled while three in ten of all calls go wrong."""
    disk = small_store(tmp_path / "disk", every_kind(), url=str(tmp_path / "store"))
    kinds = ("500", "503", "SlowDown", "lost", "reset", "cut")
    with s3.trouble(0.3, kinds=kinds, seed=1):
        far = small_store(tmp_path / "disk", every_kind(), url=s3_url)
    assert s3.injected.total() > 50
    assert label_files(far) == label_files(disk) and len(label_files(far)) == 9 * 3
    assert not list(missing_cells(far, list(far.columns())))
    for name in ("manifest.parquet", *(f"labels/{column}/expert.json" for column in far.columns())):
        assert far.storage.read(name) == disk.storage.read(name), name
    report = audit(far, deep=True)
    assert report.findings == [] and report.garbage == [] and report.cells == 27
    stored = [
        far.storage.read(f"labels/{c}/{name}") for c in far.columns() for name in far.storage.names(f"labels/{c}")
    ]
    assert not any(SECRET.encode() in data for data in [*stored, far.storage.read("store.json")])


def test_a_store_is_planned_while_calls_go_wrong(
    tmp_path: Path, s3_url: str, s3: S3Server, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the storage's own calls: s3fs gives up at a 503 that lasts for five tries."""
    monkeypatch.setattr(s3_calls, "TRIES", 1000)
    manifest = write_manifest(str(tmp_path / "manifest.parquet"), write_photos(tmp_path / "photos", 5))
    with s3.trouble(0.95, kinds=("503",), seed=3):
        assert len(LabelStore.create(s3_url, manifest, shard_size=2).plan) == 3
    assert s3.injected.total() > 100


def test_grown_mended_and_exported(tmp_path: Path, s3_url: str) -> None:
    records: list[ImageRecord] = write_photos(tmp_path / "photos", 9)
    store = LabelStore.create(s3_url, write_manifest(str(tmp_path / "a.parquet"), records[:6]), shard_size=3)
    label_all(store, [Grey(), Squares()])
    asked = write_manifest(str(tmp_path / "b.parquet"), records[1:])
    store = grow(store, asked, difference(store, asked))
    label_all(store, [Grey(), Squares()])
    assert len(store.plan) == 3 and audit(store, deep=True).findings == []
    column = Grey().card.column
    receipt = store.receipt(column, store.plan.shard(1))
    assert receipt.tar is not None
    store.storage.delete(f"labels/{column}/{receipt.tar.name}")
    file = store.storage.create(f"labels/{column}/shard-000000.0123456789ab.tar")
    file.write(bytes(9 << 20))  # begun and forgotten
    done = repair(store, audit(store, deep=True), grace_seconds=0)
    assert done.withdrawn == [(column, 1)]
    assert f"labels/{column}/shard-000000.0123456789ab.tar" in done.swept
    label_all(store, [Grey(), Squares()])
    assert audit(store, deep=True).findings == []
    samples = [sample.record.image_id for sample in LabelReader(store).samples()]
    assert sorted(samples) == sorted(record.image_id for record in records[1:])
    there = s3_url.replace("/store", "/out")
    export(store, there, WebDataset())
    assert verify(store, there, WebDataset()) == []
    export(store, str(tmp_path / "out"), WebDataset())
    tars = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    out = open_storage(there)
    assert tars == sorted(name for name in out.names("") if name.endswith(".tar")) and tars
    assert all(out.read(name) == (tmp_path / "out" / name).read_bytes() for name in tars)


def test_training_reads_through_the_bounded_cache(tmp_path: Path, s3_url: str, s3: S3Server) -> None:
    """In the forked workers of a DataLoader, whose parent has read the store before."""
    store = small_store(tmp_path, [Grey(), Squares()], url=s3_url, photos=12, shard_size=4)
    here = [sample.record.image_id for sample in LabelReader(store).samples()]
    cache = FileCache(tmp_path / "cache", limit_bytes=1 << 20)
    for reader in (LabelReader(store, cache=cache), LabelReader(store)):
        loader = torch.utils.data.DataLoader(
            _Ids(reader), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
        )
        assert [str(image_id) for image_id in loader] == here
    fetched = cache.size()
    assert 0 < fetched <= cache.limit_bytes
    s3.calls.clear()
    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(LabelReader(store, cache=cache).fetch, store.plan.shards())) == fetched
    assert not [path for _, path in s3.calls if path.endswith(".tar")], "what was fetched once is not fetched again"


class _Ids(torch.utils.data.Dataset[str]):
    def __init__(self, reader: LabelReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> str:
        sample = self.reader.sample(self.reader.plan.shard(index // 4), index % 4)
        assert sample.labels["grey"].status == "ok"
        return sample.record.image_id
