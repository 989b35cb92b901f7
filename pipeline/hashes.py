"""64-bit hashes of Arrow columns at memory speed: to tell which of millions of values are the same without keeping them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

#: Bytes (or elements of lists) worked on at a time: what fits a core's cache.
_PIECE = 1 << 16
_BASE = 0x9E3779B97F4A7C15 | 1
_MISSING = np.uint64(0x6A09E667F3BCC909)


def _powers(base: int, count: int) -> Hashes:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


_POWERS = _powers(_BASE, _PIECE)
_INVERSES = _powers(pow(_BASE, -1, 1 << 64), _PIECE)


def hashes(column: pa.Array) -> Hashes:
    """One hash for every value of a column of text, whole numbers, or lists of text.

    Values that differ share a hash with a probability of about 2**-60, unless somebody made them for it; the hashes are the
    same on every machine.
    """
    if pa.types.is_list(column.type):
        offsets = _offsets(column)
        values = hashes(column.values.slice(offsets[0], offsets[-1] - offsets[0]))
        return _of_sequences(values, offsets - offsets[0])
    if pa.types.is_string(column.type):
        offsets = _offsets(column)
        data = column.buffers()[2]
        text = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
        return _of_sequences(text[offsets[0] : offsets[-1]], offsets - offsets[0])
    numbers = column.cast(pa.int64())
    found = mixed(numbers.fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint64))
    found[numbers.is_null().to_numpy(zero_copy_only=False)] = _MISSING
    return found


def combined(*parts: Hashes) -> Hashes:
    """One hash for several of the same row; their order counts."""
    total = parts[0]
    for part in parts[1:]:
        total = mixed(total * np.uint64(_BASE) + part)
    return total


def mixed(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of the value (the finalizer of MurmurHash3)."""
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> np.uint64(33)
    return values


def _offsets(column: pa.Array) -> NDArray[np.int64]:
    if len(column) == 0:
        return np.zeros(1, np.int64)
    offsets = np.frombuffer(column.buffers()[1], np.int32)
    return offsets[column.offset : column.offset + len(column) + 1].astype(np.int64)


def _of_sequences(symbols: NDArray[np.unsignedinteger], offsets: NDArray[np.int64]) -> Hashes:
    """Of the sequences symbols[offsets[n]:offsets[n + 1]]: the polynomial with them as coefficients, modulo 2**64, and the length.

    All of a piece come from one running sum: what a sequence adds to it, divided by the power at which it begins.
    """
    found = np.zeros(len(offsets) - 1, np.uint64)
    for first, last in _pieces(offsets):
        begin, end = int(offsets[first]), int(offsets[last])
        if end - begin > _PIECE:  # one long sequence by itself
            found[first] = _of_a_long_one(symbols[begin:end])
            continue
        sums = np.zeros(end - begin + 1, np.uint64)
        # One is added, so that a zero is not nothing.
        np.cumsum((symbols[begin:end].astype(np.uint64) + np.uint64(1)) * _POWERS[: end - begin], out=sums[1:])
        starts, ends = offsets[first:last] - begin, offsets[first + 1 : last + 1] - begin
        found[first:last] = (sums[ends] - sums[starts]) * _INVERSES[np.minimum(starts, _PIECE - 1)]
    return mixed(found + np.diff(offsets).astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93))


def _of_a_long_one(symbols: NDArray[np.unsignedinteger]) -> np.uint64:
    total = np.uint64(0)
    with np.errstate(over="ignore"):
        step = _POWERS[-1] * np.uint64(_BASE)
        for begin in reversed(range(0, len(symbols), _PIECE)):
            piece = symbols[begin : begin + _PIECE].astype(np.uint64) + np.uint64(1)
            total = total * step + (piece * _POWERS[: len(piece)]).sum(dtype=np.uint64)
    return total


def _pieces(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs of sequences that have at most _PIECE symbols together, or one sequence that has more."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + _PIECE, side="right")) - 1
        last = min(max(last, first + 1), count)
        yield first, last
        first = last
