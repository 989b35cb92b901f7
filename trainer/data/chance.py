"""Random numbers that depend on nothing but their keys: not on the process, the machine, or a library's version.

Source of the mixing function: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mixed(value: int) -> int:
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def _state(keys: tuple[int, ...]) -> int:
    state = 0
    for key in keys:
        state = _mixed((state + _STEP + (key & _MASK)) & _MASK)
    return state


class Chance:
    """A stream of draws, decided by whole numbers."""

    def __init__(self, *keys: int) -> None:
        self._at = _state(keys)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number from ``low`` to below ``high``."""
        self._at = (self._at + _STEP) & _MASK
        return low + (high - low) * ((_mixed(self._at) >> 11) * 2.0**-53)

    def below(self, count: int) -> int:
        """A whole number from 0 to below ``count``."""
        return int(self.uniform(0, count))

    def flip(self, probability: float = 0.5) -> bool:
        return self.uniform() < probability


def permutation(count: int, *keys: int) -> NDArray[np.int64]:
    """The numbers from 0 to below ``count``, shuffled."""
    values = np.arange(count, dtype=np.uint64)
    values = values * np.uint64(_STEP) + np.uint64(_state(keys))  # wraps, as in `Chance`
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_FIRST)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_SECOND)
    return np.argsort(values ^ (values >> np.uint64(31)), kind="stable")
