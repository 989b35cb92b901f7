"""Folder: all photos below a folder, with captions from text files beside them or from one caption file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from manifests.record import ImageRecord, Rejection, batched, fold, path_id
from manifests.sources.captions import CaptionFile
from manifests.sources.tree import LeftOut, Tree, open_tree, walk

#: A text file beside a photo that is larger than this is not its captions.
SIDECAR_BYTES = 1 << 20


class Folder(BaseModel):
    """Photos below ``path``, a local folder (~ allowed) or fsspec URL: jpg, jpeg, jpe, png, webp, bmp, tif, tiff, gif.

    captions  "sidecar": each non-empty line of photo.txt beside photo.jpg; "none"; or the path or URL of a .jsonl or
              .csv file, see `manifests.sources.captions.CaptionFile`
    name      the records' ``source``; two folders in one job need different names, since the name, unless it is the
              default, takes part in the image ids
    license, split  of all its photos

    Streams in the order of `manifests.sources.tree.walk`. Whether a photo can be decoded is found when it is labelled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["folder"] = "folder"
    path: str = Field(min_length=1)
    captions: str = "sidecar"
    name: str = Field(default="folder", min_length=1)
    license: str = ""
    split: str = ""

    @field_validator("captions")
    @classmethod
    def _is_known(cls, captions: str) -> str:
        if captions not in ("sidecar", "none") and not captions.lower().endswith((".jsonl", ".csv")):
            raise ValueError(f"captions {captions!r}: expected sidecar, none, or the path of a .jsonl or .csv file")
        return captions

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """One record per photo; rejections: unreadable folders, links in circles, captions that belong to no photo.

        Raises ValueError where the folder does not exist or the caption file is missing or broken.
        """
        return batched(self._records())

    def _records(self) -> Iterator[ImageRecord | Rejection]:
        tree = open_tree(self.path)
        prefix = "" if self.name == "folder" else f"{self.name}/"
        with ExitStack() as stack:
            caption_file = None
            if self.captions not in ("sidecar", "none"):
                caption_file = stack.enter_context(CaptionFile(self.captions))
            for found in walk(tree):
                if isinstance(found, LeftOut):
                    yield Rejection(self.name, tree.uri(found.path), found.reason)
                    continue
                captions: tuple[str, ...] = ()
                if caption_file:
                    captions = caption_file.take(found.path)
                elif found.sidecar and self.captions == "sidecar":
                    captions, refused = _read_sidecar(tree, found.sidecar)
                    if refused:
                        yield Rejection(self.name, tree.uri(found.sidecar), refused)
                yield ImageRecord(
                    image_id=path_id(prefix + found.path),
                    source=self.name,
                    uri=tree.uri(found.path),
                    captions=captions,
                    split=self.split,
                    license=self.license,
                )
            if caption_file:
                for line, file in caption_file.left():
                    printable = file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                    yield Rejection(
                        self.name, f"{self.captions}, line {line}: {printable}", "caption of a photo that is not there"
                    )


def _read_sidecar(tree: Tree, path: str) -> tuple[tuple[str, ...], str]:
    """The captions in a text file, and why they are left out if they are."""
    try:
        data = tree.read(path, SIDECAR_BYTES + 1)
    except OSError as error:
        return (), f"unreadable captions ({error.strerror or type(error).__name__})"
    if len(data) > SIDECAR_BYTES:
        return (), f"captions of more than {SIDECAR_BYTES} bytes"
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return (), "captions are not UTF-8"
    return tuple(caption for caption in map(fold, lines) if caption), ""
