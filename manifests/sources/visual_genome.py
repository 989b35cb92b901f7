"""VisualGenome: pictures with phrases for regions of them, of which some become captions."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from manifests.json_parts import parts
from manifests.record import ImageRecord, Rejection, batched
from manifests.sources.caption_text import caption_of
from manifests.sources.coco import coco_key
from manifests.sources.coco_layout import dicts, is_id, size_of
from manifests.sources.image_root import MISSING, OUTSIDE, ImageRoot
from manifests.sources.tree import Found, open_tree, walk

NO_ID = "entry without an image id"
NO_PHRASE = "region without a phrase"
NOT_LISTED = "regions of an image that is not in image_data"
TWICE = "image listed twice"
NO_ENTRY = "picture without an entry in image_data"

_IMAGE_DATA = "Visual Genome's image_data.json, a list of objects with image_id and url"
_REGIONS = "Visual Genome's region_descriptions.json, a list of objects with id and regions"
_SPLITS = "densecap_splits.json, an object of the lists train, val and test"


class VisualGenome(BaseModel):
    """Visual Genome's pictures below ``images`` (local folder or fsspec URL), in VG_100K and VG_100K_2 as published.

    image_data   image_data.json: which pictures there are, their sizes, their numbers at COCO and Flickr
    regions      region_descriptions.json: phrases; without it there are no captions
    phrases      which of a picture's phrases become captions: "largest": those of the largest regions, which are about
                 the most of the picture; "first": in the file's order; "all". A phrase that differs only in letter case
                 from one that was taken counts once
    most_phrases of a picture, but for "all". 8 is about what the usual lists of captions for pre-training keep (769
                 thousand phrases of 100 thousand pictures)
    splits       densecap_splits.json: what records say for ``split``; pictures in none of its lists say ``split``
    flat         all pictures lie in one folder, as BLIP's lists have it, and not in the two
    check_files  look for every image file now; files without an entry are then counted, too

    Records have the id ``vg_<id>`` and the keys ``vg:<id>``, ``coco:<id>``, ``flickr:<number>``, as far as known: half of
    the pictures are COCO's, those of its test among them. Memory: ids, sizes and keys; regions pass picture by picture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["visual_genome"] = "visual_genome"
    images: str = Field(min_length=1)
    image_data: str = Field(min_length=1)
    regions: str | None = Field(None, min_length=1)
    phrases: Literal["largest", "first", "all"] = "largest"
    most_phrases: int = Field(8, gt=0)
    splits: str | None = Field(None, min_length=1)
    flat: bool = False
    check_files: bool = False
    name: str = Field(default="visual_genome", min_length=1)
    split: str = ""
    license: str = ""

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """One record per picture of image_data: those with regions in the order of that file, then those without.

        Rejections: entries, phrases and files that cannot be used. Raises ValueError where a file is missing or broken (it
        names line and column), and where ``images`` is a local path and no folder.
        """
        return batched(self._records())

    def _records(self) -> Iterator[ImageRecord | Rejection]:
        root = ImageRoot(self.images, holds="VG_100K and VG_100K_2")
        splits = _splits(self.splits) if self.splits else {}
        pictures: dict[int, _Picture] = {}
        paths: set[str] = set()
        for found in self._pictures():
            if isinstance(found, Rejection):
                yield found
            elif found.number in pictures:
                yield Rejection(self.name, f"{found.where}: id {found.number}", TWICE)
            else:
                pictures[found.number] = found
                if self.check_files:
                    paths.add(found.path)
        described: set[int] = set()
        if self.regions:
            for part in parts(self.regions, needed=("",), expected=_REGIONS):
                for at, entry in enumerate(part.values, part.first):
                    where = f"{self.regions}, [{at}]"
                    number = entry_id(entry, "regions")
                    if number is None:
                        yield Rejection(self.name, where, NO_ID)
                    elif number not in pictures:
                        yield Rejection(self.name, f"{where}: id {number}", NOT_LISTED)
                    elif number in described:
                        yield Rejection(self.name, f"{where}: id {number}", TWICE)
                    else:
                        described.add(number)
                        captions = yield from self._captions(where, entry.get("regions"))
                        yield self._record(root, pictures[number], captions, splits)
        for number, picture in pictures.items():
            if number not in described:
                yield self._record(root, picture, (), splits)
        if self.check_files:
            for file in walk(open_tree(self.images)):
                if isinstance(file, Found) and file.path not in paths:
                    yield Rejection(self.name, f"{self.images}/{file.path}", NO_ENTRY)

    def _pictures(self) -> Iterator[_Picture | Rejection]:
        for part in parts(self.image_data, needed=("",), expected=_IMAGE_DATA):
            for at, entry in enumerate(part.values, part.first):
                where = f"{self.image_data}, [{at}]"
                number, url = entry_id(entry, ""), entry.get("url") if isinstance(entry, dict) else None
                if number is None or not isinstance(url, str):
                    yield Rejection(self.name, where, NO_ID)
                    continue
                folder, _, name = url.rstrip("/").rpartition("/")
                path = name if self.flat else f"{folder.rpartition('/')[2]}/{name}"
                yield _Picture(
                    where, number, path, size_of(entry.get("width")), size_of(entry.get("height")), _keys(entry)
                )

    def _captions(self, where: str, regions: object) -> Generator[Rejection, None, tuple[str, ...]]:
        found: list[tuple[int, int, str]] = []
        for at, region in dicts(regions):
            phrase = region.get("phrase")
            caption, refused = caption_of(phrase) if isinstance(phrase, str) else ("", NO_PHRASE)
            if refused:
                yield Rejection(self.name, f"{where}, regions[{at}]", refused)
            else:
                size = (size_of(region.get("width")) or 0) * (size_of(region.get("height")) or 0)
                found.append((-size if self.phrases == "largest" else 0, at, caption))
        captions: dict[str, str] = {}
        for _, _, caption in sorted(found):
            captions.setdefault(caption.casefold(), caption)
        return tuple(captions.values())[: None if self.phrases == "all" else self.most_phrases]

    def _record(
        self, root: ImageRoot, picture: _Picture, captions: tuple[str, ...], splits: dict[int, str]
    ) -> ImageRecord | Rejection:
        uri = root.uri(picture.path)
        if uri is None:
            return Rejection(self.name, f"{picture.where}: {picture.path!r}", OUTSIDE)
        if self.check_files and not root.has(picture.path):
            return Rejection(self.name, f"{picture.where}: {uri}", MISSING)
        return ImageRecord(
            image_id=vg_id(picture.number),
            source=self.name,
            uri=uri,
            width=picture.width,
            height=picture.height,
            captions=captions,
            split=splits.get(picture.number, self.split),
            license=self.license,
            keys=picture.keys,
        )


