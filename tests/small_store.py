"""A small labelled store for tests: synthetic photos of several sizes, stand-in experts, everything in this process."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from expert_zoo.expert import Expert, Photo
from expert_zoo.image import Image
from expert_zoo.labels import DenseMap, Instances, Label, Scores, Text, words
from expert_zoo.spec import LabelSpec
from manifests.manifest import Manifest, ManifestWriter
from manifests.record import ImageRecord, path_id, to_batch
from pipeline.filling import CellResult
from pipeline.journal import Journal
from pipeline.labeller import Effort, Labeller
from pipeline.lacking import missing_cells
from pipeline.store import LabelStore
from tests.stand_ins import Darkness, Grey, Squares, card, small

#: (height, width) of the photos, in turn.
SIZES = ((60, 80), (80, 60), (64, 64), (45, 120))


def write_photos(folder: Path, *, photos: int, broken: Sequence[int] = (), seed: int = 0) -> list[ImageRecord]:
    """``photos`` PNG files of blocky noise, bright and dark in turn; those in ``broken`` have no bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    records = []
    for index in range(photos):
        height, width = SIZES[index % len(SIZES)]
        coarse = rng.integers(0, 100, (6, 8, 3), dtype=np.uint8) + np.uint8(140 * (index % 2))
        path = folder / f"photo {index}.png"
        pixels_HW3 = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        path.write_bytes(b"" if index in broken else cv2.imencode(".png", pixels_HW3)[1].tobytes())
        captions = tuple(f"caption {n} of photo {index}" for n in range(index % 3))
        records.append(
            ImageRecord(
                image_id=path_id(path.name), source="noise", uri=path.as_uri(), captions=captions, split="train"
            )
        )
    return records


def write_manifest(folder: Path, records: Sequence[ImageRecord]) -> Manifest:
    """A manifest of ``records`` in the given order."""
    with ManifestWriter(str(folder / f"{uuid.uuid4().hex}.parquet"), seed=0) as writer:
        writer.write(to_batch(records))
    return writer.manifest


def label(store: LabelStore, experts: Sequence[Expert], *, retry: bool = False) -> list[CellResult]:
    """Fills what ``experts`` lack in ``store`` (or asks again for failed rows), shard after shard."""
    for expert in experts:
        store.add_column(expert.card)
    columns = [expert.card.column for expert in experts]
    labeller = Labeller(store, experts, effort=Effort(failure_limit=1.0))
    shards = store.plan.shards() if retry else [shard for shard, _ in missing_cells(store, columns)]
    results: list[CellResult] = []
    for shard in shards:
        journal = Journal(store.storage, "run-in-process", shard.name)
        results += labeller.label(shard, columns, journal, retry=retry)
    store.storage.prune("attempts/run-in-process")
    store.storage.prune("attempts")
    return results


def small_store(
    folder: Path,
    experts: Sequence[Expert],
    *,
    photos: int = 12,
    shard_size: int = 5,
    broken: Sequence[int] = (),
    url: str | None = None,
) -> LabelStore:
    """A store at ``url`` (default: ``folder``/store) of synthetic photos in ``folder``/photos, labelled by ``experts``."""
    manifest = write_manifest(folder, write_photos(folder / "photos", photos=photos, broken=broken))
    store = LabelStore.create(url or str(folder / "store"), manifest, shard_size=shard_size)
    label(store, experts)
    return store


def every_kind() -> list[Expert]:
    """One expert for every kind of label, both PNG depths, one and three channels, and masks."""
    return [Image(), Grey(), Slopes(), Darkness(), Squares(), Discs(), Signs(), Caption(), Match()]


class _OneByOne(Expert):
    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [self.one(photo) for photo in photos]

    def one(self, photo: Photo) -> Label:
        raise AssertionError


class Slopes(_OneByOne):
    """Unit normals in 8 bits: red, green and blue taken for x, y, z and made one long."""

    def __init__(self) -> None:
        spec = LabelSpec(
            kind="map", quantity="normal", dtype="uint8", channels=3, value_range=(-1.0, 1.0), units="unit vector",
            resample="bilinear", flip="mirror_negate_x",
        )  # fmt: skip
        self.card = card("slopes", spec)

    def one(self, photo: Photo) -> Label:
        vectors_HW3 = small(photo).astype(np.float32) + 1.0
        return Label.ok(DenseMap(vectors_HW3 / np.linalg.norm(vectors_HW3, axis=2, keepdims=True)))


class Discs(_OneByOne):
    """Two boxes, each with a mask."""

    def __init__(self) -> None:
        self.card = card("discs", LabelSpec(kind="instances", quantity="objects", class_names=("disc", "hole")))

    def one(self, photo: Photo) -> Label:
        masks = []
        for size in (8, 5):
            mask_HW = np.zeros((size, size), np.uint8)
            cv2.circle(mask_HW, (size // 2, size // 2), size // 3, 255, -1)
            masks.append(cv2.imencode(".png", mask_HW)[1].tobytes())
        value = Instances(
            boxes_N4=np.array([[1, 2, 9, 10], [20, 20, 25, 25]], np.float32),
            scores_N=np.array([0.9, 0.3], np.float32),
            class_ids_N=np.array([1, 0], np.int32),
            masks=tuple(masks),
        )
        return Label.ok(value)


class Signs(_OneByOne):
    """The word "noise" in the top left corner, with a note, of photos wider than high; nothing in others."""

    def __init__(self) -> None:
        self.card = card("signs", LabelSpec(kind="words", quantity="words"))

    def one(self, photo: Photo) -> Label:
        found = photo.width > photo.height
        return words([[[1, 1], [21, 1], [21, 11], [1, 11]]] * found, ["n\u00f6ise"] * found, [0.5] * found)


class Caption(_OneByOne):
    """A caption that tells the size."""

    def __init__(self) -> None:
        self.card = card("caption", LabelSpec(kind="text", quantity="caption", flip="none"))

    def one(self, photo: Photo) -> Label:
        return Label.ok(Text(f"{photo.width} by {photo.height} pixels of noise", -1.5))


class Match(_OneByOne):
    """One score per caption; empty where there is none."""

    def __init__(self) -> None:
        self.card = card("match", LabelSpec(kind="score", quantity="match", flip="none"))

    def one(self, photo: Photo) -> Label:
        values_N = np.linspace(-1, 1, len(photo.captions), dtype=np.float32)
        return Label.ok(Scores(values_N)) if len(values_N) else Label.empty()
