"""Photos of COCO's size with labels of all six of Prismer's kinds, of the sizes and the roughness that networks give, in no time.

The labels are made from the photo's own colours by a few filters. They mean nothing; what they cost to store, to read and to cut
is what a network's would.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from expert_zoo.card import ExpertCard
from expert_zoo.expert import Expert, Photo
from expert_zoo.image import Image
from expert_zoo.labels import ClassMap, DenseMap, Label, instances, words
from expert_zoo.resize import resize_long_side
from expert_zoo.spec import LabelSpec
from manifests.manifest import ManifestWriter
from manifests.record import ImageRecord, path_id, to_batch
from manifests.scenes import render, sample_world
from pipeline.journal import Journal
from pipeline.labeller import Effort, Labeller
from pipeline.store import LabelStore

PHOTO_SIDE, LABEL_SIDE, QUALITY = 640, 480, 92
COCO_CLASSES, OBJECT_CLASSES = 133, 722
LABELS = {"depth": "depth", "normal": "normal", "edge": "edge", "seg": "seg", "detection": "detection", "ocr": "ocr"}
SEED = 9500


def write_photos(out: Path, count: int, photos: Path | None) -> list[Path]:
    """``count`` JPEG files: the first photos of a folder, their long side made 640 pixels at most; without one, scenes."""
    out.mkdir(parents=True)
    found = (
        sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")) if photos else []
    )
    paths = []
    for index in range(count):
        if photos:
            pixels_HW3 = np.asarray(PillowImage.open(found[index % len(found)]).convert("RGB"))
        else:
            pixels_HW3 = render(sample_world(SEED, index, LABEL_SIDE)).photo_HW3
        path = out / f"{index:05d}.jpg"
        PillowImage.fromarray(resize_long_side(pixels_HW3, PHOTO_SIDE)).save(path, quality=QUALITY)
        paths.append(path)
    return paths


def label_photos(folder: Path, paths: Sequence[Path], *, shard_size: int) -> LabelStore:
    """A store of these photos, their files included, with every label of LABELS."""
    records = [
        ImageRecord(image_id=path_id(path.name), source="bench", uri=path.as_uri(), captions=("a photo of things",))
        for path in paths
    ]
    with ManifestWriter(str(folder / "manifest.parquet"), seed=0) as writer:
        writer.write(to_batch(records))
    store = LabelStore.create(str(folder / "store"), writer.manifest, shard_size=shard_size)
    experts = [Image(), Depth(), Normal(), Edge(), Segmentation(), Detection(), Words()]
    for expert in experts:
        store.add_column(expert.card)
    labeller = Labeller(store, experts, effort=Effort())
    columns = [expert.card.column for expert in experts]
    for shard in store.plan.shards():
        labeller.label(shard, columns, Journal(store.storage, "bench", shard.name))
    return store


class _Filter(Expert):
    def __init__(self, name: str, spec: LabelSpec) -> None:
        self.card = ExpertCard(
            name=name, summary="for a benchmark", network="none", spec=spec, licence="MIT", commercial_use=True
        )

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        return [
            self.one(photo, np.random.default_rng(photo.pixels_HW3[:2].astype(np.uint64).sum())) for photo in photos
        ]

    def one(self, photo: Photo, rng: np.random.Generator) -> Label:
        raise AssertionError


def _smooth(photo: Photo, rng: np.random.Generator, noise: float) -> NDArray[np.float32]:
    """(H, W, 3) of about 0 to 1 with LABEL_SIDE pixels along the longer side, blurred, with a network's noise in the last bits."""
    small = resize_long_side(photo.pixels_HW3, LABEL_SIDE).astype(np.float32) / 255
    blurred: NDArray[np.float32] = cv2.GaussianBlur(small, (0, 0), 6)
    return blurred + rng.normal(0, noise, small.shape).astype(np.float32)


