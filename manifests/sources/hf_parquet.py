"""HfParquet: pictures in the cells of Parquet files, as Hugging Face datasets are published."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from manifests.location import cell_uri, open_binary, openable
from manifests.record import BATCH_ROWS, ID_PATTERN, ImageRecord, Rejection, batched, path_id
from manifests.sources.caption_text import EMPTY, caption_of
from manifests.sources.parquet_paths import ParquetPath, parquet_paths
from manifests.sources.shard_rows import pixels_of, texts_in, values_of
from manifests.sources.url_keys import keys_of_url

NO_BYTES = "row without the bytes of a picture"
UNREADABLE = "unreadable Parquet"
LACKING = "Parquet without a column that is named"
#: Columns of captions where none are named.
_USUAL = ("caption", "captions", "text")


class HfParquet(BaseModel):
    """Pictures in Parquet: ``path`` is a file, a folder of .parquet files (searched recursively), or a pattern as
    data/train-*.parquet, locally or behind an fsspec URL.

    image      column of pictures: a struct with the field ``bytes``, as `datasets` writes them, or bytes themselves
    captions   columns of captions, texts or lists of texts; none named: whichever of caption, captions, text there are
    id         column of image ids, which must be unique; none: ids are made of the file's place and the row
    url        column of the addresses that pictures came from, by which they are known in other sources
    name       the records' ``source``, and the beginning of ids that are made; of two in one job each needs its own
    license, split  of all pictures

    The columns ``width`` and ``height`` are used where they are integers. Pictures themselves are not read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["hf_parquet"] = "hf_parquet"
    path: str = Field(min_length=1)
    image: str = Field(default="image", min_length=1)
    captions: tuple[str, ...] = ()
    id: str | None = Field(None, min_length=1)
    url: str | None = Field(None, min_length=1)
    name: str = Field(default="hf_parquet", min_length=1)
    license: str = ""
    split: str = ""

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """One record per row, file by file; rejections: rows without a picture, files that cannot be read or lack a column.

        Raises ValueError where there is no file, and where the first one that can be read lacks a column that is named.
        """
        return batched(self._records())

    def _records(self) -> Iterator[ImageRecord | Rejection]:
        read = 0
        for path in parquet_paths(self.path):
            try:
                with open_binary(path.uri if path.uri.startswith("file://") else openable(path.uri)) as stream:
                    parquet = pq.ParquetFile(stream)
                    lacking = self._lacking(parquet)
                    if not lacking:
                        yield from _OneFile(self, path, parquet).records()
                    elif read:
                        yield Rejection(self.name, path.below, LACKING, parquet.metadata.num_rows)
            except (pa.ArrowException, OSError, ValueError):
                yield Rejection(self.name, path.below, UNREADABLE)
                continue
            if lacking and not read:
                raise ValueError(f"{path.uri}: {lacking}")
            read += 1

    def _lacking(self, parquet: pq.ParquetFile) -> str:
        """What is wrong with the columns, "" if nothing is."""
        columns = parquet.schema_arrow.names
        absent = [name for name in (self.image, *self.captions, self.id, self.url) if name and name not in columns]
        if absent:
            return f"no column {' and no column '.join(absent)}; the file has {', '.join(columns)[:200]}"
        if not _leaf(parquet, self.image):
            kind = parquet.schema_arrow.field(self.image).type
            return f"column {self.image} holds {str(kind)[:80]}; expected a struct with bytes, or bytes"
        return ""


