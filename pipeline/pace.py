"""Pace: how fast a store fills and when it will be full, from its receipts alone: it can be watched from any machine.

Each look lists the store and reads only the receipts that are new since the look before.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pydantic import BaseModel, Field

from pipeline.errors import StoreError
from pipeline.plan import ShardPlan
from pipeline.receipt import Receipt
from pipeline.status import READERS, empty_shards
from pipeline.store import LabelStore

#: Seconds over which rates are taken, where cells do not take longer.
WINDOW = 300.0
#: A rate is of at least so many of the column's slowest cells, one after the other.
CELLS_AT_LEAST = 3


class ColumnPace(BaseModel):
    """One column now.

    done, shards   cells that are committed, and that there are to be
    images, left   in committed cells, and in missing ones
    failed         rows of committed cells, as their receipts were when they were first seen; dropped images do not count
    rate           images a second over the last minutes, by the times of receipts; 0 where none came
    seconds_left   at that rate; None where none came
    wait_share     of the models' time in these minutes: waiting for photos / (waiting + computing); None where none came
    last_commit    seconds since; None where there is none
    damaged        cells whose receipt cannot be read
    """

    column: str
    expert: str
    done: int
    shards: int
    images: int
    left: int
    failed: int = 0
    rate: float = 0.0
    seconds_left: float | None = None
    wait_share: float | None = None
    last_commit: float | None = None
    damaged: int = 0


class Pace(BaseModel):
    """A look at a store, ``at`` (ISO 8601, UTC). ``complete``: every cell of these columns is committed."""

    url: str
    at: str
    complete: bool
    columns: list[ColumnPace] = Field(default_factory=list)
    #: Of all columns together: labels a second, the longest time left, the models' waiting as in a column.
    rate: float = 0.0
    seconds_left: float | None = None
    wait_share: float | None = None


class _Commit(NamedTuple):
    """What counts of one receipt; a damaged one has rows of nobody."""

    at: float
    images: int
    failed: int
    wait: float
    compute: float
    damaged: bool


class Watch:
    """The store at ``url``, looked at again and again. ``columns``: only these (expert, or expert@version)."""

    def __init__(self, url: str, *, columns: Sequence[str] | None = None, window: float = WINDOW) -> None:
        self._url = url
        self._columns = columns
        self._window = window
        self._seen: dict[str, dict[int, _Commit]] = {}

    def look(self, *, now: float | None = None) -> Pace:
        """How far it is. Raises StoreError where there is no store, or none of the columns asked for."""
        store = LabelStore.open(self._url)  # anew: it may have grown
        names = list(store.columns())
        if self._columns is not None:
            names = [store.column_of(name) for name in self._columns]
        empty = empty_shards(store.plan)
        for name in names:
            self._take_in(store, name, store.committed(name) - empty)
        latest = max((c.at for name in names for c in self._seen[name].values() if not c.damaged), default=0.0)
        # A worker's clock may be ahead of ours: nothing is committed in the future.
        now = max(time.time() if now is None else now, latest)
        columns = [self._pace(store.plan, name, len(store.plan) - len(empty), now) for name in names]
        recent = [commit for name in names for commit in self._recent(name, now)]
        lefts = [column.seconds_left for column in columns if column.left]
        return Pace(
            url=store.storage.url,
            at=datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds"),
            complete=bool(columns) and all(column.done == column.shards for column in columns),
            columns=columns,
            rate=sum(column.rate for column in columns),
            seconds_left=None if None in lefts else max((left for left in lefts if left is not None), default=0.0),
            wait_share=_wait_share(recent),
        )

    def _take_in(self, store: LabelStore, column: str, committed: set[int]) -> None:
        seen = self._seen.setdefault(column, {})
        for withdrawn in seen.keys() - committed:
            del seen[withdrawn]
        new = sorted(committed - {index for index, commit in seen.items() if not commit.damaged})

        def read(index: int) -> _Commit:
            shard = store.plan.shard(index)
            try:
                return _commit(store.receipt(column, shard), len(shard))
            except StoreError:
                return _Commit(0.0, len(shard), 0, 0.0, 0.0, True)

        with ThreadPoolExecutor(READERS, thread_name_prefix="watch") as pool:
            seen.update(zip(new, pool.map(read, new), strict=True))

    def _recent(self, column: str, now: float) -> list[_Commit]:
        """Commits of the last minutes. A window that is shorter than a cell takes would see nothing at times."""
        commits = [commit for commit in self._seen[column].values() if not commit.damaged]
        slowest = max((c.wait + c.compute for c in commits if now - c.at <= 10 * self._window), default=0.0)
        window = max(self._window, CELLS_AT_LEAST * slowest)
        return [commit for commit in commits if now - commit.at <= window]

    def _began(self, column: str, recent: Sequence[_Commit], now: float) -> float:
        """When the work behind ``recent`` began: before the first commit, the pack was busy with that shard."""
        first = min(recent)
        index = next(index for index, commit in self._seen[column].items() if commit is first)
        beside = [seen[index] for seen in self._seen.values() if index in seen and abs(seen[index].at - first.at) < 60]
        return min(first.at - sum(c.wait + c.compute for c in beside), now - 1.0)

    def _pace(self, plan: ShardPlan, column: str, shards: int, now: float) -> ColumnPace:
        seen = self._seen[column]
        recent = self._recent(column, now)
        images = plan.images_of(set(seen))
        left = plan.images - images
        rate = sum(c.images for c in recent) / (now - self._began(column, recent, now)) if recent else 0.0
        last = max((c.at for c in seen.values() if not c.damaged), default=None)
        return ColumnPace(
            column=column,
            expert=column.split("@")[0],
            done=len(seen),
            shards=shards,
            images=images,
            left=left,
            failed=sum(c.failed for c in seen.values()),
            rate=rate,
            seconds_left=0.0 if not left else left / rate if rate else None,
            wait_share=_wait_share(recent),
            last_commit=None if last is None else now - last,
            damaged=sum(c.damaged for c in seen.values()),
        )


def _commit(receipt: Receipt, images: int) -> _Commit:
    return _Commit(
        at=datetime.datetime.fromisoformat(receipt.committed_at).timestamp(),
        images=images,
        failed=receipt.rows.failed - receipt.rows.dropped,
        wait=receipt.seconds.wait,
        compute=receipt.seconds.compute,
        damaged=False,
    )


def _wait_share(commits: Collection[_Commit]) -> float | None:
    busy = sum(commit.wait + commit.compute for commit in commits)
    return sum(commit.wait for commit in commits) / busy if busy else None
