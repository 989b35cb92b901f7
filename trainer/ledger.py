"""Ledger: what each step reports, read without making the device wait.

A step's numbers are computed on the device, which is behind the program. To read them at once would be to wait for it at every
step. So they are copied to the host beside the work, and read when ``LAG`` further steps have been asked for: the device is never
without work, and nothing is known later than that. A CPU is never behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

LAG = 2
Entry = TypeVar("Entry")


@dataclass
class _Pending(Generic[Entry]):
    entry: Entry
    numbers: Tensor
    copied: torch.cuda.Event | None


@dataclass
class Ledger(Generic[Entry]):
    """Entries with numbers on the way. What comes out comes in order, and on every rank at the same step. lag: in steps."""

    lag: int = 0
    _pending: deque[_Pending[Entry]] = field(default_factory=deque)

    def add(self, entry: Entry, numbers_N: Tensor) -> None:
        """``numbers_N`` may be on any device."""
        if numbers_N.device.type != "cuda":
            self._pending.append(_Pending(entry, numbers_N, None))
            return
        host_N = torch.empty(numbers_N.shape, dtype=numbers_N.dtype, pin_memory=True)
        host_N.copy_(numbers_N, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        self._pending.append(_Pending(entry, host_N, copied))

    def settled(self, *, all_of_them: bool = False) -> Iterator[tuple[Entry, list[float]]]:
        """Entries that can be read without a wait worth speaking of; or all, however long it takes."""
        while len(self._pending) > (0 if all_of_them else self.lag):
            first = self._pending.popleft()
            if first.copied is not None:
                first.copied.synchronize()
            yield first.entry, first.numbers.tolist()
