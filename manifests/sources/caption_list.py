"""CaptionList: the JSON lists that BLIP, LAVIS and Prismer publish, a caption or an image an entry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from manifests.json_parts import Part, parts
from manifests.record import ImageRecord, Rejection, path_id, to_batch
from manifests.sources.caption_text import caption_of
from manifests.sources.coco import coco_id, coco_key
from manifests.sources.image_root import MISSING, OUTSIDE, ImageRoot
from manifests.sources.lines import naming, string_array
from manifests.sources.visual_genome import picture_keys, vg_id, vg_key
from manifests.sources.web import Pairs, WebImages, web_batches

NO_PLACE = "entry without `image` or `url`"
ABSOLUTE = "absolute path; say by `path_parts` how many of its last parts lie below `images`"
NO_ROOT = "entry with a path, and no `images` to look below"

_EXPECTED = "a JSON list of objects with `image` or `url`, and `caption`"
_COCO_ID, _VG_ID = re.compile(r"coco_(\d{1,12})"), re.compile(r"vg_(\d{1,18})")
_COCO_PATH = re.compile(r"(?:^|/)(?:COCO_[a-z]+\d{4}_|(?:train|val|test)20\d\d/)(\d{12})\.[A-Za-z]+$")
_VG_PATH = re.compile(r"(?:^|/)(?:VG_100K(?:_2)?|visual-genome(?:/.*)?)/(\d{1,18})\.[A-Za-z]+$")


class CaptionList(BaseModel):
    """A JSON list of objects with ``image`` (a path) or ``url``, and ``caption`` (a text or a list of them):
    coco_karpathy_train.json, vg_caption.json, nocaps_val.json, ccs_filtered.json, filtered_cc12m.json and their like.

    images       folder or URL that paths are relative to; entries that have both path and URL are then files
    path_parts   keep so many of the last parts of every path: absolute paths of another machine come below ``images``.
                 2 makes /export/share/.../visual-genome/image/1.jpg to image/1.jpg
    image_data   Visual Genome's image_data.json, which says which of its pictures are COCO's; a list does not, and without it
                 no guard knows those of COCO's test set
    fetch        photos of URLs are downloaded when they are labelled; without it such entries are rejections
    check_files  look for every image file now
    split, license  of all records

    COCO's and Visual Genome's pictures are known by ``image_id`` (coco_522418, vg_1) or by their path, and get the ids
    and keys of these datasets. An image that has several entries is one image in the manifest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["caption_list"] = "caption_list"
    path: str = Field(min_length=1)
    images: str | None = Field(None, min_length=1)
    path_parts: int | None = Field(None, gt=0)
    image_data: str | None = Field(None, min_length=1)
    fetch: bool = False
    check_files: bool = False
    name: str = Field(default="caption_list", min_length=1)
    split: str = ""
    license: str = ""

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """One record per entry in the file's order; rejections: entries that cannot be used, each caption that is none.

        Raises ValueError where the file is missing or broken (it names line and column), where it is another kind of file,
        and where ``images`` is a local path and no folder.
        """
        root = ImageRoot(self.images, holds="the list's images") if self.images else None
        known = picture_keys(self.image_data) if self.image_data else {}
        about = WebImages(
            name=self.name,
            prefix="web",
            fetch=self.fetch,
            order="`url` and `caption`, in each entry what its name says",
            where=self.path,
            split=self.split,
            license=self.license,
        )
        for part in parts(self.path, needed=("",), expected=_EXPECTED):
            if not part.first:
                self._check(part)
            records: list[ImageRecord] = []
            web: list[tuple[int, str, str]] = []
            for at, entry in enumerate(part.values, part.first):
                place, url, texts, number = _read(entry)
                if url is not None and (root is None or place is None):
                    web += [(at, url, text) for text in texts or [""]]
                    continue
                for found in self._records(f"{self.path}, [{at}]", place, texts, number, root, known):
                    if isinstance(found, Rejection):
                        yield found
                    else:
                        records.append(found)
            if records:
                yield to_batch(records)
            if web:
                yield from web_batches([self._pairs(web)], about)

    def _check(self, part: Part) -> None:
        entries = [entry for entry in part.values if isinstance(entry, dict)]
        if part.values and not any({"image", "url"} & entry.keys() for entry in entries):
            keys = ", ".join(sorted(set(chain.from_iterable(entries)))[:10])
            found = f"objects with {keys}" if entries else f"a list of {type(part.values[0]).__name__}"
            raise ValueError(f"{self.path}: {found}; expected {_EXPECTED}")

    def _records(
        self,
        where: str,
        place: str | None,
        texts: list[str],
        number: str,
        root: ImageRoot | None,
        known: dict[int, tuple[str, ...]],
    ) -> Iterator[ImageRecord | Rejection]:
        """The record of an entry that has a path, and what of it is left out."""
        if place is None or root is None:
            yield Rejection(
                self.name, where if place is None else f"{where}: {place}", NO_PLACE if place is None else NO_ROOT
            )
            return
        path = place if self.path_parts is None else "/".join(place.split("/")[-self.path_parts :])
        uri = root.uri(path)
        if uri is None:
            yield Rejection(self.name, f"{where}: {place}", ABSOLUTE if path.startswith("/") else OUTSIDE)
            return
        if self.check_files and not root.has(path):
            yield Rejection(self.name, f"{where}: {uri}", MISSING)
            return
        captions = []
        for text in texts:
            caption, refused = caption_of(text)
            if refused:
                yield Rejection(self.name, f"{where}: {place}", refused)
            else:
                captions.append(caption)
        image_id, keys = self._named(number, place, path, known)
        yield ImageRecord(
            image_id=image_id,
            source=self.name,
            uri=uri,
            captions=tuple(captions),
            split=self.split,
            license=self.license,
            keys=keys,
        )

    def _named(
        self, number: str, place: str, path: str, known: dict[int, tuple[str, ...]]
    ) -> tuple[str, tuple[str, ...]]:
        """Image id and keys: of the dataset that the picture is from, where it is known."""
        coco, vg = _COCO_ID.fullmatch(number), _VG_ID.fullmatch(number)
        if not (coco or vg):
            coco, vg = _COCO_PATH.search(place), _VG_PATH.search(place)
        if coco:
            return coco_id(int(coco[1])), (coco_key(int(coco[1])),)
        if vg:
            return vg_id(int(vg[1])), known.get(int(vg[1]), (vg_key(int(vg[1])),))
        return path_id(path if self.name == "caption_list" else f"{self.name}/{path}"), ()

    def _pairs(self, web: list[tuple[int, str, str]]) -> Pairs:
        urls, captions = (string_array([row[column] for row in web]) for column in (1, 2))
        return Pairs(urls, captions, naming(f"{self.path}, [", [at for at, _, _ in web], "]"))


def _read(entry: Any) -> tuple[str | None, str | None, list[str], str]:
    """Path, URL, captions and image id that an entry gives."""
    if not isinstance(entry, dict):
        return None, None, [], ""
    place, url, caption, number = entry.get("image"), entry.get("url"), entry.get("caption"), entry.get("image_id")
    texts = [caption] if isinstance(caption, str) else caption if isinstance(caption, list) else []
    return (
        place if isinstance(place, str) else None,
        url if isinstance(url, str) else None,
        [text for text in texts if isinstance(text, str)],
        number if isinstance(number, str) else "",
    )
