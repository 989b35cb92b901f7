"""Units in portions: what a worker takes from the queue at a time, large while much is left and one unit in the end.

A task costs the driver a millisecond and kilobytes of memory before the first worker begins, so a million units are not a million
tasks. A portion is a small part of what every worker still has before it: one that is many times slower than the others finishes
its portion while they do the rest. The last units go out one by one, and then their copies (pipeline/speculation.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.choices import Unit
from pipeline.speculation import COPIES

#: Units of a portion at most. Of one whose worker is lost, the next worker looks up which are committed.
LARGEST = 64
#: A worker's share of what is left is at least so many portions: twice what is copied, so that copies are of units that went out alone.
PORTIONS = 2 * COPIES


def portions(units: Sequence[Unit], workers: int) -> Iterator[Sequence[Unit]]:
    """``units`` in order, each once. ``workers``: the most that there will be."""
    begin = 0
    while begin < len(units):
        size = max(1, min(LARGEST, (len(units) - begin) // (PORTIONS * workers)))
        yield units[begin : begin + size]
        begin += size
