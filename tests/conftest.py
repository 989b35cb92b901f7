"""What several tests of the core need: a few photos, their manifest, a labelling run in process, and a hard look at a cell."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from expert_zoo.expert import Expert
from expert_zoo.labels import ClassMap, DenseMap, Instances, Label, Picture, Scores, Text, Words
from manifests.manifest import Manifest, ManifestWriter
from manifests.record import ImageRecord, path_id, to_batch
from pipeline.filling import CellResult
from pipeline.journal import Journal
from pipeline.labeller import Effort, Labeller
from pipeline.plan import Shard
from pipeline.receipt import Receipt
from pipeline.store import LabelStore

if TYPE_CHECKING:
    from tests.s3_server import S3Server

ROOT = Path(__file__).resolve().parent.parent


def write_photos(folder: Path, count: int) -> list[ImageRecord]:
    """PNG photos of 40 x 30 pixels, every other one too dark for `Squares`, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    y_HW, x_HW = np.mgrid[0:30, 0:40]
    records = []
    for index in range(count):
        base = 30 if index % 2 else 150
        pixels = np.stack([base + x_HW, base + 2 * y_HW, np.full_like(x_HW, base + index)], axis=2).astype(np.uint8)
        path = folder / f"photo {index:03d}.png"
        assert cv2.imwrite(str(path), pixels)
        records.append(ImageRecord(image_id=path_id(path.name), source="test", uri=path.as_uri()))
    return records


def write_manifest(url: str, records: Sequence[ImageRecord], *, seed: int = 0) -> Manifest:
    with ManifestWriter(url, seed=seed) as writer:
        writer.write(to_batch(records))
    return writer.manifest


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return write_photos(tmp_path / "photos", 10)


@pytest.fixture
def manifest(tmp_path: Path, records: list[ImageRecord]) -> Manifest:
    return write_manifest(str(tmp_path / "manifest.parquet"), records)


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    """A server for all tests that want one."""
    import boto3

    from tests.s3_server import BUCKET, KEY, SECRET, S3Server

    server = S3Server()
    boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    ).create_bucket(Bucket=BUCKET)
    yield server
    server.stop()


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """An S3 API on the loopback, which this process and its children find by the environment."""
    import fsspec

    for name, value in s3_process.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", json.loads(s3_process.environment()["FSSPEC_S3"]))
    return s3_process


@pytest.fixture
def s3_url(s3: S3Server) -> str:
    """An empty place for a store behind that API."""
    return f"s3://labels/{uuid.uuid4().hex}/store"


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a store: a local folder, then memory."""
    return str(tmp_path / "store") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def label_all(
    store: LabelStore,
    experts: Sequence[Expert],
    *,
    run: str = "run",
    retry: bool = False,
    effort: Effort | None = None,
    shards: Sequence[Shard] | None = None,
) -> list[CellResult]:
    """Labels ``shards`` (default: all) with one Labeller, as a worker would, without a cluster."""
    for expert in experts:
        store.add_column(expert.card)
    labeller = Labeller(store, experts, effort=effort or Effort())
    columns = [expert.card.column for expert in experts]
    results = []
    for shard in shards if shards is not None else store.plan.shards():
        results += labeller.label(shard, columns, Journal(store.storage, run, shard.name), retry=retry)
    return results


def comparable(label: Label) -> tuple[object, ...]:
    """A label as a tuple that compares by value."""

    def plain(array: np.ndarray) -> tuple[object, ...]:
        return str(array.dtype), array.shape, array.tobytes()

    match label.value:
        case DenseMap(values):
            value: tuple[object, ...] = plain(values)
        case ClassMap(ids):
            value = plain(ids)
        case Instances(boxes, scores, class_ids, masks):
            value = (plain(boxes), plain(scores), plain(class_ids), masks)
        case Words(polygons, texts, scores):
            value = (plain(polygons), texts, plain(scores))
        case Scores(values):
            value = plain(values)
        case Text(text, log_prob):
            value = (text, log_prob)
        case Picture(data, ending):
            value = (data, ending)
        case None:
            value = ()
    return label.status, label.reason, type(label.value).__name__, value


def audited(store: LabelStore, column: str, shard: Shard) -> tuple[Receipt, list[tuple[object, ...]]]:
    """The receipt and the comparable labels of a committed cell; AssertionError unless it is whole in every respect."""
    receipt = store.receipt(column, shard)
    for entry in (receipt.table, receipt.tar):
        if entry is not None:
            data = store.storage.read(f"{store.folder(column)}/{entry.name}")
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256)
    with store.read(column, shard, receipt) as cell:
        assert [row["image_id"] for row in cell.rows] == [record.image_id for record in store.records(shard)]
        found = [comparable(label) for label in cell.labels()]
        statuses = [status for status, *_ in found]
        assert [statuses.count(s) for s in ("ok", "empty", "failed")] == [
            receipt.rows.ok,
            receipt.rows.empty,
            receipt.rows.failed,
        ]
        if receipt.tar is not None:
            data = store.storage.read(f"{store.folder(column)}/{receipt.tar.name}")
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                members = [(m.offset_data, m.size) for m in tar.getmembers()]
            assert members == [(row["offset"], row["length"]) for row in cell.rows if row["status"] == "ok"]
    return receipt, found


def everything(store: LabelStore, columns: Sequence[str]) -> dict[tuple[str, int], list[tuple[object, ...]]]:
    """Comparable labels of every cell; AssertionError where one is missing or broken."""
    return {(c, s.index): audited(store, c, s)[1] for c in columns for s in store.plan.shards()}


def unnamed_files(store: LabelStore, column: str) -> set[str]:
    """Files of a column that no receipt names: garbage, or left over."""
    found = {name for name in store.storage.names(store.folder(column)) if name != "expert.json"}
    for index in store.committed(column):
        receipt = store.receipt(column, store.plan.shard(index))
        found -= {f"{store.plan.shard(index).name}.json", receipt.table.name, receipt.tar.name if receipt.tar else ""}
    return found


def run_python(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter: no threads of other tests, nothing imported."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For trainings: networks of a few thousand numbers are slower on several threads, and whoever comes next is not bound to be exact."""
    import torch

    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def seeded_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with small seeded checkpoints for every expert of the catalog that can run here."""
    from expert_zoo.catalog import EXPERTS
    from expert_zoo.networks.seeding import seed
    from tests.seeded_zoo import options_of, runs_here

    root = tmp_path_factory.mktemp("weights")
    names = [name for name in EXPERTS if runs_here(name)]
    seed(names, root=root, options={name: options_of(name) for name in names})
    return root
