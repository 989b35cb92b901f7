"""Progress while a job runs: a bar per expert and one in all on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from jobs.planning import Work
from pipeline.filling import CellResult

#: Seconds between two lines where there is no terminal.
LOG_EVERY = 15.0


class Progress:
    """Counts labels (one image by one expert). Use as a context manager."""

    def __init__(self, work: Work) -> None:
        self._asked: dict[str, int] = {}
        for _, units in work:
            for unit in units:
                for column in unit.columns:
                    self._asked[column] = self._asked.get(column, 0) + len(unit.shard)
        self._done = dict.fromkeys(self._asked, 0)
        self._failed = dict.fromkeys(self._asked, 0)
        self._start = self._said = time.monotonic()
        self._bars: dict[str, tqdm] = {}
        if sys.stderr.isatty():
            names = [*self._asked, ""]
            self._bars = {name: _bar(place, name, self._total(name)) for place, name in enumerate(names)}

    def add(self, results: Sequence[CellResult]) -> None:
        """What came back from one unit. A refused cell counts as dealt with: it will not come again in this run."""
        for result in results:
            self._done[result.column] += result.images
            self._failed[result.column] += (
                result.receipt.rows.failed - result.receipt.rows.dropped if result.receipt else 0
            )
            for name in (result.column, ""):
                if name in self._bars:
                    self._bars[name].update(result.images)
            if self._bars and self._failed[result.column]:
                self._bars[result.column].set_postfix_str(f"{self._failed[result.column]} failed")
        if not self._bars and (time.monotonic() - self._said > LOG_EVERY or self._done == self._asked):
            self._said = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    def _total(self, column: str) -> int:
        return self._asked[column] if column else sum(self._asked.values())

    def _line(self) -> str:
        done, asked = sum(self._done.values()), sum(self._asked.values())
        elapsed = time.monotonic() - self._start
        rate = done / elapsed if elapsed else 0.0
        left = f"{(asked - done) / rate:.0f}s left" if rate else "time left unknown"
        shares = {name.split("@")[0]: 100 * self._done[name] // max(1, n) for name, n in self._asked.items()}
        # Experts of one pack advance together: they are named only where they differ.
        apart = ", ".join(f"{name} {share}%" for name, share in shares.items()) if len(set(shares.values())) > 1 else ""
        failed = f"{sum(self._failed.values())} failed"
        return f"{done} of {asked} labels ({100 * done // max(1, asked)}%), {rate:.1f}/s, {left}, {failed}" + (
            f" ({apart})" if apart else ""
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()


def _bar(place: int, column: str, total: int) -> tqdm:
    name = column.split("@")[0] if column else "all labels"
    return tqdm(total=total, desc=f"{name:<18}", unit="img" if column else "label", position=place, dynamic_ncols=True)
