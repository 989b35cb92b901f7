"""A loader as Prismer's authors describe theirs: nine files a sample, and names of classes painted as 64 channels by the worker.

Written from what their loader does, step by step, with Pillow and torch as they use them: every label a PNG of the photo's size,
crop, resize, flip, two random operations on each image by itself, class maps and instances filled with text embeddings at
224 x 224, depth, normals and edges stretched to -1..1.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms import functional

from bench.labelled_photos import COCO_CLASSES, OBJECT_CLASSES, as_png
from expert_zoo.labels import ClassMap, DenseMap, Instances
from expert_zoo.labels import Words as WordLabel
from expert_zoo.occlusion import instance_map
from pipeline.reader import Sample

SIZE, CHANNELS, NOTHING = 224, 64, 255
MAPS = ("depth", "normal", "edge")
_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def write_files(folder: Path, samples: Sequence[Sample], photos: Sequence[Path]) -> list[str]:
    """The stored labels in the authors' files, beside the photos; returns their names."""
    names = []
    for kind in (*MAPS, "seg", "detection", "ocr"):
        (folder / kind).mkdir(parents=True)
    for sample, photo in zip(samples, photos, strict=True):
        assert sample.height and sample.width, "a photo that experts saw"
        size, name = (sample.height, sample.width), photo.stem
        for kind, label in sample.labels.items():
            match label.value:
                case DenseMap(values):
                    low, high = (-1, 1) if kind == "normal" else (values.min(), values.max())
                    pixels = ((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
                    _write(folder / kind / f"{name}.png", cv2.resize(pixels, size[::-1]))
                case ClassMap(ids_HW):
                    _write(
                        folder / kind / f"{name}.png", cv2.resize(ids_HW, size[::-1], interpolation=cv2.INTER_NEAREST)
                    )
                case Instances():
                    depth = sample.labels["depth"].value
                    assert isinstance(depth, DenseMap)
                    shown = instance_map(
                        label.value.boxes_N4, depth.values, quantity="inverse_depth", photo=size, size=size
                    )
                    _write(folder / kind / f"{name}.png", shown.astype(np.uint8))
                    table = {str(index): class_id for index, class_id in enumerate(label.value.class_ids_N.tolist())}
                    (folder / kind / f"{name}.json").write_text(json.dumps(table))
                case WordLabel():
                    shown = np.full(size, NOTHING, np.uint8)
                    for index, corners_42 in enumerate(label.value.polygons_N42):
                        cv2.fillConvexPoly(shown, corners_42.astype(np.int32), index)
                    _write(folder / kind / f"{name}.png", shown)
                    found = {i: {"features": torch.randn(CHANNELS), "text": t} for i, t in enumerate(label.value.texts)}
                    torch.save(found, folder / kind / f"{name}.pt")
        names.append(name)
    return names


def _write(path: Path, pixels: Any) -> None:
    path.write_bytes(as_png(pixels))


class ReferenceLoader(Dataset[dict[str, Any]]):
    """One sample as a dictionary of float tensors."""

    def __init__(self, folder: Path, photos: Sequence[Path], names: Sequence[str]) -> None:
        self._folder, self._photos, self._names = folder, photos, names
        self._seg = torch.randn(COCO_CLASSES, CHANNELS)
        self._detection = torch.randn(OBJECT_CLASSES, CHANNELS)
        self._background = torch.randn(CHANNELS)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self._names[index]
        photo = Image.open(self._photos[index]).convert("RGB")
        labels = {kind: self._open(kind, name) for kind in (*MAPS, "seg", "detection", "ocr")}
        objects = json.loads((self._folder / "detection" / f"{name}.json").read_text())
        found = torch.load(self._folder / "ocr" / f"{name}.pt")

        box = transforms.RandomResizedCrop.get_params(photo, [0.5, 1.0], [3 / 4, 4 / 3])
        photo = functional.crop(photo, *box)
        photo = functional.resize(photo, [SIZE, SIZE], functional.InterpolationMode.BICUBIC)
        nearest = functional.InterpolationMode.NEAREST
        labels = {
            kind: functional.resize(functional.crop(label, *box), [SIZE, SIZE], nearest)
            for kind, label in labels.items()
        }
        if random.random() > 0.5:
            photo = functional.hflip(photo)
            labels = {kind: functional.hflip(label) for kind, label in labels.items()}
        for operation in random.choices(_OPERATIONS, k=2):
            photo, labels = operation(photo, labels)

        result: dict[str, Any] = {
            "rgb": functional.normalize(functional.to_tensor(photo), list(_MEAN), list(_DEVIATION))
        }
        for kind in MAPS:
            values = functional.to_tensor(labels[kind])
            result[kind] = 2 * (values - values.min()) / (values.max() - values.min() + 1e-6) - 1
        ids = {kind: (functional.to_tensor(labels[kind]) * 255).long() for kind in ("seg", "detection", "ocr")}
        result["seg"] = self._painted(ids["seg"], lambda one: self._seg[one])
        result["detection"] = self._painted(ids["detection"], lambda one: self._detection[objects[str(one)]])
        result["instances"] = ids["detection"]
        result["ocr"] = self._painted(ids["ocr"], lambda one: found[one]["features"])
        return result

    def _open(self, kind: str, name: str) -> Image.Image:
        return Image.open(self._folder / kind / f"{name}.png").convert("RGB" if kind == "normal" else "L")

    def _painted(self, ids_1HW: torch.Tensor, vector_of: Any) -> torch.Tensor:
        result = torch.empty(CHANNELS, *ids_1HW.shape[1:])
        for one in ids_1HW.unique().tolist():
            result[:, ids_1HW[0] == one] = (self._background if one == NOTHING else vector_of(one)).unsqueeze(-1)
        return result


def _affine(*matrix: float) -> Any:
    def change(photo: Image.Image, labels: dict[str, Image.Image]) -> tuple[Image.Image, dict[str, Image.Image]]:
        sign = random.choice((-1, 1))
        signed = [value if place in (0, 4) else sign * value for place, value in enumerate(matrix)]
        photo = photo.transform(photo.size, Image.Transform.AFFINE, signed, Image.Resampling.BILINEAR)
        turned = {
            kind: label.transform(
                label.size, Image.Transform.AFFINE, signed, Image.Resampling.NEAREST, fillcolor=_fill(kind)
            )
            for kind, label in labels.items()
        }
        return photo, turned

    return change


def _rotated(photo: Image.Image, labels: dict[str, Image.Image]) -> tuple[Image.Image, dict[str, Image.Image]]:
    angle = random.choice((-15, 15))
    return photo.rotate(angle), {kind: label.rotate(angle, fillcolor=_fill(kind)) for kind, label in labels.items()}


def _fill(kind: str) -> Any:
    return (0, 0, 0) if kind == "normal" else 0 if kind in MAPS else NOTHING


def _on_photo(change: Any) -> Any:
    return lambda photo, labels: (change(photo), labels)


_OPERATIONS = (
    lambda photo, labels: (photo, labels),
    _affine(1, 0.15, 0, 0, 1, 0),
    _affine(1, 0, 0, 0.15, 1, 0),
    _affine(1, 0, 0.165 * SIZE, 0, 1, 0),
    _affine(1, 0, 0, 0, 1, 0.165 * SIZE),
    _rotated,
    _on_photo(ImageOps.autocontrast),
    _on_photo(ImageOps.equalize),
    _on_photo(lambda photo: ImageEnhance.Brightness(photo).enhance(1.0)),
    _on_photo(lambda photo: ImageEnhance.Sharpness(photo).enhance(1.0)),
)
