"""Second copies of the last units: a job does not wait for one slow machine while others have nothing to do.

After all units of a pack come copies of the last of them, the very last one first. An idle worker that gets one waits as long as
units usually take it, twice over; most are committed by then. What is still not is late, and is done a second time: of two
commits one counts, whoever made it, and the labels are the same. The driver goes home when every unit has an answer.

A unit that killed a worker, or on which one hung, is not slow but ill: the journal deals with it, and no second worker is risked.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from pipeline.choices import Unit
from pipeline.filling import CellResult
from pipeline.journal import Journal
from pipeline.storage import Storage
from pipeline.store import LabelStore

#: Copies for each worker of the largest pool.
COPIES = 16
#: Seconds between two looks at whether a unit was committed.
LOOK = 1.0


def copied(units: Sequence[Unit], workers: int) -> list[Unit]:
    """The last units, the very last one first; none where there is nobody to do them a second time."""
    last = units[-COPIES * workers :] if workers > 1 and len(units) > 1 else ()
    return list(reversed(last))


class Idle:
    """What a worker does with copies. ``late``: seconds that a unit is left to the worker that began it, at least."""

    def __init__(self, store: LabelStore, run: str, late: float) -> None:
        self._store = store
        self._run = run
        self._late = late
        self._usual: list[float] = []

    def did(self, seconds: float) -> None:
        """This worker did a unit in so many seconds."""
        self._usual.append(seconds)

    def do(self, unit: Unit, name: str, label: Callable[[Journal], list[CellResult]]) -> list[CellResult]:
        """The results of a copy that was late and is committed now, whole; else none: the unit's first worker will tell.

        ``name``: of the unit in the journal.
        """
        end = time.monotonic() + max(self._late, 2 * statistics.median(self._usual or [0.0]))
        while self._open(unit):
            if time.monotonic() >= end:
                if _is_ill(self._store.storage, self._run, name):
                    return []
                results = label(Journal(self._store.storage, self._run, f"{name}.copy"))
                return results if all(result.receipt for result in results) else []
            time.sleep(min(LOOK, self._late))
        return []

    def _open(self, unit: Unit) -> bool:
        return not all(self._store.is_committed(column, unit.shard) for column in unit.columns)


def _is_ill(storage: Storage, run: str, name: str) -> bool:
    return Journal.attempts(storage, run, name) > 1


class Answers:
    """Counts at the driver's: of a unit and its copy, the first answer that says what became of it is the one."""

    def __init__(self, units: int) -> None:
        self._left = units
        self._told: set[tuple[str, int]] = set()

    @property
    def complete(self) -> bool:
        return self._left == 0

    def counts(self, pack: str, results: Sequence[CellResult], copy: bool) -> bool:
        """Whether these results of a unit are news."""
        if not results:
            return False
        key = (pack, results[0].shard)
        if key in self._told:
            return False
        if copy or not all(result.receipt for result in results):  # where all are committed, no copy can commit any
            self._told.add(key)
        self._left -= 1
        return True
