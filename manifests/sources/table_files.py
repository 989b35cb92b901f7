"""Columns of CSV, TSV, JSON lines and Parquet files, read some ten thousand rows at a time."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from manifests.location import local_path, open_binary
from manifests.record import BATCH_ROWS
from manifests.sources.lines import lines, naming, string_array
from manifests.sources.tree import open_tree

Kind = Literal["csv", "tsv", "jsonl", "parquet"]

BROKEN_ROW = "row with another number of columns than the header"
BROKEN_LINE = "line that is no JSON object"

_KINDS: dict[str, Kind] = {"csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
_BLOCK = 8 << 20
_LISTS = pa.list_(pa.string())


class Wanted(NamedTuple):
    """Which columns: their names in the file. ``columns``, ``quotes``: of CSV and TSV, see `manifests.sources.table.Table`."""

    image: str
    caption: str | None
    id: str | None
    columns: tuple[str, ...] | None
    quotes: bool | None

    def names(self) -> list[str]:
        return [name for name in dict.fromkeys((self.image, self.caption, self.id)) if name]


class Rows(NamedTuple):
    """Some rows. Strings have the bytes of the file, so are perhaps not UTF-8. ``captions``: of strings or of lists of strings,
    None where none are wanted; so ``ids``. ``what``: names a row for the user."""

    images: pa.StringArray
    captions: pa.Array | None
    ids: pa.StringArray | None
    what: Callable[[int], str]

    def take(self, at: np.ndarray) -> Rows:
        """The rows with these numbers."""
        places = pa.array(at)
        images, captions, ids = (None if column is None else column.take(places) for column in self[:3])
        return Rows(images, captions, ids, lambda row: self.what(int(at[row])))


class Broken(NamedTuple):
    """A row that cannot be read."""

    what: str
    reason: str


def table_files(where: str) -> list[tuple[str, Kind]]:
    """The file, or the files of a folder in the order of their names, each with its kind.

    Raises ValueError where there is none of a known kind, or several kinds in one folder.
    """
    local = local_path(where)
    suffix = where.lower().rpartition(".")[2]
    if suffix in _KINDS and not (local and local.is_dir()):
        return [(where, _KINDS[suffix])]
    names = sorted(name for name, kind in open_tree(where).entries("") if kind == "file" and not name.startswith("."))
    found = [
        (f"{where.rstrip('/')}/{name}", _KINDS[end])
        for name in names
        if (end := name.lower().rpartition(".")[2]) in _KINDS
    ]
    kinds = sorted({kind for _, kind in found})
    if len(kinds) != 1:
        what = f"files of {', '.join(kinds)}" if kinds else f"no {', '.join(_KINDS)} file"
        raise ValueError(f"{where}: {what} in this folder; expected a file, or a folder of files of one kind")
    return found


def rows_of(file: str, kind: Kind, wanted: Wanted) -> Iterator[Rows | Broken]:
    """The rows of one file. Memory: some 8 MiB, of Parquet a row group. Raises ValueError where it is broken, or lacks a column."""
    if kind == "jsonl":
        yield from _of_lines(file, wanted)
        return
    try:
        yield from _of_parquet(file, wanted) if kind == "parquet" else _of_csv(file, kind, wanted)
    except pa.ArrowException as error:
        what = str(error).splitlines()[0][:200]
        raise ValueError(f"{file}: broken {kind} ({what}); is it cut short, or a quote not closed?") from error


def _of_parquet(file: str, wanted: Wanted) -> Iterator[Rows]:
    with open_binary(file) as stream, pq.ParquetFile(stream) as parquet:
        _check(file, wanted, parquet.schema_arrow.names)
        first = 0
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=wanted.names()):
            yield _rows(file, batch, wanted, naming(f"{file}, row ", range(first, first + batch.num_rows)))
            first += batch.num_rows


def _of_csv(file: str, kind: Kind, wanted: Wanted) -> Iterator[Rows | Broken]:
    quotes = wanted.quotes if wanted.quotes is not None else kind == "csv"
    broken: list[Broken] = []

    def skip(row: pc_csv.InvalidRow) -> str:
        broken.append(Broken(f"{file}, line {row.number}: {row.text[:100]}", BROKEN_ROW))
        return "skip"

    read = pc_csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=wanted.columns)
    parse = pc_csv.ParseOptions(
        delimiter="," if kind == "csv" else "\t",
        quote_char='"' if quotes else False,
        newlines_in_values=quotes,
        invalid_row_handler=skip,
    )
    convert = pc_csv.ConvertOptions(
        column_types=dict.fromkeys(wanted.names(), pa.string()),
        strings_can_be_null=False,
    )
    with open_binary(file) as stream:
        try:
            reader = pc_csv.open_csv(_Utf8(stream), read_options=read, parse_options=parse, convert_options=convert)
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):
                return
            raise
        _check(file, wanted, reader.schema.names)
        row = 0
        for batch in reader:
            yield from broken
            broken.clear()
            for start in range(0, batch.num_rows, BATCH_ROWS):
                some = _as_they_were(batch.slice(start, BATCH_ROWS))
                yield _rows(file, some, wanted, naming(f"{file}, row ", range(row + 1, row + 1 + some.num_rows)))
                row += some.num_rows
        yield from broken


class _Utf8(io.RawIOBase):
    """A stream whose bytes that are not UTF-8 are U+FFFD: Arrow gives up a whole file for one of them in a broken row."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = b"more"
        while data and (size < 0 or len(self._ready) < size):
            data = self._stream.read(size)
            self._ready += self._decoder.decode(data, final=not data).encode()
        end = len(self._ready) if size < 0 else size
        found, self._ready = self._ready[:end], self._ready[end:]
        return found