class _Picture(NamedTuple):
    where: str
    number: int
    path: str
    width: int | None
    height: int | None
    keys: tuple[str, ...]


def vg_id(number: int) -> str:
    """The image id of Visual Genome's picture of that number."""
    return f"vg_{number}"


def vg_key(number: int) -> str:
    """The key by which it is known where it became one record with COCO's picture."""
    return f"vg:{number}"


def entry_id(entry: object, inside: str) -> int | None:
    """The image that an entry of one of the files is about, in each of their spellings: ``image_id`` or ``id`` of the entry,
    else ``image_id`` or ``image`` of what stands in its list ``inside``."""
    if not isinstance(entry, dict):
        return None
    for key in ("image_id", "id"):
        if is_id(entry.get(key)):
            return int(entry[key])
    for _, item in dicts(entry.get(inside)):
        for key in ("image_id", "image"):
            if is_id(item.get(key)):
                return int(item[key])
    return None


def picture_keys(image_data: str) -> dict[int, tuple[str, ...]]:
    """The keys of all pictures of an image_data.json. Raises ValueError where it is missing, broken or another file."""
    entries = (entry for part in parts(image_data, needed=("",), expected=_IMAGE_DATA) for entry in part.values)
    return {number: _keys(entry) for entry in entries if (number := entry_id(entry, "")) is not None}


def _keys(entry: dict[str, Any]) -> tuple[str, ...]:
    number = entry_id(entry, "")
    assert number is not None
    keys = [vg_key(number)]
    if is_id(entry.get("coco_id")):
        keys.append(coco_key(entry["coco_id"]))
    if is_id(entry.get("flickr_id")):
        keys.append(f"flickr:{entry['flickr_id']}")
    return tuple(keys)


def _splits(where: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for part in parts(where, needed=("train", "val", "test"), expected=_SPLITS):
        found.update((number, part.key) for number in part.values if is_id(number))
    return found
