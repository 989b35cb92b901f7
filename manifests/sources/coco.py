"""Coco: COCO 2014 and 2017 from the captions and instances JSON, or from Karpathy's split."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from manifests.json_parts import parts
from manifests.record import ImageRecord, Rejection, batched, flickr_key
from manifests.sources.caption_text import caption_of
from manifests.sources.coco_layout import NO_ID, TWICE, Layout, dicts, is_id, read_layout, size_of
from manifests.sources.image_root import MISSING, OUTSIDE, ImageRoot
from manifests.sources.tree import Found, open_tree, walk

Split = Literal["train", "restval", "val", "test"]

_LISTS = "a COCO captions or instances file"
_KARPATHY = "Karpathy's dataset_coco.json"
#: 000000391895.jpg of 2017, COCO_val2014_000000391895.jpg of 2014 and its like.
_NUMBERED = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})\.[A-Za-z]+")


class Coco(BaseModel):
    """COCO images below ``images`` (local folder or fsspec URL), as one of these lists them:

    captions     captions_train2017.json and its like: the images of that file, with captions by annotation id
    instances    instances_train2017.json, image_info_test2015.json and their like: their images too, and sizes where the
                 captions file has none
    karpathy     dataset_coco.json: the images of the ``splits`` asked for, their path being filepath/filename

    file_names   "as listed": the list's names, relative to ``images``; "by number": whatever file below ``images`` has the
                 image's number in its name, so that the lists of one year find the pictures of the other. Where both
                 years lie there, the first in the alphabet of paths
    split        what the records of captions and instances say; those of Karpathy's file say what the file does
    check_files  look for every image file now; without it a missing one is found when it is labelled

    Records have the keys ``coco:<id>`` and, where the file has the picture's address at Flickr, ``flickr:<number>``.
    Memory: ids, names, sizes and captions of all images; boxes, polygons and tokens are dropped while reading.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["coco"] = "coco"
    images: str = Field(min_length=1)
    captions: str | None = None
    instances: str | None = None
    karpathy: str | None = None
    splits: tuple[Split, ...] = ()
    file_names: Literal["as listed", "by number"] = "as listed"
    check_files: bool = False
    name: str = Field(default="coco", min_length=1)
    split: str = ""

    @model_validator(mode="after")
    def _is_whole(self) -> Coco:
        if self.karpathy and (self.captions or self.instances or self.split):
            raise ValueError(
                "karpathy lists images, captions and splits itself; give it without captions, instances, split"
            )
        if not (self.karpathy or self.captions or self.instances):
            raise ValueError("no list of images; expected captions and/or instances, or karpathy")
        if bool(self.karpathy) != bool(self.splits):
            raise ValueError(
                "karpathy and splits belong together; expected for training `splits: [train, restval]`, of train, restval, "
                "val, test"
            )
        return self

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """One record per listed image in the files' order; rejections: listed things that cannot be used.

        Raises ValueError where a file is missing or is not what it should be (naming line and column of broken JSON),
        and where ``images`` is a local path and no folder.
        """
        return batched(self._records())

    def _records(self) -> Iterator[ImageRecord | Rejection]:
        root = ImageRoot(self.images, holds="the COCO images")
        numbered = _numbered(self.images) if self.file_names == "by number" else None
        for found in self._from_karpathy(self.karpathy) if self.karpathy else self._from_lists():
            if isinstance(found, Rejection):
                yield found
                continue
            path = found.path if numbered is None else numbered.get(found.coco_id)
            record_uri = None if path is None else root.uri(path)
            if path is None:
                yield Rejection(
                    self.name, f"{found.where}: no file of number {found.coco_id} below {self.images}", MISSING
                )
            elif record_uri is None:
                yield Rejection(self.name, f"{found.where}: {path!r}", OUTSIDE)
            elif self.check_files and numbered is None and not root.has(path):
                yield Rejection(self.name, f"{found.where}: {record_uri}", MISSING)
            else:
                yield ImageRecord(
                    image_id=coco_id(found.coco_id),
                    source=self.name,
                    uri=record_uri,
                    width=found.width,
                    height=found.height,
                    captions=found.captions,
                    split=found.split,
                    license=found.license,
                    keys=(coco_key(found.coco_id), *found.keys),
                )

    def _from_lists(self) -> Iterator[_Listed | Rejection]:
        listed: dict[int, _Listed] = {}
        if self.captions:
            layout = read_layout(self.captions, source=self.name, expected=_LISTS)
            yield from layout.rejections
            listed = {number: self._listed(layout, number, image) for number, image in layout.images.items()}
        if self.instances:
            layout = read_layout(self.instances, source=self.name, expected=_LISTS, needed=("images",), captions=False)
            yield from layout.rejections
            for number, image in layout.images.items():
                before, found = listed.get(number), self._listed(layout, number, image)
                if before is None:
                    listed[number] = found
                elif before.width is None or before.height is None:
                    listed[number] = before._replace(width=found.width, height=found.height)
        yield from listed.values()

    def _listed(self, layout: Layout, number: int, image: dict[str, Any]) -> _Listed:
        flickr = flickr_key(image["flickr_url"]) if isinstance(image.get("flickr_url"), str) else None
        return _Listed(
            where=f"{layout.where}, images[{image['at']}]",
            coco_id=number,
            path=image["file_name"],
            width=size_of(image.get("width")),
            height=size_of(image.get("height")),
            license=layout.licence_of(image),
            split=self.split,
            captions=layout.captions_of(number),
            keys=(flickr,) if flickr else (),
        )

    def _from_karpathy(self, where: str) -> Iterator[_Listed | Rejection]:
        seen: set[int] = set()
        for part in parts(where, needed=("images",), expected=_KARPATHY):
            if part.key != "images" or part.first < 0:
                continue
            for at, image in enumerate(part.values, part.first):
                place = f"{where}, images[{at}]"
                if not isinstance(image, dict):
                    yield Rejection(self.name, place, NO_ID)
                elif image.get("split") in self.splits:
                    number, folder, name = (image.get(key) for key in ("cocoid", "filepath", "filename"))
                    if not is_id(number) or not isinstance(folder, str) or not isinstance(name, str):
                        yield Rejection(self.name, place, NO_ID)
                    elif number in seen:
                        yield Rejection(self.name, f"{place}: id {number}", TWICE)
                    else:
                        seen.add(number)
                        captions = yield from self._sentences(place, image.get("sentences"))
                        path = f"{folder}/{name}"
                        yield _Listed(where=place, coco_id=number, path=path, split=image["split"], captions=captions)

    def _sentences(self, place: str, sentences: object) -> Generator[Rejection, None, tuple[str, ...]]:
        captions = []
        for at, sentence in dicts(sentences):
            if isinstance(sentence.get("raw"), str):
                caption, refused = caption_of(sentence["raw"])
                if refused:
                    yield Rejection(self.name, f"{place}, sentences[{at}]", refused)
                else:
                    captions.append(caption)
        return tuple(captions)


class _Listed(NamedTuple):
    """One image of a list; ``where``: file and position, for messages."""

    where: str
    coco_id: int
    path: str
    width: int | None = None
    height: int | None = None
    license: str = ""
    split: str = ""
    captions: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


def coco_id(number: int) -> str:
    """The image id of COCO's image of that number."""
    return f"coco_{number:012d}"


def coco_key(number: int) -> str:
    """The key by which other datasets name COCO's image of that number."""
    return f"coco:{number}"


def coco_number(path: str) -> int | None:
    """The number in the name of one of COCO's picture files, of either year; None where it is none."""
    match = _NUMBERED.fullmatch(path.rpartition("/")[2])
    return int(match[1]) if match else None


def _numbered(images: str) -> dict[int, str]:
    """Path below the folder by number, of the first file of each number."""
    found: dict[int, str] = {}
    for file in walk(open_tree(images)):
        number = coco_number(file.path) if isinstance(file, Found) else None
        if number is not None:
            found.setdefault(number, file.path)
    return found