def _as_they_were(batch: pa.RecordBatch) -> pa.RecordBatch:
    """U+FFFD becomes a byte again that is not UTF-8, so that what has it is refused for that."""
    columns = []
    for column in batch.columns:
        if pa.types.is_string(column.type) and pc.any(pc.match_substring(column, "\ufffd")).as_py():
            column = pc.replace_substring(column.cast(pa.binary()), "\ufffd", b"\xff").view(pa.string())
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _of_lines(file: str, wanted: Wanted) -> Iterator[Rows | Broken]:
    checked = False
    for first, text in lines(file):
        numbers: list[int] = []
        entries: list[dict[str, Any]] = []
        for number, line in enumerate(text.cast(pa.binary()).to_pylist(), first):
            if not line.strip():
                continue
            try:
                entry = json.loads(line.decode("utf-8", "surrogateescape"))
            except ValueError:
                entry = None
            if isinstance(entry, dict):
                numbers.append(number)
                entries.append(entry)
            else:
                yield Broken(f"{file}, line {number}: {line[:100].decode('utf-8', 'backslashreplace')}", BROKEN_LINE)
        if not entries:
            continue
        if not checked:
            _check(file, wanted, list(dict.fromkeys(key for entry in entries for key in entry)))
            checked = True
        captions = [entry.get(wanted.caption) for entry in entries] if wanted.caption else []
        found = string_array(captions) if wanted.caption else None
        if any(isinstance(caption, list) for caption in captions):
            lists = [caption if isinstance(caption, list) else [caption] for caption in captions]
            ends = np.cumsum([0, *map(len, lists)]).astype(np.int32)
            found = pa.ListArray.from_arrays(pa.array(ends), string_array([text for texts in lists for text in texts]))
        yield Rows(
            images=string_array([entry.get(wanted.image) for entry in entries]),
            captions=found,
            ids=string_array([entry.get(wanted.id) for entry in entries]) if wanted.id else None,
            what=naming(f"{file}, line ", numbers),
        )


def _check(file: str, wanted: Wanted, names: list[str]) -> None:
    for name in wanted.names():
        if name not in names:
            there = ", ".join(names[:20])[:300]
            raise ValueError(f"{file} has no column {name!r}; it has {there}: say which by `image`, `caption`, `id`")


def _rows(file: str, batch: pa.RecordBatch, wanted: Wanted, what: Callable[[int], str]) -> Rows:
    return Rows(
        images=_strings(file, batch, wanted.image),
        captions=_strings(file, batch, wanted.caption, lists=True) if wanted.caption else None,
        ids=_strings(file, batch, wanted.id) if wanted.id else None,
        what=what,
    )


def _strings(file: str, batch: pa.RecordBatch, name: str, *, lists: bool = False) -> pa.Array:
    column = batch.column(name)
    kind = column.type
    if pa.types.is_string(kind):
        return column
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    ):
        return column.cast(pa.string())
    if lists and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return column.cast(_LISTS)
    raise ValueError(f"{file}: column {name!r} is of {kind}; expected text" + (" or lists of text" if lists else ""))
