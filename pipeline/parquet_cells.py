"""Photos in the cells of Parquet files, as Hugging Face and img2dataset write them.

Parquet cannot give one cell alone. Of a file here it is read by itself where it is not compressed, as today's `datasets` writes it;
else its page is read; and where pages are no smaller step, and of a file behind a URL, the row group's part of the column. Pages
and row groups are kept for the photos beside it, as far as they fit; a shuffled manifest of a large dataset finds few.
"""

from __future__ import annotations

import bisect
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from manifests.location import Cell, openable
from pipeline.limits import Limits, PhotoError
from pipeline.parquet_pages import Pages, ReadAt, Values, page_alone, pages_of, values_of
from pipeline.places import local_file, open_regular, opened_store

if TYPE_CHECKING:
    import pyarrow as pa

#: URI and stamp of a file, number of the row group, of the page or WHOLE, column
_Key = tuple[str, object, int, int, str]
#: In place of the number of a page: all of a row group.
WHOLE = -1

#: Photos that a process keeps, undecoded. A row group with more than a quarter of it is read up to the photo, and not kept.
KEPT_BYTES = 128 << 20
#: Parquet files that a process keeps open: their tables of contents, mostly.
KEPT_FILES = 16
#: What is read at once: so many rows, and fewer where they are large.
_ROWS, _PIECE_BYTES = 16, 16 << 20
_BUFFER_BYTES = 4 << 20


def read_cell(file: str, cell: Cell, limits: Limits) -> bytes:
    """The bytes in a cell of the Parquet file with that ``uri``. Thread-safe.

    Raises PhotoError, OSError, and what pyarrow raises for a file that is no Parquet or is damaged.
    """
    return _CELLS.read(file, cell, limits)


class ParquetCells:
    """Open files and the row groups read last, least recently used first. Thread-safe; a file is read by one thread at a time."""

    def __init__(self, *, kept_bytes: int = KEPT_BYTES, kept_files: int = KEPT_FILES) -> None:
        self._kept_bytes, self._kept_files = kept_bytes, kept_files
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._groups: OrderedDict[_Key, tuple[list[pa.Array], int]] = OrderedDict()
        self.bytes_kept = 0

    def read(self, uri: str, cell: Cell, limits: Limits) -> bytes:
        """As `read_cell`."""
        file = self._file(uri)
        rows = file.row_ends[-1] if file.row_ends else 0
        if cell.row >= rows:
            raise PhotoError(f"missing: row {cell.row}; the file has {rows}")
        group = bisect.bisect_right(file.row_ends, cell.row)
        row = cell.row - (file.row_ends[group - 1] if group else 0)
        exact = file.value(group, cell.column, row)
        if exact is not None:
            limits.check_bytes(exact[1] - exact[0])
            return file.bytes_at(*exact)
        page, row = file.place(group, cell.column, row)
        key = (uri, file.stamp, group, page, cell.column)
        pieces = self._kept(key)
        if pieces is None:
            # Pages are read without Arrow's reader of the file, which is for one thread at a time.
            with file.lock if page == WHOLE else nullcontext():
                pieces = self._kept(key)  # another thread may have read it while this one waited
                if pieces is None:
                    return _bytes_of(self._sought(file, key, row), limits)
        for piece in pieces:
            if row < len(piece):
                return _bytes_of(piece.slice(row, 1), limits)
            row -= len(piece)
        raise PhotoError(f"corrupt: row group {group} has fewer rows than the file says")

    def _sought(self, file: _File, key: _Key, row: int) -> pa.Array:
        """The row of a row group or page, alone; the others are kept where they are not too large."""
        sought = None
        pieces: list[pa.Array] = []
        size, seen = 0, 0
        for piece in file.pieces(*key[2:]):
            if seen <= row < seen + len(piece):
                sought = piece.slice(row - seen, 1)
            seen += len(piece)
            # As it is in memory: a file can say of itself what it likes, and repeat a photo without space.
            size += piece.nbytes
            if size <= self._kept_bytes // 4:
                pieces.append(piece)
            else:
                pieces.clear()
                if sought is not None:
                    return sought
        if sought is None:
            raise PhotoError(f"corrupt: row group {key[2]} has {seen} rows, fewer than the file says")
        if pieces:
            self._keep(key, pieces, size)
        return sought

    def _kept(self, key: _Key) -> list[pa.Array] | None:
        with self._lock:
            if key not in self._groups:
                return None
            self._groups.move_to_end(key)
            return self._groups[key][0]

    def _keep(self, key: _Key, pieces: list[pa.Array], size: int) -> None:
        with self._lock:
            if key not in self._groups:
                self._groups[key] = pieces, size
                self.bytes_kept += size
            while self.bytes_kept > self._kept_bytes:
                self.bytes_kept -= self._groups.popitem(last=False)[1][1]

    def _file(self, uri: str) -> _File:
        stamp = _stamp(uri)
        with self._lock:
            file = self._files.get(uri)
            if file is not None and file.stamp == stamp:
                self._files.move_to_end(uri)
                return file
        file = _File(uri, stamp)
        with self._lock:
            self._files[uri] = file
            self._files.move_to_end(uri)
            while len(self._files) > self._kept_files:
                self._files.popitem(last=False)
        return file


