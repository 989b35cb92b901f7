"""Nocaps: pictures of Open Images with captions of objects that COCO's captions do not name; for evaluation only.

Source of the files' form: nocaps.org/download (v0.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from manifests.record import ImageRecord, Rejection, batched, fold, path_id, url_key
from manifests.sources.coco_layout import read_layout, size_of
from manifests.sources.image_root import MISSING, OUTSIDE, ImageRoot

_EXPECTED = "nocaps_val_4500_captions.json or nocaps_val_image_info.json"


class Nocaps(BaseModel):
    """NoCaps images below ``images`` (local folder or fsspec URL), by their ``file_name``.

    path         nocaps_val_4500_captions.json, or an image info file, whose records have no captions
    split        of all records; the file does not say it
    check_files  look for every image file now

    The file's own numbers begin at 0 in every split and are COCO's numbers of other pictures, so that ids and keys
    are made of the number at Open Images: ``nocaps_<number>``, ``openimages:<number>``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["nocaps"] = "nocaps"
    path: str = Field(min_length=1)
    images: str = Field(min_length=1)
    check_files: bool = False
    name: str = Field(default="nocaps", min_length=1)
    split: str = "val"

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """One record per listed image; rejections and errors as `Coco.batches`."""
        return batched(self._records())

    def _records(self) -> Iterator[ImageRecord | Rejection]:
        root = ImageRoot(self.images, holds="the NoCaps images")
        layout = read_layout(self.path, source=self.name, expected=_EXPECTED, needed=("images",))
        yield from layout.rejections
        for number, image in layout.images.items():
            uri = root.uri(image["file_name"])
            where = f"{self.path}, images[{image['at']}]"
            if uri is None:
                yield Rejection(self.name, f"{where}: {image['file_name']!r}", OUTSIDE)
            elif self.check_files and not root.has(image["file_name"]):
                yield Rejection(self.name, f"{where}: {uri}", MISSING)
            else:
                url = image.get("coco_url")
                yield ImageRecord(
                    image_id=nocaps_id(image),
                    source=self.name,
                    uri=uri,
                    width=size_of(image.get("width")),
                    height=size_of(image.get("height")),
                    captions=layout.captions_of(number),
                    split=self.split,
                    license=layout.licence_of(image),
                    keys=(open_images_key(image), *([url_key(fold(url))] if isinstance(url, str) else [])),
                )


def open_images_key(image: dict[str, Any]) -> str:
    """The key of one of the file's images."""
    return f"openimages:{_number(image)}"


def nocaps_id(image: dict[str, Any]) -> str:
    """The image id of one of the file's images."""
    number = _number(image)
    return f"nocaps_{number if re.fullmatch('[A-Za-z0-9]{1,64}', number) else path_id(number)}"


def _number(image: dict[str, Any]) -> str:
    """Its number at Open Images, which is also the name of its file."""
    given = image.get("open_images_id")
    return fold(given if isinstance(given, str) and given else image["file_name"].rpartition("/")[2].partition(".")[0])
