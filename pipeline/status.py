"""Status: how far a store is, from listings alone or, where failures are asked for, from its receipts; and what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, Field

from pipeline.errors import StoreError
from pipeline.plan import ShardPlan
from pipeline.receipt import Receipt, Rows, Seconds
from pipeline.store import LabelStore, failed_cells

#: Receipts read at once: each is a kilobyte, so on an object store the time is all waiting.
READERS = 16


class ColumnStatus(BaseModel):
    """One column. ``rows`` to ``damaged`` stay None (or 0) unless the receipts were read.

    committed, missing   cells
    images               in committed cells
    rows                 per status, and how many rows for each reason code, the most frequent first
    bytes                of the committed data files
    seconds              spent by phase, summed over cells (pipeline.receipt.Seconds says what each phase is)
    damaged              committed cells whose receipt cannot be read: see `audit`
    """

    column: str
    expert: str
    kind: str
    quantity: str
    committed: int
    missing: int
    images: int
    rows: Rows | None = None
    bytes: int | None = None
    seconds: Seconds | None = None
    damaged: int = 0


class Status(BaseModel):
    """A store's columns and its plan. ``cells`` and ``committed`` are totals over the columns."""

    url: str
    plan: ShardPlan
    plan_fingerprint: str
    shards: int
    columns: list[ColumnStatus] = Field(default_factory=list)

    @property
    def cells(self) -> int:
        return self.shards * len(self.columns)

    @property
    def committed(self) -> int:
        return sum(column.committed for column in self.columns)

    @property
    def complete(self) -> bool:
        return self.committed == self.cells

    @property
    def rows(self) -> Rows | None:
        """Of all columns together; None unless the receipts were read."""
        return _sum_rows([column.rows for column in self.columns if column.rows]) if self._was_read else None

    @property
    def bytes(self) -> int | None:
        return sum(column.bytes or 0 for column in self.columns) if self._was_read else None

    @property
    def seconds(self) -> Seconds | None:
        if not self._was_read:
            return None
        total = Seconds()
        for column in self.columns:
            total.add(column.seconds or Seconds())
        return total

    @property
    def _was_read(self) -> bool:
        return any(column.rows is not None for column in self.columns)


def status(store: LabelStore, *, failures: bool = False) -> Status:
    """How far every column is. Lists folders and reads no receipt; with ``failures`` reads them all."""
    found = Status(
        url=store.storage.url, plan=store.plan, plan_fingerprint=store.plan.fingerprint, shards=len(store.plan)
    )
    for column, card in store.columns().items():
        # A receipt beyond the plan is `audit`'s business, not a cell.
        committed = [index for index in store.committed(column) if index < len(store.plan)]
        last = len(store.plan) - 1
        shorter = store.plan.shard_size - len(store.plan.shard(last)) if last in committed else 0
        about = ColumnStatus(
            column=column,
            expert=card.name,
            kind=card.spec.kind,
            quantity=card.spec.quantity,
            committed=len(committed),
            missing=len(store.plan) - len(committed),
            images=len(committed) * store.plan.shard_size - shorter,
        )
        found.columns.append(_with_receipts(store, about, sorted(committed)) if failures else about)
    return found


class FailedRow(BaseModel):
    """One label that is failed: which image, by which column, and why."""

    column: str
    shard: int
    image_id: str
    reason: str
    uri: str


def failed_rows(store: LabelStore, columns: Sequence[str] | None = None) -> Iterator[FailedRow]:
    """Every failed row of the committed cells of ``columns`` (default: all), shard after shard, in manifest order.

    Reads the receipts of all cells and the tables of those with failures. Raises StoreError for a column that is not
    there, DamagedCell for a cell that cannot be read.
    """
    chosen = [store.column_of(name) for name in columns] if columns is not None else list(store.columns())
    for shard, failing in failed_cells(store, chosen):
        uris = {record.image_id: record.uri for record in store.records(shard)}
        for column in failing:
            with store.read(column, shard) as cell:
                for row in cell.rows:
                    if row["status"] == "failed":
                        image_id = row["image_id"]
                        yield FailedRow(
                            column=column,
                            shard=shard.index,
                            image_id=image_id,
                            reason=row["reason"],
                            uri=uris[image_id],
                        )


def _with_receipts(store: LabelStore, about: ColumnStatus, committed: Sequence[int]) -> ColumnStatus:
    rows: list[Rows] = []
    seconds = Seconds()
    size = damaged = 0

    def read(index: int) -> Receipt | None:
        try:
            return store.receipt(about.column, store.plan.shard(index))
        except StoreError:
            return None

    with ThreadPoolExecutor(READERS, thread_name_prefix="status") as pool:
        for receipt in pool.map(read, committed):
            if receipt is None:
                damaged += 1
                continue
            rows.append(receipt.rows)
            seconds.add(receipt.seconds)
            size += receipt.stored
    read_in = {"rows": _sum_rows(rows), "bytes": size, "seconds": seconds, "damaged": damaged}
    return about.model_copy(update=read_in)


def _sum_rows(parts: Sequence[Rows]) -> Rows:
    reasons: Counter[str] = Counter()
    for part in parts:
        reasons.update(part.reasons)
    return Rows(
        ok=sum(part.ok for part in parts),
        empty=sum(part.empty for part in parts),
        failed=sum(part.failed for part in parts),
        reasons=dict(reasons.most_common()),
    )