class _File:
    """An open Parquet file. ``stamp``: what changes when it does; ``row_ends``: the first row after each row group."""

    def __init__(self, uri: str, stamp: object) -> None:
        import pyarrow.parquet as pq

        self.lock = threading.Lock()
        self.stamp = stamp
        stream = _opened(uri)
        # The small buffer makes a large row group come page by page.
        self._parquet = pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        # To find pages takes many small reads, which is no way to ask a store.
        self._read_at: ReadAt | None = stream.read_at if uri.startswith("file://") else None
        self._values: dict[tuple[int, str], Values | None] = {}
        self._pages: dict[tuple[int, str], Pages | None] = {}
        contents = self._parquet.metadata
        self.row_ends = list(accumulate(contents.row_group(group).num_rows for group in range(contents.num_row_groups)))
        self._columns = [self._parquet.schema.column(number).path for number in range(len(self._parquet.schema))]

    def value(self, group: int, column: str, row: int) -> tuple[int, int] | None:
        """From where to where in the file a value lies as it is. Raises PhotoError where there is no such column."""
        if column not in self._columns:
            raise PhotoError(f"missing: no column {column!r}; the file has {', '.join(self._columns)[:200]}")
        if self._read_at is None:
            return None
        if (group, column) not in self._values:
            number = self._columns.index(column)
            self._values[group, column] = values_of(self._read_at, self._parquet, group, number)
        values = self._values[group, column]
        return (values.starts[row], values.ends[row]) if values else None

    def bytes_at(self, start: int, end: int) -> bytes:
        """The bytes of the file from ``start`` up to ``end``."""
        assert self._read_at is not None
        return bytes(self._read_at(end - start, start))

    def place(self, group: int, column: str, row: int) -> tuple[int, int]:
        """The page with a row of a row group, or WHOLE, and the row in it."""
        if self._read_at is None:
            return WHOLE, row
        if (group, column) not in self._pages:
            self._pages[group, column] = pages_of(self._read_at, self._parquet, group, self._columns.index(column))
        pages = self._pages[group, column]
        if pages is None:
            return WHOLE, row
        page = pages.at(row)
        return page, row - pages.rows[page]

    def pieces(self, group: int, page: int, column: str) -> Iterator[pa.Array]:
        """A page, or a column's part of a row group, some rows at a time."""
        import pyarrow as pa

        number = self._columns.index(column)
        contents = self._parquet.metadata.row_group(group)
        size = contents.column(number).total_uncompressed_size // max(1, contents.num_rows)
        rows = max(1, min(_ROWS, _PIECE_BYTES // max(1, size)))
        pages = self._pages.get((group, column))
        if page != WHOLE and pages is not None and self._read_at is not None:
            alone = page_alone(self._read_at, self._parquet, group, number, pages, page)
            batches = alone.iter_batches(rows, use_threads=False)
        else:
            batches = self._parquet.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False)
        for batch in batches:
            array = batch.column(0)
            while pa.types.is_struct(array.type):
                array = array.flatten()[0]
            yield array


def _stamp(uri: str) -> object:
    if not uri.startswith("file://"):
        return None
    status = os.stat(local_file(uri))  # noqa: PTH116 - for every photo
    return status.st_ino, status.st_size, status.st_mtime_ns


def _opened(uri: str) -> Any:
    import pyarrow as pa

    if uri.startswith("file://"):
        path = local_file(uri)
        with open_regular(path):
            return pa.OSFile(os.fsencode(path), "r")
    files, path = opened_store(openable(uri))
    return files.open(path, "rb", cache_type="none")


def _bytes_of(cell: pa.Array, limits: Limits) -> bytes:
    """The one value of ``cell``; its size is compared with the limit before it is copied."""
    import pyarrow as pa

    if pa.types.is_dictionary(cell.type):
        cell = cell.dictionary_decode()
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    if not any(is_kind(cell.type) for is_kind in kinds):
        raise PhotoError(f"unreadable: the column holds {str(cell.type)[:60]}, expected bytes of a photo")
    value = cell[0]
    if not value.is_valid:
        raise PhotoError("missing: the cell is empty")
    limits.check_bytes(value.as_buffer().size)
    return bytes(value.as_py())


_CELLS = ParquetCells()


def _begin_anew() -> None:
    """A process that was forked has none of the threads that hold a lock."""
    global _CELLS
    _CELLS = ParquetCells()


os.register_at_fork(after_in_child=_begin_anew)