class Depth(_Filter):
    def __init__(self) -> None:
        super().__init__(
            "depth", LabelSpec(kind="map", quantity="inverse_depth", dtype="uint16", channels=1, resample="bilinear")
        )

    def one(self, photo: Photo, rng: np.random.Generator) -> Label:
        return Label.ok(DenseMap(_smooth(photo, rng, 0.001).mean(axis=2)))


class Normal(_Filter):
    def __init__(self) -> None:
        super().__init__(
            "normal",
            LabelSpec(
                kind="map", quantity="normal", dtype="uint8", channels=3, value_range=(-1.0, 1.0), resample="bilinear",
                flip="mirror_negate_x",
            ),
        )  # fmt: skip

    def one(self, photo: Photo, rng: np.random.Generator) -> Label:
        vectors_HW3 = _smooth(photo, rng, 0.004) - np.float32(0.4)
        length_HW1 = np.linalg.norm(vectors_HW3, axis=2, keepdims=True).clip(1e-6)
        return Label.ok(DenseMap(vectors_HW3 / length_HW1))


class Edge(_Filter):
    def __init__(self) -> None:
        super().__init__(
            "edge",
            LabelSpec(
                kind="map", quantity="edge", dtype="uint8", channels=1, value_range=(0.0, 1.0), resample="bilinear"
            ),
        )

    def one(self, photo: Photo, rng: np.random.Generator) -> Label:
        grey_HW = cv2.cvtColor(resize_long_side(photo.pixels_HW3, LABEL_SIDE), cv2.COLOR_RGB2GRAY)
        steep_HW = np.abs(cv2.Laplacian(cv2.GaussianBlur(grey_HW, (0, 0), 1.5), cv2.CV_32F)) / 12
        return Label.ok(DenseMap(np.clip(steep_HW - 0.2, 0, 1).astype(np.float32)))


class Segmentation(_Filter):
    def __init__(self) -> None:
        names = tuple(f"class {number}" for number in range(COCO_CLASSES))
        spec = LabelSpec(
            kind="classes",
            quantity="class",
            dtype="uint8",
            channels=1,
            ignore=255,
            class_names=names,
            resample="nearest",
        )
        super().__init__("seg", spec)

    def one(self, photo: Photo, rng: np.random.Generator) -> Label:
        levels_HW3 = (cv2.GaussianBlur(_smooth(photo, rng, 0.0), (0, 0), 6) * 2.99).clip(0, 2).astype(np.uint8)
        ids_HW = (levels_HW3 @ np.array([1, 3, 9], np.uint8)) * 5 % COCO_CLASSES
        return Label.ok(ClassMap(ids_HW.astype(np.uint8)))


class Detection(_Filter):
    def __init__(self) -> None:
        names = tuple(f"thing {number}" for number in range(OBJECT_CLASSES))
        super().__init__("detection", LabelSpec(kind="instances", quantity="objects", class_names=names))

    def one(self, photo: Photo, rng: np.random.Generator) -> Label:
        size_N2 = rng.uniform(0.05, 0.5, (8, 2))
        first_N2 = rng.uniform(0, 1, (8, 2)) * (1 - size_N2)
        boxes_N4 = np.hstack([first_N2, first_N2 + size_N2]) * np.tile((photo.width, photo.height), 2)
        scores, class_ids = rng.uniform(0.5, 1, 8), rng.integers(0, OBJECT_CLASSES, 8)
        return instances(boxes_N4.tolist(), scores.tolist(), class_ids.tolist())


class Words(_Filter):
    def __init__(self) -> None:
        super().__init__("ocr", LabelSpec(kind="words", quantity="words"))

    def one(self, photo: Photo, rng: np.random.Generator) -> Label:
        first_N2 = rng.uniform(0, 0.8, (2, 2)) * (photo.width, photo.height)
        corners_42 = np.array([[0, 0], [0.15, 0.02], [0.15, 0.08], [0, 0.06]]) * (photo.width, photo.height)
        return words([(first + corners_42).tolist() for first in first_N2], ["stop", "exit"], [0.9, 0.8])


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG as Pillow writes it."""
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
