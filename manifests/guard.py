"""Guards: lists of pictures that must not be in a training manifest, because models are measured on them.

The section `guard:` of a job file is a list of these. A record is kept out when one of its keys is in a guard's, or when it
is one picture with such a record.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from manifests.json_parts import parts
from manifests.location import open_binary
from manifests.names import name_numbers
from manifests.record import flickr_key, url_key

_STRICT = ConfigDict(frozen=True, extra="forbid")
#: "val2014/COCO_val2014_000000253964.jpg 253964", or the path or the id alone.
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?0*(\d{1,12})\.(?:jpg|jpeg|png)$", re.IGNORECASE)


class _OfCoco(BaseModel, ABC):
    """``file``: names pictures of COCO by their ids. ``addresses``: captions or instances files of COCO, which say where at
    Flickr these pictures are: by that a copy in a list of the web is known."""

    model_config = _STRICT

    file: str = Field(min_length=1)
    addresses: tuple[str, ...] = ()

    @abstractmethod
    def named(self) -> Iterator[str]:
        """A key for each picture that ``file`` names."""

    def keys(self) -> Iterator[str]:
        named = set(self.named())
        yield from named
        for file in self.addresses:
            for _, image in _objects(file, "images", "a captions or instances file of COCO"):
                if f"coco:{image.get('id')}" in named:
                    yield from _addresses(image)


class KarpathyGuard(_OfCoco):
    """Pictures of Karpathy's dataset_coco.json that are in one of ``splits``."""

    guard: Literal["karpathy"] = "karpathy"
    splits: tuple[Literal["train", "restval", "val", "test"], ...] = Field(("val", "test"), min_length=1)

    @property
    def name(self) -> str:
        return f"karpathy {'+'.join(self.splits)}"

    def named(self) -> Iterator[str]:
        for place, image in _objects(self.file, "images", "Karpathy's dataset_coco.json"):
            if image.get("split") in self.splits:
                yield f"coco:{_number(image.get('cocoid'), self.file, place, 'cocoid')}"


class CocoGuard(BaseModel):
    """All pictures of a COCO file with a list ``images``: captions, instances, image_info_test2015.json."""

    model_config = _STRICT

    guard: Literal["coco"] = "coco"
    file: str = Field(min_length=1)

    @property
    def name(self) -> str:
        return f"coco {_file_name(self.file)}"

    def keys(self) -> Iterator[str]:
        for place, image in _objects(self.file, "images", "a COCO file"):
            yield f"coco:{_number(image.get('id'), self.file, place, 'id')}"
            yield from _addresses(image)


class NocapsGuard(BaseModel):
    """All pictures of NoCaps, by their addresses and their numbers in Open Images: nocaps_val_4500_captions.json."""

    model_config = _STRICT

    guard: Literal["nocaps"] = "nocaps"
    file: str = Field(min_length=1)

    @property
    def name(self) -> str:
        return f"nocaps {_file_name(self.file)}"

    def keys(self) -> Iterator[str]:
        for place, image in _objects(self.file, "images", "a file of NoCaps"):
            number = image.get("open_images_id")
            if isinstance(number, str) and number:
                yield f"openimages:{number}"
            elif not any(True for _ in _addresses(image)):
                raise ValueError(f"{self.file}: {place} has no open_images_id and no coco_url or flickr_url")
            yield from _addresses(image)


class VqaGuard(_OfCoco):
    """All pictures that a file of VQAv2 asks about: v2_OpenEnded_mscoco_test2015_questions.json."""

    guard: Literal["vqa"] = "vqa"

    @property
    def name(self) -> str:
        return f"vqa {_file_name(self.file)}"

    def named(self) -> Iterator[str]:
        for place, question in _objects(self.file, "questions", "a file of VQAv2 questions"):
            yield f"coco:{_number(question.get('image_id'), self.file, place, 'image_id')}"


class ListGuard(_OfCoco):
    """Pictures of a text file, one on each line: a COCO file name (path), a COCO id, both, or a key such as flickr:627."""

    guard: Literal["list"] = "list"

    @property
    def name(self) -> str:
        return f"list {_file_name(self.file)}"

    def named(self) -> Iterator[str]:
        with open_binary(self.file) as stream:
            for number, line in enumerate(stream, 1):
                text = line.decode("utf-8", "replace").strip()
                if not text or text.startswith("#"):
                    continue
                last = text.split()[-1]
                named = _COCO_NAME.search(last)
                if last.isascii() and last.isdigit():
                    yield f"coco:{int(last)}"
                elif named and "://" not in last:
                    yield f"coco:{int(named[1])}"
                elif re.match(r"https?://", last):
                    yield from _of_address(last)
                elif re.fullmatch(r"[a-z0-9]+:\S+", last):
                    yield last
                else:
                    raise ValueError(
                        f"{self.file}, line {number}: {text[:80]!r}; expected a COCO file name, a COCO id, an address or a key "
                        "(coco:391895, flickr:6273011878, sha256:...)"
                    )


AnyGuard = Annotated[KarpathyGuard | CocoGuard | NocapsGuard | VqaGuard | ListGuard, Field(discriminator="guard")]


def guarded(guard: AnyGuard) -> np.ndarray:
    """The keys of a guard as sorted uint64 (`manifests.names.name_numbers`), each once.

    Raises ValueError where its file is missing or is something else, and where it names no picture, which guards nothing.
    """
    numbers = np.unique(name_numbers(pa.array(list(guard.keys()), pa.string())))
    if not len(numbers):
        raise ValueError(f"guard {guard.name}: no picture in {guard.file}; it would guard nothing")
    return numbers


def _objects(file: str, key: str, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in the list ``key`` of a JSON file, each with its place."""
    found = False
    for part in parts(file, expected=what):
        if part.key != key or part.first < 0:
            continue
        found = True
        for position, item in enumerate(part.values, part.first):
            if not isinstance(item, dict):
                raise ValueError(f"{file}: {key}[{position}] is no object; expected {what}")
            yield f"{key}[{position}]", item
    if not found:
        raise ValueError(f"{file}: no list {key!r}; expected {what}")


def _number(value: object, file: str, place: str, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{file}: {place} has {key} {value!r}; expected the number of a COCO image")
    return value


def _addresses(image: dict[str, Any]) -> Iterator[str]:
    for key in ("coco_url", "flickr_url"):
        url = image.get(key)
        if isinstance(url, str) and url:
            yield from _of_address(url)


def _of_address(url: str) -> Iterator[str]:
    yield url_key(url)
    flickr = flickr_key(url)
    if flickr:
        yield flickr


def _file_name(file: str) -> str:
    return file.rstrip("/").rpartition("/")[2]
