"""Training, exports and previews of a store that has grown and shrunk: every image that is there once, and no other."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from jobs.preview import write_preview
from manifests.record import ImageRecord
from pipeline.difference import difference
from pipeline.exports.hf import HuggingFace
from pipeline.exports.layout import Layout
from pipeline.exports.run import export, verify
from pipeline.exports.webdataset import WebDataset
from pipeline.growing import grow
from pipeline.reader import LabelReader
from pipeline.store import LabelStore
from tests.conftest import label_all, write_manifest, write_photos
from tests.stand_ins import Grey, Squares
from trainer.data.dataset import LabelDataset
from trainer.data.selection import Selection
from trainer.fingerprint import StoreFingerprint

SIZE = 4


@pytest.fixture
def photos(tmp_path: Path) -> list[ImageRecord]:
    records = write_photos(tmp_path / "photos", 14)
    return [
        dataclasses.replace(r, captions=tuple(f"{n} {c}" for c in range(n % 3)), split="val" if n % 4 else "train")
        for n, r in enumerate(records)
    ]


def grown(store: LabelStore, folder: Path, records: Sequence[ImageRecord]) -> LabelStore:
    manifest = write_manifest(str(folder / "asked.parquet"), records)
    store = grow(store, manifest, difference(store, manifest))
    label_all(store, [Grey(), Squares()])
    return store


@pytest.fixture
def store(tmp_path: Path, photos: list[ImageRecord]) -> LabelStore:
    """Shard 0 has no image any more, shards 1 and 2 lack one each, shard 3 is new."""
    manifest = write_manifest(str(tmp_path / "first.parquet"), photos[:11])
    store = LabelStore.create(str(tmp_path / "store"), manifest, shard_size=SIZE)
    label_all(store, [Grey(), Squares()])
    return grown(store, tmp_path, asked(photos))


def asked(photos: Sequence[ImageRecord]) -> list[ImageRecord]:
    return [record for n, record in enumerate(photos) if n > 3 and n not in (5, 10)]


def dataset(store: LabelStore, selection: Selection | None = None) -> LabelDataset:
    return LabelDataset(
        store, labels={"depth": "grey"}, view="squash", resolution=16, label_resolution=8, seed=1, selection=selection, window=2
    )  # fmt: skip


def test_an_epoch_has_every_image_once(store: LabelStore, photos: list[ImageRecord]) -> None:
    data = dataset(store)
    for epoch in range(2):
        seen = [data[epoch, position] for position in range(len(data.order(epoch)))]
        assert sorted(example.image_id for example in seen) == [record.image_id for record in asked(photos)]
    records = {record.image_id: record for record in photos}
    values = {s.record.image_id: s.labels["grey"].value.values for s in LabelReader(store).samples()}
    for example in seen:
        assert example.captions == records[example.image_id].captions
        label = example.labels["depth"]
        assert label is not None
        mean = label.pixels_ssC.mean() * label.scale + label.bias
        assert np.isclose(mean, values[example.image_id].mean(), atol=0.01)


def test_selections_of_images_and_of_items(store: LabelStore, photos: list[ImageRecord]) -> None:
    left = asked(photos)
    train = dataset(store, Selection.images(store, lambda record: record.split == "train"))
    ids = [train[0, position].image_id for position in range(len(train.order(0)))]
    assert sorted(ids) == [record.image_id for record in left if record.split == "train"]
    items = dataset(store, Selection.items(store, lambda record: len(record.captions)))
    texts = [items[0, position].text for position in range(len(items.order(0)))]
    assert sorted(texts) == sorted(caption for record in left for caption in record.captions)


def test_a_training_notices_that_its_images_are_others(
    tmp_path: Path, store: LabelStore, photos: list[ImageRecord]
) -> None:
    def print_of(store: LabelStore) -> StoreFingerprint:
        data = dataset(store)
        return StoreFingerprint.of(data.cards, examples=data.selection.fingerprint, images=data.reader.plan.images)

    before = print_of(store)
    moved = [dataclasses.replace(record, license="another") for record in asked(photos)]
    assert print_of(grown(store, tmp_path, moved)) == before, "the same images in the same rows"
    assert print_of(grown(LabelStore.open(store.storage.url), tmp_path, asked(photos)[1:])) != before


@pytest.mark.parametrize("layout", [WebDataset(), HuggingFace()], ids=lambda layout: layout.name)
def test_exports(tmp_path: Path, store: LabelStore, photos: list[ImageRecord], layout: Layout) -> None:
    out = str(tmp_path / "out")
    done = export(store, out, layout)
    assert done.samples == 8 and done.missing == 0
    assert not verify(store, out, layout)
    if layout.name == "webdataset":
        ids = []
        for path in sorted((tmp_path / "out").glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".json") and member.name.count(".") == 1:
                        ids.append(json.load(tar.extractfile(member))["image_id"])  # type: ignore[arg-type]
        assert ids == [record.image_id for record in asked(photos)]
    # Only what changed is made again.
    store = grown(store, tmp_path, [record for record in photos[4:] if record != photos[13]])
    again = export(store, out, layout)
    assert again.samples == 9 and again.skipped == 1 and not verify(store, out, layout)


def test_a_preview(tmp_path: Path, store: LabelStore, photos: list[ImageRecord]) -> None:
    reader = LabelReader(store)
    done = write_preview(reader.samples(), reader.cards, tmp_path / "preview", title="t")
    page = done.page.read_text()
    assert done.shown == 8
    assert [record.image_id in page for record in photos] == [record in asked(photos) for record in photos]
