"""One value or one page of a Parquet column, found without reading those before it. Arrow reads nothing smaller than row groups.

A row group of today's `datasets` is 100 MB of photos in pages of 1 MB, not compressed, so that photos lie in the file as they
are: going from one length to the next tells where. Where they are compressed, page headers tell where pages are. A page
is decoded as what it is, a column chunk: around it goes a footer that says so, and Arrow reads a file of one page.

Source: Parquet format, parquet.thrift, in Thrift's compact protocol.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow.parquet as pq

#: Bytes of a file: how many, from which offset on.
ReadAt = Callable[[int, int], bytes]

#: A page of more than this, decoded, is no smaller step than its row group.
_LARGEST_PAGE = 32 << 20
#: Page headers have some 30 bytes; with statistics they may have thousands.
_HEADER_BYTES, _LONG_HEADER_BYTES = 128, 32 << 10
_MAGIC = b"PAR1"
_CODECS = {"UNCOMPRESSED": 0, "SNAPPY": 1, "GZIP": 2, "BROTLI": 4, "ZSTD": 6}
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_BYTE_ARRAY, _PLAIN = 6, 0
#: What comes of reading as a header what is none.
_UNKNOWN = (IndexError, KeyError, TypeError, ValueError)
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12


class Pages(NamedTuple):
    """The data pages of one column in one row group. ``starts``: offsets in the file, and where the last one ends;
    ``rows``: the first row of each in the group, and one more; ``dictionary``: where that page is, (0, 0) for none."""

    starts: array[int]
    rows: array[int]
    dictionary: tuple[int, int]

    def at(self, row: int) -> int:
        """The number of the page with that row of the group."""
        return bisect.bisect_right(self.rows, row) - 1


class Values(NamedTuple):
    """Where each value of one column in one row group lies in the file."""

    starts: array[int]
    ends: array[int]


def values_of(read_at: ReadAt, parquet: pq.ParquetFile, group: int, column: int) -> Values | None:
    """The values of the column with that number, of which only lengths are read; None where they do not lie there as they
    are: compressed, in a dictionary, some of them null (or no statistics that say none is).

    Raises OSError.
    """
    leaf, chunk = _leaf_and_chunk(parquet, group, column)
    statistics = chunk.statistics
    if leaf is None or chunk.compression != "UNCOMPRESSED" or statistics is None:
        return None
    if not statistics.has_null_count or statistics.null_count:
        return None
    starts, ends = array("q"), array("q")
    try:
        for page in _walk(read_at, chunk):
            if page.header[1] == _DATA_PAGE:
                about = page.header[5]
                encoding = about[2]
                levels = 4 + _four(read_at, page.body) if leaf.max_definition_level else 0
            else:
                about = page.header[8]
                encoding, levels = about[4], about[5] + about[6]
            if encoding != _PLAIN:
                return None
            at = page.body + levels
            for _ in range(about[1]):
                length = _four(read_at, at)
                starts.append(at + 4)
                at += 4 + length
                if at > page.end:
                    return None
                ends.append(at)
            if at != page.end:
                return None
    except _UNKNOWN:
        return None
    return Values(starts, ends) if len(starts) == chunk.num_values else None


def pages_of(read_at: ReadAt, parquet: pq.ParquetFile, group: int, column: int) -> Pages | None:
    """The pages of the column with that number; None where they are no smaller step than the row group, or not readable so.

    Raises OSError.
    """
    leaf, chunk = _leaf_and_chunk(parquet, group, column)
    if leaf is None or chunk.compression not in _CODECS:
        return None
    starts, rows, dictionary = array("q"), array("q", [0]), (0, 0)
    end = 0
    try:
        for page in _walk(read_at, chunk, with_dictionary=True):
            if page.header[2] > _LARGEST_PAGE:
                return None
            if page.header[1] == _DICTIONARY_PAGE:
                dictionary = (page.start, page.end)
                continue
            if starts and page.start != end:
                return None
            starts.append(page.start)
            rows.append(rows[-1] + (page.header[5] if page.header[1] == _DATA_PAGE else page.header[8])[1])
            end = page.end
    except _UNKNOWN:
        return None  # not as we know it; Arrow reads the row group, or says what is wrong
    if len(starts) < 2 or rows[-1] != chunk.num_values:
        return None
    starts.append(end)
    return Pages(starts, rows, dictionary)


class _Page(NamedTuple):
    """A page from ``start`` to ``end``; after its header comes its ``body``."""

    header: dict[int, Any]
    start: int
    body: int
    end: int


def _walk(read_at: ReadAt, chunk: Any, *, with_dictionary: bool = False) -> Iterator[_Page]:
    """The data pages of a column chunk. Raises OSError, and one of _UNKNOWN where they are not as the format says."""
    offset = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        offset = min(offset, chunk.dictionary_page_offset)
    last, values = offset + chunk.total_compressed_size, 0
    while offset < last and values < chunk.num_values:
        header, length = _header(read_at, offset)
        page = _Page(header, offset, offset + length, offset + length + header[3])
        if header[2] < 0 or header[3] < 0 or page.end > last:
            raise ValueError("a page beyond its column")
        if header[1] in (_DATA_PAGE, _DATA_PAGE_V2):
            count = (header[5] if header[1] == _DATA_PAGE else header[8])[1]
            if not 0 < count <= chunk.num_values - values:
                raise ValueError("a page with other values than its column")
            values += count
            yield page
        elif header[1] == _DICTIONARY_PAGE and with_dictionary:
            yield page
        offset = page.end


def _leaf_and_chunk(parquet: pq.ParquetFile, group: int, column: int) -> tuple[Any, Any]:
    """Arrow's words on a column of bytes, one value a row; None for any other, and on its chunk in a row group."""
    leaf = parquet.schema.column(column)
    fits = not leaf.max_repetition_level and leaf.physical_type == "BYTE_ARRAY"
    return leaf if fits else None, parquet.metadata.row_group(group).column(column)