class _OneFile:
    """One Parquet file that has the columns that are named."""

    def __init__(self, source: HfParquet, path: ParquetPath, parquet: pq.ParquetFile) -> None:
        self._source, self._path, self._parquet = source, path, parquet
        schema = parquet.schema_arrow
        self._leaf = _leaf(parquet, source.image)
        self._captions = source.captions or tuple(name for name in _USUAL if name in schema.names)
        self._sizes = [
            name
            for name in ("width", "height")
            if name in schema.names and pa.types.is_integer(schema.field(name).type)
        ]
        stem = path.below.removesuffix(".parquet")
        prefix = f"{source.name}_{stem}"
        # Room for the number of the row, which is what tells ids apart.
        fits = ID_PATTERN.fullmatch(prefix) and len(prefix) < 110
        self._prefix = prefix if fits else path_id(f"{source.name}/{stem}")

    def records(self) -> Iterator[ImageRecord | Rejection]:
        number = 0
        for group in range(self._parquet.metadata.num_row_groups):
            without = _without_bytes(self._parquet, group, self._leaf)
            for row, values in enumerate(self._rows(group)):
                if row in without:
                    yield Rejection(self._source.name, f"{self._path.below}, row {number}", NO_BYTES)
                else:
                    yield from self._record(number, values)
                number += 1

    def _rows(self, group: int) -> Iterator[dict[str, Any]]:
        source = self._source
        names = [name for name in (*self._captions, source.id, source.url, *self._sizes) if name]
        names = list(dict.fromkeys(names))
        if not names:
            yield from ({} for _ in range(self._parquet.metadata.row_group(group).num_rows))
            return
        for batch in self._parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=names, use_threads=False):
            for values in zip(*(values_of(batch.column(name)) for name in names), strict=True):
                yield dict(zip(names, values, strict=True))

    def _record(self, number: int, values: dict[str, Any]) -> Iterator[ImageRecord | Rejection]:
        source = self._source
        captions: dict[str, None] = {}
        for text in texts_in(tuple(values[name] for name in self._captions)):
            caption, refused = caption_of(text)
            if not refused:
                captions[caption] = None
            elif refused != EMPTY:
                yield Rejection(source.name, f"{self._path.below}, row {number}", refused)
        url = values.get(source.url or "")
        own = values.get(source.id or "")
        image_id = f"{self._prefix}_{number}" if own is None else str(own)
        yield ImageRecord(
            image_id=image_id if ID_PATTERN.fullmatch(image_id) else path_id(image_id),
            source=source.name,
            uri=cell_uri(self._path.uri, number, self._leaf),
            width=pixels_of(values.get("width")),
            height=pixels_of(values.get("height")),
            captions=tuple(captions),
            split=source.split,
            license=source.license,
            keys=keys_of_url(url) if isinstance(url, str) and url else (),
        )


def _leaf(parquet: pq.ParquetFile, column: str) -> str:
    """The path of the bytes of pictures in the file's schema, "" where the column has none."""
    kind = parquet.schema_arrow.field(column).type
    inside = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    held = kind.field("bytes").type if inside else kind
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    if pa.types.is_dictionary(held):
        held = held.value_type
    return (f"{column}.bytes" if inside else column) if any(fits(held) for fits in is_bytes) else ""


def _without_bytes(parquet: pq.ParquetFile, group: int, leaf: str) -> Container[int]:
    """Rows of a group whose picture is null: by the statistics of the file, and only where these say some by the column.

    A file without statistics is taken to have all pictures; one that is not there is then found when it is labelled.
    """
    contents = parquet.metadata.row_group(group)
    chunks = (contents.column(number) for number in range(contents.num_columns))
    statistics = next(chunk for chunk in chunks if chunk.path_in_schema == leaf).statistics
    if statistics is None or not statistics.has_null_count or not statistics.null_count:
        return ()
    if statistics.null_count == contents.num_rows:
        return range(contents.num_rows)
    absent: set[int] = set()
    first = 0
    for batch in parquet.iter_batches(64, row_groups=[group], columns=[leaf], use_threads=False):
        cells = batch.column(0)
        if pa.types.is_struct(cells.type):
            cells = cells.flatten()[0]
        absent.update(first + row for row, valid in enumerate(cells.is_valid().to_pylist()) if not valid)
        first += batch.num_rows
    return absent
