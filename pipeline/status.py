"""Status: how far a store is, from listings alone or, where failures are asked for, from its receipts; and what failed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pydantic import BaseModel, Field

from expert_zoo.card import ExpertCard
from pipeline.errors import StoreError
from pipeline.growth import GrownPlan
from pipeline.lacking import failed_cells
from pipeline.plan import ShardPlan
from pipeline.receipt import Receipt, Rows, Seconds
from pipeline.store import LabelStore

#: Receipts read at once: each is a kilobyte, so on an object store the time is all waiting.
READERS = 16
_AT_ONCE = 1024


class ColumnStatus(BaseModel):
    """One column. ``rows`` to ``damaged`` stay None (or 0) unless the receipts were read. Dropped images do not count.

    random_weights       `weights seed` wrote the expert's weights, and its labels are noise
    differs              of several versions of one expert: what this one's card has that others' have not, as "key=value"
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
    random_weights: bool = False
    differs: list[str] = Field(default_factory=list)
    committed: int
    missing: int
    images: int
    rows: Rows | None = None
    bytes: int | None = None
    seconds: Seconds | None = None
    damaged: int = 0


class Status(BaseModel):
    """A store's columns and its plan, as it was made. ``cells`` and ``committed`` are totals over the columns.

    ``images``: that are there; ``shards``: that have some. ``growths``: how often the store has grown; ``dropped``: images that were taken out of it.
    ``unknown``: columns that only a later version can read, and why.
    """

    url: str
    plan: ShardPlan
    plan_fingerprint: str
    images: int
    shards: int
    growths: int = 0
    dropped: int = 0
    columns: list[ColumnStatus] = Field(default_factory=list)
    unknown: dict[str, str] = Field(default_factory=dict)

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
    plan = store.plan
    cards = store.columns()
    found = Status(
        url=store.storage.url,
        plan=plan.first if isinstance(plan, GrownPlan) else plan,
        plan_fingerprint=plan.fingerprint,
        images=plan.images,
        shards=len(plan),
        unknown=store.unknown_columns(),
    )
    empty = empty_shards(plan)
    found.shards -= len(empty)
    if isinstance(plan, GrownPlan):
        found.growths, found.dropped = len(plan.growths), len(plan.dropped_D)
    for column, card in cards.items():
        committed = store.committed(column) - empty
        about = ColumnStatus(
            column=column,
            expert=card.name,
            kind=card.spec.kind,
            quantity=card.spec.quantity,
            random_weights=card.random_weights,
            differs=_differs(card, [other for other in cards.values() if other.name == card.name]),
            committed=len(committed),
            missing=found.shards - len(committed),
            images=plan.images_of(committed),
        )
        found.columns.append(_with_receipts(store, about, sorted(committed)) if failures else about)
    return found


def empty_shards(plan: ShardPlan) -> set[int]:
    """Numbers of the shards whose images have all been dropped."""
    if not isinstance(plan, GrownPlan):
        return set()
    return {index for index in np.unique(plan.dropped_D // plan.shard_size).tolist() if not len(plan.shard(index))}


def _differs(card: ExpertCard, versions: Sequence[ExpertCard]) -> list[str]:
    """What decides a label and is not the same in all versions of an expert, as this one has it."""
    told = []
    all_facts = [_facts(version) for version in versions]
    for name, value in _facts(card).items():
        if any(facts.get(name) != value for facts in all_facts):
            told.append(f"{name}={value}")
    absent = {name for facts in all_facts for name in facts} - _facts(card).keys()
    return told + sorted(f"no {name}" for name in absent)


def _facts(card: ExpertCard) -> dict[str, str]:
    facts = {"network": card.network, "revision": card.revision}
    facts |= {f"{weights.file}": (weights.sha256 or "")[:10] for weights in card.weights}
    facts |= card.preprocessing | card.processing
    spec = card.spec.model_dump(mode="json")
    names = spec.pop("class_names")
    facts |= {name: value for name, value in spec.items() if value is not None}
    if names:
        facts["classes"] = f"{len(names)} ({hashlib.sha256(json.dumps(names).encode()).hexdigest()[:6]})"
    return {name: str(value) for name, value in facts.items()}


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
    total = Counter[str]()
    reasons = Counter[str]()
    seconds = Seconds()
    size = damaged = 0

    def read(index: int) -> tuple[Receipt, Rows] | None:
        shard = store.plan.shard(index)
        try:
            receipt = store.receipt(about.column, shard)
            if not shard.dropped:
                return receipt, receipt.rows
            # The receipt counts dropped images as well.
            with store.read(about.column, shard, receipt) as cell:
                return receipt, Rows.count((row["status"], row["reason"]) for row in cell.rows)
        except StoreError:
            return None

    with ThreadPoolExecutor(READERS, thread_name_prefix="status") as pool:
        for few in (committed[at : at + _AT_ONCE] for at in range(0, len(committed), _AT_ONCE)):
            for found in pool.map(read, few):
                if found is None:
                    damaged += 1
                    continue
                receipt, rows = found
                total.update(ok=rows.ok, empty=rows.empty, failed=rows.failed)
                reasons.update(rows.reasons)
                seconds.add(receipt.seconds)
                size += receipt.stored
    summed = Rows(**total, reasons=dict(reasons.most_common()))
    read_in = {"rows": summed, "bytes": size, "seconds": seconds, "damaged": damaged}
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
