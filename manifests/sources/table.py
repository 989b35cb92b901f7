"""Table: any CSV, TSV, JSON lines or Parquet of images (URLs, or paths below a folder) and captions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote_from_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from manifests.location import encoded_uri, local_path, split_part
from manifests.record import ID_PATTERN, ImageRecord, Rejection, path_id, to_batch
from manifests.sources.caption_text import caption_of
from manifests.sources.image_root import MISSING, OUTSIDE, ImageRoot
from manifests.sources.lines import printable, string_array
from manifests.sources.table_files import Broken, Rows, Wanted, rows_of, table_files
from manifests.sources.web import TEXTS, Pairs, WebImages, check_order, looks_like_url, web_batches

NO_IMAGE = "row without an image"
NO_PART = "part of a file that is neither #bytes=START-END nor #row=NUMBER&column=NAME"
NO_ROOT = "relative path, and no `images` to look below"

_SCHEME_OF_FILES = "file://"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Table(BaseModel):
    """One record per row of ``path``: a .csv, .tsv, .jsonl (.ndjson) or .parquet file, or a folder of files of one of these
    kinds, which are read in the order of their names.

    image     the column that says where the picture is: an http(s) URL (see ``fetch``), any other URL that fsspec opens,
              or a path, absolute or below ``images``
    caption   the column of captions, a text or (JSON lines, Parquet) a list of texts; null: there are none
    id        a column of image ids; else ids are made from ``image``
    images    folder or URL that relative paths are below; absolute ones must then be below it, too
    fetch     photos of http(s) URLs are downloaded when they are labelled; without it such rows are rejections
    columns   names of the columns of a CSV or TSV that has no header
    quotes    whether double quotes around a field are not part of it: by default so in CSV, and not in TSV, where a
              caption that begins with a quote would swallow the lines after it
    check_files     look for every image file below ``images`` now
    split, license  of all records
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["table"] = "table"
    path: str = Field(min_length=1)
    image: str = Field(default="url", min_length=1)
    caption: str | None = Field(default="caption", min_length=1)
    id: str | None = Field(None, min_length=1)
    images: str | None = Field(None, min_length=1)
    fetch: bool = False
    columns: tuple[str, ...] | None = Field(None, min_length=1)
    quotes: bool | None = None
    check_files: bool = False
    name: str = Field(default="table", min_length=1)
    split: str = ""
    license: str = ""

    @model_validator(mode="after")
    def _hangs_together(self) -> Table:
        lacking = [name for name in self._wanted.names() if self.columns is not None and name not in self.columns]
        if lacking:
            raise ValueError(
                f"columns {list(self.columns or ())} lack {', '.join(lacking)}; see `image`, `caption`, `id`"
            )
        return self

    @property
    def _wanted(self) -> Wanted:
        return Wanted(self.image, self.caption, self.id, self.columns, self.quotes)

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """Records in the order of the rows, those of http(s) URLs behind the others of their batch; rejections: rows that
        cannot be used, captions that are none.

        Raises ValueError where there is no such file, where it is broken as a whole or lacks a column, where its first rows
        have URLs for captions, and where ``images`` is a local path and no folder.
        """
        root = ImageRoot(self.images, holds="the table's images") if self.images else None
        for file, kind in table_files(self.path):
            about = WebImages(
                name=self.name,
                prefix="web",
                fetch=self.fetch,
                order=f"captions in column {self.caption!r} and pictures in column {self.image!r}",
                where=file,
                split=self.split,
                license=self.license,
            )
            yield from web_batches(self._web(rows_of(file, kind, self._wanted), root, about), about)

    def _web(
        self, found: Iterator[Rows | Broken], root: ImageRoot | None, about: WebImages
    ) -> Iterator[Pairs | pa.RecordBatch | Rejection]:
        """Records of all rows but those with http(s) URLs, of which records are still to be made."""
        checked = False
        for rows in found:
            if isinstance(rows, Broken):
                yield Rejection(self.name, rows.what, rows.reason)
                continue
            if not checked and rows.captions is not None:
                check_order(rows.images, rows.captions, about)
                checked = True
            web = looks_like_url(rows.images).to_numpy(zero_copy_only=False)
            if not web.all():
                records = []
                for item in self._others(rows.take(np.flatnonzero(~web)), root):
                    if isinstance(item, Rejection):
                        yield item
                    else:
                        records.append(item)
                if records:
                    yield to_batch(records)
            if web.any():
                yield _pairs(rows if web.all() else rows.take(np.flatnonzero(web)))

    def _others(self, rows: Rows, root: ImageRoot | None) -> Iterator[ImageRecord | Rejection]:
        ids = _texts(rows.ids) if rows.ids is not None else [""] * len(rows.images)
        captions = _lists(rows.captions) if rows.captions is not None else [[]] * len(rows.images)
        for row, (place, number, texts) in enumerate(zip(_texts(rows.images), ids, captions, strict=True)):
            found = self._placed(place.strip(), root)
            if isinstance(found, str):
                yield Rejection(self.name, f"{rows.what(row)}: {printable(rows.images[row])}", found)
                continue
            uri, path = found
            kept = []
            for text in texts:
                caption, refused = caption_of(text)
                if refused:
                    yield Rejection(self.name, rows.what(row), refused)
                else:
                    kept.append(caption)
            yield ImageRecord(
                image_id=_image_id(number)
                if number
                else path_id(path if self.name == "table" else f"{self.name}/{path}"),
                source=self.name,
                uri=uri,
                captions=tuple(kept),
                split=self.split,
                license=self.license,
            )

    def _placed(self, place: str, root: ImageRoot | None) -> tuple[str, str] | str:
        """The ``uri`` of a record, and what its id is made of; or why there is none."""
        if not place:
            return NO_IMAGE
        if _SCHEME.match(place):
            try:
                file, part = split_part(place)
            except ValueError:
                return NO_PART
            local = local_path(file)
            whole = encoded_uri(file) if local is None else local.as_uri()
            return (whole + place[len(file) :] if part else whole), place
        if root is None:
            return (
                (_SCHEME_OF_FILES + quote_from_bytes(os.fsencode(place)), place) if place.startswith("/") else NO_ROOT
            )
        if place.startswith("/") and root.local is not None:
            place = os.path.relpath(place, root.local)
        uri = root.uri(place)
        if uri is None:
            return OUTSIDE
        return MISSING if self.check_files and not root.has(place) else (uri, place)


