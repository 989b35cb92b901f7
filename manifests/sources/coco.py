"""Coco: COCO 2014 and 2017 from the captions and instances JSON, or from Karpathy's split."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from manifests.location import encoded_uri, filesystem, local_path, open_binary
from manifests.record import ImageRecord, Rejection, batched, fold

Split = Literal["train", "restval", "val", "test"]

#: The keys used here, of any object of the files: all others are dropped while the file is parsed.
_KEPT = frozenset(
    {
        "images",
        "annotations",
        "licenses",
        "id",
        "image_id",
        "file_name",
        "width",
        "height",
        "license",
        "name",
        "caption",
    }
    | {"cocoid", "filepath", "filename", "split", "sentences", "raw"}
)


class Coco(BaseModel):
    """COCO images below ``images`` (local folder or fsspec URL), as one of these lists them:

    captions     captions_train2017.json and its like: the images of that file, with captions by annotation id
    instances    instances_train2017.json and its like: its images too, and sizes where the captions file has none
    karpathy     dataset_coco.json: the images of the ``splits`` asked for, their path being filepath/filename

    ``split`` is what the records of captions and instances say; those of Karpathy's file say what the file does.
    ``check_files``: look for every image file now; without it a missing one is found when it is labelled.

    Such a file is one JSON object, so memory does grow with it: twice the file's size while it is read, then ids, names,
    sizes and captions. Boxes, polygons, tokens and URLs are dropped while parsing. Records stream from there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["coco"] = "coco"
    images: str = Field(min_length=1)
    captions: str | None = None
    instances: str | None = None
    karpathy: str | None = None
    splits: tuple[Split, ...] = ()
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
        root = _ImageRoot(self.images)
        for found in self._from_karpathy(self.karpathy) if self.karpathy else self._from_coco():
            if isinstance(found, Rejection):
                yield found
                continue
            record_uri = root.uri(found.path)
            if record_uri is None:
                yield Rejection(self.name, f"{found.where}: {found.path!r}", "file name leads out of the image folder")
            elif self.check_files and not root.has(found.path):
                yield Rejection(self.name, f"{found.where}: {record_uri}", "image file is missing")
            else:
                yield ImageRecord(
                    image_id=f"coco_{found.coco_id:012d}",
                    source=self.name,
                    uri=record_uri,
                    width=found.width,
                    height=found.height,
                    captions=found.captions,
                    split=found.split,
                    license=found.license,
                    keys=(f"coco:{found.coco_id}",),
                )

    def _from_coco(self) -> Iterator[_Listed | Rejection]:
        listed: dict[int, _Listed] = {}
        captions: dict[int, list[tuple[int, str]]] = {}
        for where in filter(None, (self.captions, self.instances)):
            content = _parse(where, ("images", "annotations"), "a COCO captions or instances file")
            licences = _licences(content.get("licenses"))
            for position, image in enumerate(content["images"]):
                found = self._listed(where, position, image.get("id"), image.get("file_name"))
                if isinstance(found, Rejection):
                    yield found
                    continue
                found = found._replace(
                    width=_size(image.get("width")),
                    height=_size(image.get("height")),
                    license=licences.get(str(image.get("license")), ""),
                    split=self.split,
                )
                before = listed.get(found.coco_id)
                if before is None:
                    listed[found.coco_id] = found
                elif before.width is None or before.height is None:
                    listed[found.coco_id] = before._replace(width=found.width, height=found.height)
            if where == self.captions:
                yield from self._collect_captions(where, content["annotations"], listed, captions)
            del content  # two parsed files at once would be the peak of memory
        for coco_id, image in listed.items():
            in_order = sorted(captions.pop(coco_id, ()))
            yield image._replace(captions=tuple(caption for _, caption in in_order))

    def _collect_captions(
        self, where: str, annotations: list[Any], listed: dict[int, _Listed], captions: dict[int, list[tuple[int, str]]]
    ) -> Iterator[Rejection]:
        for position, entry in enumerate(_dicts(annotations)):
            caption, number, coco_id = entry.get("caption"), entry.get("id"), entry.get("image_id")
            if not isinstance(caption, str) or not isinstance(number, int):
                yield Rejection(self.name, f"{where}, annotations[{position}]", "annotation without a caption or an id")
            elif not isinstance(coco_id, int) or coco_id not in listed:
                yield Rejection(
                    self.name, f"{where}, annotations[{position}]", "caption of an image that is not listed"
                )
            else:
                folded = fold(caption)
                if folded:
                    captions.setdefault(coco_id, []).append((number, folded))

    def _from_karpathy(self, where: str) -> Iterator[_Listed | Rejection]:
        for position, image in enumerate(_parse(where, ("images",), "Karpathy's dataset_coco.json")["images"]):
            if image.get("split") not in self.splits:
                continue
            path = None
            if isinstance(image.get("filepath"), str) and isinstance(image.get("filename"), str):
                path = f"{image['filepath']}/{image['filename']}"
            found = self._listed(where, position, image.get("cocoid"), path)
            if isinstance(found, Rejection):
                yield found
                continue
            sentences = (sentence.get("raw") for sentence in _dicts(image.get("sentences")))
            captions = (fold(raw) for raw in sentences if isinstance(raw, str))
            yield found._replace(split=image["split"], captions=tuple(caption for caption in captions if caption))

    def _listed(self, where: str, position: int, coco_id: object, path: object) -> _Listed | Rejection:
        at = f"{where}, images[{position}]"
        if not isinstance(coco_id, int) or not 0 <= coco_id < 10**18 or not isinstance(path, str) or not path:
            return Rejection(self.name, at, "image without a numeric id or a file name")
        return _Listed(where=at, coco_id=coco_id, path=path)


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


