"""Results as COCO's own tools read them, and the list of images that they belong to.

    <expert>.json            detections: {image_id, category_id, bbox: [x, y, width, height], score}, with ``segmentation`` (RLE)
                             where the expert has masks; captions: {image_id, caption}
    images.json              the images: {id, file_name, width, height, name}, ``name`` being our id; and the categories of every
                             detector. COCO(images.json).loadRes(<expert>.json) opens a result
    parts/000042.*.jsonl     what shard 42 adds to them: the files above are these, joined

``image_id`` is COCO's own number where the picture is COCO's, else a billion, a million for each shard before its own, and its row. ``category_id``
is COCO's own (1 to 90, with gaps) where the classes are COCO's 80, else the class's place in the list, from 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from expert_zoo.card import ExpertCard
from expert_zoo.classes import class_names
from manifests.record import ImageRecord
from pipeline.errors import DamagedCell, StoreError
from pipeline.exports.files import Files
from pipeline.exports.layout import Entry, Layout, Piece, Taken, joined_lines
from pipeline.exports.rle import packed, run_lengths
from pipeline.png import read_png

IMAGES = "images"
#: Numbers that COCO never gave away.
_COCO_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
COCO_CATEGORIES = tuple(number for number in range(1, 91) if number not in _COCO_GAPS)
#: Far beyond COCO's own.
FIRST_OTHER, EACH_SHARD = 1_000_000_000, 1_000_000
_COCO_ID = re.compile(r"coco_0*(\d+)|coco:(\d+)")
_KINDS = {"instances": "objects", "text": "captions"}


class Coco(Layout):
    """Results of detectors and captioners. Takes columns of kind instances and text."""

    name = "coco"

    def __init__(self) -> None:
        super().__init__(photos=False)

    def take(self, cards: Mapping[str, ExpertCard]) -> Taken:
        """Detectors and captioners; none called images, for the list of images is."""
        left = {
            name: f"{card.spec.kind} is no COCO result; detections and captions are"
            for name, card in cards.items()
            if card.spec.kind not in _KINDS
        }
        left |= {name: "its file would be that of the images" for name in cards if name == IMAGES}
        return Taken({name: card for name, card in cards.items() if name not in left}, left)

    def write(self, piece: Piece, files: Files) -> None:
        if piece.shard.rows > EACH_SHARD:
            raise StoreError(
                f"shards of {piece.shard.rows} images; numbers of images are made for at most {EACH_SHARD}"
            )
        lines: dict[str, list[bytes]] = {name: [] for name in (IMAGES, *piece.cards)}
        for entry in piece.entries():
            number = image_number(entry.record, piece.shard.index, entry.place)
            lines[IMAGES].append(_line(_image(entry, number)))
            for name, row in entry.rows.items():
                if row["status"] == "ok":
                    lines[name] += [_line({"image_id": number, **found}) for found in _results(piece, name, row)]
        for name, found in lines.items():
            with files.create(_part(piece.shard.index, name)) as target:
                target.write(b"".join(line + b"\n" for line in found))

    def finish(self, cards: Mapping[str, ExpertCard], shards: list[int], files: Files) -> None:
        for name in cards:
            with files.create(f"{name}.json") as target:
                target.write(b"[\n")
                for line in joined_lines(files.storage, (_part(index, name) for index in shards)):
                    target.write(line)
                target.write(b"]\n")
        about = {
            "info": {"description": "images of a label store; annotations are in the other files"},
            "licenses": [],
            "annotations": [],
            "categories": _categories(cards),
        }
        with files.create(f"{IMAGES}.json") as target:
            target.write(_line(about)[:-1] + b', "images": [\n')
            for line in joined_lines(files.storage, (_part(index, IMAGES) for index in shards)):
                target.write(line)
            target.write(b"]}\n")


def image_number(record: ImageRecord, shard: int, row: int) -> int:
    """The number of an image in COCO's files."""
    for name in (record.image_id, *record.keys):
        if match := _COCO_ID.fullmatch(name):
            return int(match[1] or match[2])
    return FIRST_OTHER + shard * EACH_SHARD + row


def category_numbers(names: tuple[str, ...]) -> tuple[int, ...]:
    """The number of each class of a list."""
    return COCO_CATEGORIES if names == class_names("coco") else tuple(range(1, len(names) + 1))


def _categories(cards: Mapping[str, ExpertCard]) -> list[dict[str, Any]]:
    """Of all detectors; where two number differently, each category says whose it is."""
    found: dict[tuple[int, str], list[str]] = {}
    for name, card in cards.items():
        if card.spec.kind == "instances":
            names = card.spec.class_names
            for number, called in zip(category_numbers(names), names, strict=True):
                found.setdefault((number, called), []).append(name)
    return [
        {"id": number, "name": called, "supercategory": "", "experts": experts}
        for (number, called), experts in sorted(found.items())
    ]


def _image(entry: Entry, number: int) -> dict[str, Any]:
    path = PurePosixPath(unquote(urlsplit(entry.record.uri).path))
    return {
        "id": number,
        "file_name": path.name,
        "width": entry.width,
        "height": entry.height,
        "name": entry.record.image_id,
    }


def _results(piece: Piece, name: str, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    spec = piece.cards[name].spec
    if spec.kind == "text":
        yield {"caption": row["text"]}
        return
    numbers = category_numbers(spec.class_names)
    masks = row["masks"] or [None] * len(row["boxes"])
    for box, score, class_id, mask in zip(row["boxes"], row["scores"], row["class_ids"], masks, strict=True):
        left, top, right, bottom = box
        found = {
            "category_id": numbers[class_id],
            "bbox": [round(value, 3) for value in (left, top, right - left, bottom - top)],
            "score": round(score, 6),
        }
        if mask is not None:
            found["segmentation"] = _segmentation(name, row, box, mask)
        yield found


def _segmentation(name: str, row: Mapping[str, Any], box: list[float], mask: bytes) -> dict[str, Any]:
    pixels = read_png(mask)
    if pixels is None:
        raise DamagedCell(
            f"{name}: a mask of {row['image_id']} is no PNG; `expert-labels audit --deep --repair` takes its cell back"
        )
    left, top = (int(np.floor(value)) for value in box[:2])
    height, width = row["height"], row["width"]
    return {"size": [height, width], "counts": packed(run_lengths(pixels > 0, left, top, height, width))}


def _part(shard: int, name: str) -> str:
    return f"parts/{shard:06d}.{name}.jsonl"


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
