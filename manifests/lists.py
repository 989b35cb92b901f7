"""Lists of text in Arrow columns (captions, keys): taken apart, thinned out and put together without a loop over rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.record import SCHEMA

TEXTS = SCHEMA.field("captions").type


def taken_apart(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """All values of a column of lists in order, and the length of each list."""
    return column.flatten(), pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)


def put_together(values: pa.Array, lengths: np.ndarray) -> pa.Array:
    """The inverse of `taken_apart`."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=TEXTS)


def owners(lengths: np.ndarray) -> np.ndarray:
    """For each value the number of the list that it is in."""
    return np.repeat(np.arange(len(lengths)), lengths)


def first_of_each(values: pa.Array, groups: np.ndarray) -> np.ndarray:
    """Which values are met for the first time in their group, as a mask; ``groups``: a number from 0 for each value."""
    crowded = np.bincount(groups)[groups] > 1 if len(groups) else np.zeros(0, bool)
    mask = ~crowded
    places = np.flatnonzero(crowded)
    if len(places):
        encoded = values.take(pa.array(places)).dictionary_encode()
        numbers = groups[places].astype(np.int64) * len(encoded.dictionary) + np.asarray(encoded.indices)
        mask[places[np.unique(numbers, return_index=True)[1]]] = True
    return mask


def kept(values: pa.Array, lengths: np.ndarray, mask: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Lists without the values that ``mask`` leaves out, still taken apart."""
    return values.filter(pa.array(mask)), np.bincount(owners(lengths)[mask], minlength=len(lengths))
