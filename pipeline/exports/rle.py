"""Masks as COCO writes them: lengths of runs of 0 and 1, column after column, packed into a string.

Source of the format: the maskApi of the COCO API; written anew from its description.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def run_lengths(mask_hw: NDArray[np.bool_], left: int, top: int, height: int, width: int) -> list[int]:
    """Runs of 0 and 1 in turn, 0 first, of an image of ``height`` x ``width`` that holds ``mask_hw`` at (``left``, ``top``).

    What of the mask lies outside of the image is cut off. Down the columns, from the left one on.
    """
    mask_hw = mask_hw[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
    left, top = max(0, left), max(0, top)
    # A row of zeros above and below ends every run with its column.
    padded = np.pad(mask_hw, ((1, 1), (0, 0))).astype(np.int8)
    columns, rows = np.nonzero(np.diff(padded, axis=0).T)
    ends = (left + columns) * height + top + rows
    starts, stops = ends[0::2], ends[1::2]
    # Where a run ends at the bottom of one column and the next begins at the top of the next one, they are one.
    apart = starts[1:] != stops[:-1]
    edges = np.sort(np.concatenate([starts[:1], starts[1:][apart], stops[:-1][apart], stops[-1:]]))
    lengths = np.diff(np.concatenate([[0], edges, [height * width]]))
    found: list[int] = lengths.tolist()
    return found[:-1] if found[-1] == 0 and len(found) > 1 else found


def packed(lengths: list[int]) -> str:
    """The lengths as one string: from the third on the difference to the one before the last, 5 bits a letter, low bits first."""
    letters = []
    for place, length in enumerate(lengths):
        left = length - lengths[place - 2] if place > 2 else length
        more = True
        while more:
            bits = left & 31
            left >>= 5
            # Done when what is left is all sign, and the letter's highest bit says the same.
            more = left != (-1 if bits & 16 else 0)
            letters.append(chr(48 + (bits | 32 if more else bits)))
    return "".join(letters)
