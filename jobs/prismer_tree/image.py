"""The files of one image's labels, from what the store holds of it. Runs in threads: nothing here touches the store or the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expert_zoo.spec import LabelSpec
from jobs.prismer_tree import maps
from jobs.prismer_tree.places import Place
from jobs.prismer_tree.vectors import Vectors
from pipeline.codec import stored_pixels
from pipeline.errors import DamagedCell
from pipeline.png import write_png

#: Name -> bytes; None where nothing must be.
Made = dict[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Found:
    """What one expert said: its row where that is ``ok``, else None; the bytes of its PNG where its kind has one."""

    spec: LabelSpec
    row: Mapping[str, Any] | None
    member: bytes | None

    def pixels(self) -> NDArray[np.unsignedinteger]:
        try:
            return stored_pixels(self.spec, self.member)
        except ValueError as error:
            image_id = self.row["image_id"] if self.row else "an image"
            raise DamagedCell(
                f"{image_id}: {error}; `expert-labels audit --deep --repair` takes its cell back"
            ) from error


def files_of(labels: Mapping[str, Found], place: Place, size: maps.Size, vectors: Vectors | None) -> Made:
    """labels: by expert, as the released code calls it. size: of the photo, (height, width). Raises DamagedCell."""
    made: Made = {}
    depth = labels.get("depth")
    depth_HW = depth.pixels() if depth is not None and depth.row is not None else None
    for expert, found in labels.items():
        picture, row = place.label(expert, ".png"), found.row
        if expert == "ocr_detection":
            made |= _words(row, place, size, vectors)
        elif expert == "obj_detection":
            made |= _objects(row, depth_HW, depth.spec.quantity if depth is not None else "", place, size)
        elif row is None:
            made[picture] = maps.missing_png(expert, size)
        elif expert == "depth":
            assert depth_HW is not None
            made[picture] = maps.depth_png(depth_HW, found.spec, row, size)
        elif expert == "normal":
            made[picture] = maps.normal_png(found.pixels(), row, size)
        elif expert == "edge":
            made[picture] = maps.edge_png(found.pixels(), size)
        else:
            made[picture] = maps.class_png(found.pixels(), size)
    return made


def _words(row: Mapping[str, Any] | None, place: Place, size: maps.Size, vectors: Vectors | None) -> Made:
    picture, names = place.label("ocr_detection", ".png"), place.label("ocr_detection", ".pt")
    ids_hw = maps.word_ids(row, size) if row is not None else None
    if row is None or ids_hw is None or not maps.seen(ids_hw):
        return {picture: None, names: None}
    assert vectors is not None, "words are not taken without vectors"
    # Every word has its number, also one that another hides: the loader asks only for those that are seen.
    texts = [text.lower() for text in row["texts"][: maps.MOST]]
    return {picture: write_png(ids_hw), names: vectors.word_file(texts)}


def _objects(
    row: Mapping[str, Any] | None,
    depth_HW: NDArray[np.unsignedinteger] | None,
    quantity: str,
    place: Place,
    size: maps.Size,
) -> Made:
    picture, names = place.label("obj_detection", ".png"), place.label("obj_detection", ".json")
    if row is None:
        return {picture: maps.missing_png("obj_detection", size), names: b"{}"}
    # Values are a positive multiple of the stored integers, and all that counts is which is more.
    ids_hw = maps.object_ids(row, depth_HW, "depth" if quantity == "depth" else "inverse_depth", size)
    classes = {str(number): row["class_ids"][number] for number in maps.seen(ids_hw)}
    return {picture: write_png(ids_hw), names: json.dumps(classes).encode()}
