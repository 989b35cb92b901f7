"""What must hold when a store is complete, wherever it lies and whatever happened to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.audit import audit, repair
from pipeline.golden import GOLDEN
from pipeline.store import ATTEMPTS, CARD, LabelStore
from tests.jobs_at_work import labels_of


@dataclass(frozen=True)
class Verdict:
    """``lost``: cells that are missing, damaged, doubled or other than in the undisturbed run. ``swept``: files that a sweep removed."""

    lost: int
    cells: int
    swept: int
    said: list[str]


def verdict(url: str, undisturbed: dict[str, list[dict[str, Any]]], twice: list[str]) -> Verdict:
    store = LabelStore.open(url)
    said = [f"{cell} was committed more than once" for cell in twice]
    report = audit(store, deep=True, grace_seconds=0)
    said += [f"audit: {finding}" for finding in report.findings]
    repairs = repair(store, report, grace_seconds=0)
    missing = 0
    for column in undisturbed:
        committed = store.committed(column)
        missing += len(store.plan) - len(committed)
        files = store.storage.names(store.folder(column))
        receipts = [name for name in files if name.startswith("shard-") and name.endswith(".json")]
        data = {
            entry.name
            for index in committed
            for receipt in [store.receipt(column, store.plan.shard(index))]
            for entry in (receipt.table, receipt.tar)
            if entry is not None
        }
        stray = set(files) - set(receipts) - data - {CARD, GOLDEN}
        if len(receipts) != len(committed) or stray:
            said.append(
                f"{column}: {len(receipts)} receipts, {len(committed)} cells; files that nobody names: {sorted(stray)[:5]}"
            )
    if missing:
        said.append(f"{missing} cells are missing")
    if left := store.storage.names(ATTEMPTS):
        said.append(f"left in {ATTEMPTS}: {left[:5]}")
    other = 0
    if not missing:
        found = labels_of(url)
        for column, rows in undisturbed.items():
            others = [row["image_id"] for row, mine in zip(rows, found.get(column, []), strict=False) if row != mine]
            other += len(others) + abs(len(rows) - len(found.get(column, [])))
            if others:
                said.append(f"{column}: {len(others)} labels are not those of the undisturbed run: {others[:5]}")
    cells = len(store.plan) * len(undisturbed)
    return Verdict(missing + len(report.findings) + len(twice) + other, cells, len(repairs.swept), said)