def _four(read_at: ReadAt, offset: int) -> int:
    data = read_at(4, offset)
    if len(data) < 4:
        raise ValueError("the file ends here")
    return int.from_bytes(data, "little")


def page_alone(
    read_at: ReadAt, parquet: pq.ParquetFile, group: int, column: int, pages: Pages, page: int
) -> pq.ParquetFile:
    """A page as a Parquet file of one column. Raises OSError, and pyarrow's errors where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    start, end = pages.dictionary
    dictionary = read_at(end - start, start) if end else b""
    data = read_at(pages.starts[page + 1] - pages.starts[page], pages.starts[page])
    levels = parquet.schema.column(column).max_definition_level
    codec = _CODECS[parquet.metadata.row_group(group).column(column).compression]
    file = _file_of(dictionary, data, pages.rows[page + 1] - pages.rows[page], levels, codec)
    return pq.ParquetFile(pa.BufferReader(file))


def _file_of(dictionary: bytes, page: bytes, count: int, levels: int, codec: int) -> bytes:
    """A Parquet file with one row group of one column of one page. ``levels``: how many of the column's fields are optional."""
    groups = max(0, levels - 1)
    schema = [_struct((4, _BINARY, _text("m")), (5, _I32, _number(1)))]
    schema += [_struct((3, _I32, _number(1)), (4, _BINARY, _text("g")), (5, _I32, _number(1)))] * groups
    schema += [
        _struct((1, _I32, _number(_BYTE_ARRAY)), (3, _I32, _number(min(levels, 1))), (4, _BINARY, _text("leaf")))
    ]
    size = len(dictionary) + len(page)
    column = [
        (1, _I32, _number(_BYTE_ARRAY)),
        (2, _LIST, _list(_I32, [_number(encoding) for encoding in (0, 3, 8)])),
        (3, _LIST, _list(_BINARY, [_text("g")] * groups + [_text("leaf")])),
        (4, _I32, _number(codec)),
        (5, _I64, _number(count)),
        (6, _I64, _number(size)),
        (7, _I64, _number(size)),
        (9, _I64, _number(len(_MAGIC) + len(dictionary))),
    ]
    if dictionary:
        column.append((11, _I64, _number(len(_MAGIC))))
    chunk = _struct((2, _I64, _number(len(_MAGIC))), (3, _STRUCT, _struct(*column)))
    group = _struct((1, _LIST, _list(_STRUCT, [chunk])), (2, _I64, _number(size)), (3, _I64, _number(count)))
    footer = _struct(
        (1, _I32, _number(2)),
        (2, _LIST, _list(_STRUCT, schema)),
        (3, _I64, _number(count)),
        (4, _LIST, _list(_STRUCT, [group])),
    )
    return b"".join((_MAGIC, dictionary, page, footer, len(footer).to_bytes(4, "little"), _MAGIC))


# ------------------------------------------------------------------------------------------------ Thrift


def _header(read_at: ReadAt, offset: int) -> tuple[dict[int, Any], int]:
    """A page's header by the numbers of its fields, and its length."""
    try:
        return _read_struct(read_at(_HEADER_BYTES, offset), 0)
    except IndexError:
        return _read_struct(read_at(_LONG_HEADER_BYTES, offset), 0)


def _read_struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _read_number(data, at)
        fields[number], at = _read(data, at, head & 15)
    return fields, at + 1


def _read(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind in (4, _I32, _I64):
        return _read_number(data, at)
    if kind == _BINARY:
        size, at = _read_varint(data, at)
        _ = data[at + size]  # a structure ends with a zero, so there is more; IndexError where the data is cut
        return data[at : at + size], at + size
    if kind == _STRUCT:
        return _read_struct(data, at)
    raise ValueError(f"a page's header has no field of kind {kind}")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _read_varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _struct(*fields: tuple[int, int, bytes]) -> bytes:
    written, last = bytearray(), 0
    for number, kind, data in fields:
        written.append((number - last) << 4 | kind)
        written += data
        last = number
    return bytes(written) + b"\0"


def _list(kind: int, items: list[bytes]) -> bytes:
    assert len(items) < 15, "longer lists are written otherwise"
    return bytes([len(items) << 4 | kind]) + b"".join(items)


def _number(value: int) -> bytes:
    return _varint(value << 1)


def _text(value: str) -> bytes:
    return _varint(len(value)) + value.encode()


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