def _pairs(rows: Rows) -> Pairs:
    """Rows of http(s) URLs; a list of captions becomes a row for each of them."""
    ids = None if rows.ids is None else pa.array([_image_id(number) if number else None for number in _texts(rows.ids)])
    if rows.captions is None:
        none = pa.ListArray.from_arrays(pa.array(np.zeros(len(rows.images) + 1, np.int32)), pa.array([], pa.string()))
        return Pairs(rows.images, none.cast(TEXTS), rows.what, ids)
    if pa.types.is_string(rows.captions.type):
        return Pairs(rows.images, rows.captions, rows.what, ids)
    lists = _lists(rows.captions)
    at = np.repeat(np.arange(len(lists)), [max(1, len(texts)) for texts in lists])
    captions = string_array([text for texts in lists for text in texts or [""]])
    return Pairs(
        rows.images.take(pa.array(at)),
        captions,
        lambda row: rows.what(int(at[row])),
        None if ids is None else ids.take(pa.array(at)),
    )


def _texts(column: pa.StringArray) -> list[str]:
    """Strings whose bytes may be anything, as `os.fsdecode` would have them; "" in place of null."""
    return [(data or b"").decode("utf-8", "surrogateescape") for data in column.cast(pa.binary()).to_pylist()]


def _lists(captions: pa.Array) -> list[list[str]]:
    if pa.types.is_string(captions.type):
        return [[text] for text in _texts(captions)]
    values = _texts(captions.flatten())
    ends = np.cumsum(pc.list_value_length(captions).fill_null(0).to_numpy(zero_copy_only=False)).tolist()
    return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _image_id(number: str) -> str:
    return number if ID_PATTERN.fullmatch(number) else path_id(number)
