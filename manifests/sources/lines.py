"""Text files of millions of lines as Arrow arrays: cut at line ends and at TABs, and at nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.location import open_binary
from manifests.record import BATCH_ROWS, fold

_BLOCK = 8 << 20
_LONGEST_LINE = 64 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Lines(NamedTuple):
    """Lines from number ``first`` (of 1) on, without their ends (LF or CR LF).

    ``text``: an Arrow string array whose bytes are as they were in the file, so perhaps not UTF-8.
    """

    first: int
    text: pa.StringArray


def lines(where: str) -> Iterator[Lines]:
    """All lines of the file at a path or URL, at most BATCH_ROWS at a time. Memory: some 8 MiB.

    A CSV reader would also cut at quotes, at a lone CR or at an empty line; here a line is what ends in LF. Raises
    ValueError where the file is missing or a line is longer than 64 MiB.
    """
    with open_binary(where) as stream:
        left, first, over = b"", 1, False
        while not over:
            data = stream.read(_BLOCK)
            over = not data
            if first == 1 and not left:
                data = data.removeprefix(_BYTE_ORDER_MARK)
            block = left + data
            if over and block and not block.endswith(b"\n"):
                block += b"\n"
            whole = block.rfind(b"\n") + 1
            left = block[whole:]
            if len(left) > _LONGEST_LINE:
                raise ValueError(
                    f"{where}, line {first}: longer than {_LONGEST_LINE >> 20} MiB; expected a text file of lines"
                )
            found = _cut(block[:whole])
            for start in range(0, len(found), BATCH_ROWS):
                yield Lines(first + start, found.slice(start, BATCH_ROWS))
            first += len(found)


def columns(text: pa.StringArray, count: int) -> tuple[list[pa.StringArray], pa.BooleanArray]:
    """The lines that have ``count`` columns between TABs, column by column; and which lines those are."""
    fields = pc.split_pattern(text, "\t")
    fitting = pc.equal(pc.list_value_length(fields), count)
    if not pc.all(fitting).as_py():
        fields = fields.filter(fitting)
    return [pc.list_element(fields, number) for number in range(count)], fitting


def not_utf8(text: pa.StringArray) -> pa.BooleanArray | None:
    """Which of the strings are not UTF-8; None if all are."""
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array([not _is_utf8(data) for data in text.cast(pa.binary()).to_pylist()])
    return None


def string_array(values: Sequence[Any]) -> pa.StringArray:
    """Strings of a JSON file with the bytes that they had there, UTF-8 or not; null in place of what is no string."""
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
        data = [_bytes(value) if isinstance(value, str) else None for value in values]
        return pa.array(data, pa.binary()).view(pa.string())


def naming(before: str, numbers: Sequence[int], after: str = "") -> Callable[[int], str]:
    """What tells a user which row it is: its number between two texts."""

    def name(row: int) -> str:
        return f"{before}{numbers[row]}{after}"

    return name


def printable(text: pa.StringScalar) -> str:
    """A string of a file for a message, whatever its bytes are."""
    return (text.cast(pa.binary()).as_py() or b"").decode("utf-8", "backslashreplace")[:100]


def _bytes(text: str) -> bytes:
    """Halves of surrogate pairs, which JSON can write and UTF-8 cannot, become U+FFFD."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return fold(text).encode()


def _cut(block: bytes) -> pa.StringArray:
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    cut = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(block))
    return pc.ascii_rtrim(cut, "\r\n")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
