"""The tree of files that the released code of Prismer (github.com/NVlabs/prismer) trains from. For those who use that code.

    labels/<expert>/<dataset>/<folder>/<stem>.png     the configuration's label_path is labels/
    labels/obj_detection/.../<stem>.json              {"0": class}: the class of each object in the picture
    labels/ocr_detection/.../<stem>.pt                {0: {"features": 64 numbers, "text": "word"}}; none where nothing was read
    features/*_features.pt                            what the classes in these labels mean: to be put into its folder dataset/
    data/coco_karpathy_train.json, ...                its lists, of the images that are here
    data/<dataset>/<folder>/<name>                    the photos and, of web images, their captions; with ``photos`` only
    parts/000042.*.jsonl                              what shard 42 adds to the lists

<expert> is depth, normal, edge, seg_coco, seg_ade, obj_detection or ocr_detection, told by what a column holds. Names are in
places.py, pictures in maps.py. An image without a size, whose photo no expert could read, is left out.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from expert_zoo.card import ExpertCard
from expert_zoo.classes import class_names
from expert_zoo.labels import Picture
from jobs.prismer_tree import maps
from jobs.prismer_tree.image import Found, Made, files_of
from jobs.prismer_tree.places import KNOWN, WEB, Place, list_items, list_of, place_of
from jobs.prismer_tree.vectors import Vectors
from manifests.record import ImageRecord
from pipeline.codec import DENSE
from pipeline.decode import Limits, decode, identify, orientation_of
from pipeline.errors import StoreError
from pipeline.exports.files import Files
from pipeline.exports.layout import Entry, Layout, Piece, Taken, joined_lines

#: A column's quantity -> the expert that it stands for. Classes are told apart by their names.
EXPERTS = {
    "depth": "depth",
    "inverse_depth": "depth",
    "normal": "normal",
    "edge": "edge",
    "objects": "obj_detection",
    "words": "ocr_detection",
    "photo": "photo",
}
_SEGMENTATION = {"coco_panoptic": "seg_coco", "ade20k": "seg_ade"}
_FEATURES = {"seg_coco": "coco", "seg_ade": "ade", "obj_detection": "detection"}
_LISTS = ("coco_karpathy_train", "coco_karpathy_val", "coco_karpathy_test", "vg_caption", "nocaps_val")
_JPEG_QUALITY = 95
#: Each holds maps of a photo's size, and behind them waits one disk.
MOST_THREADS = 16


class PrismerTree(Layout):
    """Files for the released code.

    vectors: of words and classes. Without them there is no room for words and objects, nor for classes that are not those of the
        released tables.
    datasets: source -> data set of the released code, where our own table does not say or says otherwise.

    Raises ValueError for a data set that the released code does not know.
    """

    name = "prismer"

    def __init__(
        self, *, photos: bool = False, vectors: Vectors | None = None, datasets: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(photos=photos)
        self._vectors = vectors
        self._datasets = dict(datasets or {})
        for source, dataset in self._datasets.items():
            if dataset not in KNOWN:
                raise ValueError(
                    f"{source} as {dataset}: the released code knows {', '.join(sorted(KNOWN))} (cc3m_sgu is spelt like that)"
                )

    def settings(self) -> dict[str, Any]:
        vectors = self._vectors.url if self._vectors else None
        return {"photos": self.photos, "datasets": self._datasets, "embeddings": vectors}

    def take(self, cards: Mapping[str, ExpertCard]) -> Taken:
        """One column for each expert. Raises StoreError where two would be the same one, and where vectors are missing."""
        taken: dict[str, ExpertCard] = {}
        left: dict[str, str] = {}
        of_expert: dict[str, str] = {}
        for name, card in cards.items():
            expert = self._expert(card)
            if expert is None:
                left[name] = f"the released code knows no {card.spec.quantity}"
            elif expert == "photo" and not self.photos:
                left[name] = "photos are left where they are; they are exported only if asked for (--photos)"
            elif self._vectors is None and self._needs_vectors(card):
                left[name] = "its names need vectors; name a folder that `expert-labels embed` made (--embeddings)"
            elif expert in of_expert:
                raise StoreError(
                    f"{of_expert[expert]} and {name} would both be {expert}; name the columns to export (--column)"
                )
            else:
                of_expert[expert] = name
                taken[name] = card
        if self._vectors is not None:
            self._vectors.check(taken.values())
        return Taken(taken, left)

    def _expert(self, card: ExpertCard) -> str | None:
        if card.spec.quantity != "class":
            return EXPERTS.get(card.spec.quantity)
        if len(card.spec.class_names) > maps.MOST:
            return None
        known = [expert for table, expert in _SEGMENTATION.items() if card.spec.class_names == class_names(table)]
        return known[0] if known else "seg_coco"

    def _needs_vectors(self, card: ExpertCard) -> bool:
        names = card.spec.class_names
        known = any(names == class_names(table) for table in _SEGMENTATION)
        return card.spec.kind in ("instances", "words") or (card.spec.kind == "classes" and not known)

    def check(self, records: Iterable[ImageRecord]) -> None:
        """Each image has a place of its own, and its photo is a file or will be. Keeps eight bytes an image."""
        digests = []
        for record in records:
            # The shard's number only matters where the image's id is in the name, which is unique by itself.
            place = place_of(record, 0, self._datasets)
            if not place.loose and not self.photos:
                raise StoreError(
                    f"the photo of {record.image_id} is no file that the released code could find under its own name ({record.uri}); "
                    "export the photos too (--photos)"
                )
            digests.append(hashlib.blake2b(place.label("", "").encode(), digest_size=8).digest())
        found = np.frombuffer(b"".join(digests), np.uint64)
        if len(np.unique(found)) != len(found):
            raise StoreError(
                f"{len(found) - len(np.unique(found))} images would have the labels of others: their photos have the same folder and "
                "name, in one data set of the released code; give sources data sets of their own (--dataset), or export them by "
                "themselves"
            )

    def write(self, piece: Piece, files: Files) -> None:
        lists: dict[str, list[bytes]] = {}
        threads = min(os.cpu_count() or 1, MOST_THREADS)
        with ThreadPoolExecutor(threads) as pool:
            in_work: deque[Future[Made]] = deque()
            try:
                for entry in piece.entries():
                    place = place_of(entry.record, piece.shard.index, self._datasets)
                    size = self._write_photo(entry, place, files)
                    if size is None:
                        self._remove(place, piece, files)
                        continue
                    if (where := list_of(entry.record, place.dataset)) is not None:
                        lists.setdefault(where, []).extend(_lines(list_items(entry.record, place)))
                    labels = self._labels(piece, entry)
                    in_work.append(pool.submit(files_of, labels, place, size, self._vectors))
                    if len(in_work) > 2 * threads:
                        _put(in_work.popleft().result(), files)
                while in_work:
                    _put(in_work.popleft().result(), files)
            finally:
                pool.shutdown(cancel_futures=True)
        for record in piece.gone:
            self._remove(place_of(record, piece.shard.index, self._datasets), piece, files)
        _put({_part(piece.shard.index, w): b"".join(lists[w]) if w in lists else None for w in _LISTS}, files)

    def finish(self, cards: Mapping[str, ExpertCard], shards: list[int], files: Files) -> None:
        there = set(files.storage.names("parts"))
        for where in _LISTS:
            parts = [part for index in shards if (part := _part(index, where)).removeprefix("parts/") in there]
            if parts:
                with files.create(f"data/{where}.json") as target:
                    target.write(b"[\n")
                    for line in joined_lines(files.storage, parts):
                        target.write(line)
                    target.write(b"]\n")
        if self._vectors is not None:
            classes = {_FEATURES[e]: card for card in cards.values() if (e := self._expert(card)) in _FEATURES}
            for name, data in sorted(self._vectors.feature_files(classes).items()):
                files.put(f"features/{name}", data)

    # ---- one image

    def _write_photo(self, entry: Entry, place: Place, files: Files) -> maps.Size | None:
        """The size that the image's labels must have: that of the photo beside them. None where there is none."""
        if not self.photos:
            return (entry.height, entry.width) if entry.height is not None and entry.width is not None else None
        if entry.photo is None:
            return None
        data, size = _upright(entry.photo)
        files.put(place.photo, data)
        if place.dataset in WEB:
            # The first line is the caption that is trained on.
            files.put(place.beside(".txt"), "\n".join(entry.record.captions).encode())
        return size

    def _remove(self, place: Place, piece: Piece, files: Files) -> None:
        """What an earlier export may have written of an image that is not to be seen any more: web photos are found, not listed."""
        experts = {expert for card in piece.cards.values() if (expert := self._expert(card)) and expert != "photo"}
        endings = (".png", ".json", ".pt")
        names = [place.label(expert, ending) for expert in sorted(experts) for ending in endings]
        for name in (place.photo, place.beside(".txt"), *names) if self.photos else names:
            files.absent(name)

    def _labels(self, piece: Piece, entry: Entry) -> dict[str, Found]:
        """What the image's labels are made of, by expert: all that must be read of the store."""
        found = {}
        for name, card in piece.cards.items():
            expert = self._expert(card)
            row = entry.rows.get(name)
            if expert is not None and expert != "photo":
                there = row if row is not None and row["status"] == "ok" else None
                dense = there is not None and card.spec.kind in DENSE
                found[expert] = Found(card.spec, there, piece.member(name, there) if dense and there else None)
        return found


def _put(made: Made, files: Files) -> None:
    for name, data in made.items():
        if data is None:
            files.absent(name)
        else:
            files.put(name, data)


def _upright(photo: Picture) -> tuple[bytes, maps.Size]:
    """Its bytes and (height, width) as the released code will see them: it does not know EXIF orientations."""
    image = identify(photo.data)
    if orientation_of(image) in (0, 1):
        return photo.data, (image.height, image.width)
    pixels_HW3 = decode(photo.data, Limits())[0]
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW3).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue(), (pixels_HW3.shape[0], pixels_HW3.shape[1])


def _lines(items: list[dict[str, object]]) -> list[bytes]:
    return [json.dumps(item, ensure_ascii=False).encode() + b"\n" for item in items]


def _part(shard: int, where: str) -> str:
    return f"parts/{shard:06d}.{where}.jsonl"
