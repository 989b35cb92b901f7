"""Order: the examples of one epoch, shuffled, so that any position can be asked for by itself.

Shards are shuffled, and examples within windows of a few shards: so few are open at a time, and next to each other in the order
stand images from all over a window. Nothing but seed and epoch decides it, hence ranks and workers can share an epoch in any way.

Legend of shape suffixes: S shards, W windows.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from trainer.data.chance import permutation

#: Shards that examples of one batch may come from, by default. 8 shards are 4096 images.
WINDOW = 8
_SHARDS, _PLACES = 1, 2


class Order:
    """Positions 0 to below ``len(order)`` of an epoch.

    counts_S: examples of each shard. seed: None leaves all in the store's order, for evaluation. window: shards that are shuffled
    together.
    """

    def __init__(self, counts_S: NDArray[np.int64], *, seed: int | None, epoch: int, window: int = WINDOW) -> None:
        if window < 1:
            raise ValueError(f"a window of {window} shards; expected one or more")
        self._seed = seed
        self._epoch = epoch
        self._window = window if seed is not None else 1
        count = len(counts_S)
        self._shards_S = np.arange(count) if seed is None else permutation(count, seed, epoch, _SHARDS)
        self._ends_S = np.cumsum(counts_S[self._shards_S])
        # Two, because a batch may reach over the end of a window.
        self._places = functools.lru_cache(maxsize=2)(self._places_of)

    def __len__(self) -> int:
        return int(self._ends_S[-1]) if len(self._ends_S) else 0

    def __getitem__(self, position: int) -> tuple[int, int]:
        """(shard, place in the shard) of the example at ``position``."""
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        window = self.window_of(position)
        start, _ = self._bounds(window)
        place = start + int(self._places(window)[position - start])
        number = int(np.searchsorted(self._ends_S, place, side="right"))
        return int(self._shards_S[number]), place - (int(self._ends_S[number - 1]) if number else 0)

    def window_of(self, position: int) -> int:
        """The window that a position lies in."""
        return int(np.searchsorted(self._ends_S, position, side="right")) // self._window

    def shards_of(self, window: int) -> list[int]:
        """The shards of a window; none beyond the last one."""
        return [int(shard) for shard in self._shards_S[window * self._window : (window + 1) * self._window]]

    def _bounds(self, window: int) -> tuple[int, int]:
        """The window's first position, and the one after its last."""
        first = window * self._window
        last = min(first + self._window, len(self._ends_S)) - 1
        return int(self._ends_S[first - 1]) if first else 0, int(self._ends_S[last])

    def _places_of(self, window: int) -> NDArray[np.int64]:
        start, stop = self._bounds(window)
        if self._seed is None:
            return np.arange(stop - start)
        return permutation(stop - start, self._seed, self._epoch, _PLACES, window)


def share(batch: range, rank: int, ranks: int) -> range:
    """The part of a batch's positions that is this rank's: consecutive, sizes differ by at most one, together all of them."""
    assert 0 <= rank < ranks, f"rank {rank} of {ranks}"
    first, last = (batch.start + len(batch) * r // ranks for r in (rank, rank + 1))
    return range(first, last)