class _ImageRoot:
    """The folder that the names in the lists are relative to."""

    def __init__(self, where: str) -> None:
        local = local_path(where)
        if local is not None and not local.is_dir():
            raise ValueError(f"images: {local} is not a folder; expected the folder that holds the COCO images")
        self._local = local
        self._url = where.rstrip("/")

    def uri(self, path: str) -> str | None:
        """None for a path that leads out of the folder or cannot be a file name."""
        clean = posixpath.normpath(path)
        if clean.startswith(("/", "../")) or clean in ("..", ".") or "\0" in clean:
            return None
        try:
            return (self._local / clean).as_uri() if self._local else encoded_uri(f"{self._url}/{clean}")
        except UnicodeEncodeError:
            return None

    def has(self, path: str) -> bool:
        if self._local:
            return (self._local / path).is_file()
        files, inside = filesystem(f"{self._url}/{posixpath.normpath(path)}")
        return files.isfile(inside)


def _parse(where: str, keys: tuple[str, ...], what: str) -> dict[str, list]:
    with open_binary(where) as stream:
        try:
            content = json.loads(stream.read().decode("utf-8-sig"), object_hook=_without_ballast)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: broken JSON in line {error.lineno}, column {error.colno} ({error.msg}); is it cut short? "
                f"expected {what}"
            ) from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: byte {error.start} is not UTF-8; expected {what}") from error
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            found = f"an object with {', '.join(content) or 'no known key'}" if isinstance(content, dict) else "a list"
            raise ValueError(f"{where}: {found} and no list {key!r}; expected {what}")
    content["images"] = [image if isinstance(image, dict) else {} for image in content["images"]]
    return content


def _without_ballast(item: dict[str, Any]) -> dict[str, Any] | None:
    """What the parser keeps of one object: nothing of a box or a mask, which are most of an instances file."""
    if "category_id" in item:
        return None
    return {key: value for key, value in item.items() if key in _KEPT}


def _dicts(items: object) -> Iterator[dict[str, Any]]:
    return (item for item in items if isinstance(item, dict)) if isinstance(items, list) else iter(())


def _licences(entries: object) -> dict[str, str]:
    """Name by id; ids as text, since they are looked up by whatever an image says."""
    return {
        str(entry.get("id")): fold(entry["name"]) for entry in _dicts(entries) if isinstance(entry.get("name"), str)
    }


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and 0 < value < 1 << 31 else None
