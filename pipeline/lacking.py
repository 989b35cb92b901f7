"""Which cells are still to be filled, and which hold rows that failed: what a job asks a store before it begins."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.plan import Shard
from pipeline.store import LabelStore


def missing_cells(store: LabelStore, columns: list[str]) -> Iterator[tuple[Shard, list[str]]]:
    """Every shard that lacks a cell of ``columns``, with the columns it lacks; a shard without images lacks nothing."""
    committed = {column: store.committed(column) for column in columns}
    for shard in store.plan.shards():
        lacking = [column for column in columns if shard.index not in committed[column]]
        if lacking and len(shard):
            yield shard, lacking


def failed_cells(store: LabelStore, columns: list[str]) -> Iterator[tuple[Shard, list[str]]]:
    """Every shard that has committed cells of ``columns`` with failed rows, with those columns. Reads their receipts."""
    committed = {column: store.committed(column) for column in columns}
    for shard in store.plan.shards():
        having = [c for c in columns if shard.index in committed[c] and has_failures(store, c, shard)]
        if having:
            yield shard, having


def has_failures(store: LabelStore, column: str, shard: Shard) -> bool:
    """Whether a committed cell has failed rows of images that are there."""
    receipt = store.receipt(column, shard)
    if not receipt.rows.failed or not shard.dropped:
        return receipt.rows.failed > 0
    with store.read(column, shard, receipt) as cell:
        return any(row["status"] == "failed" for row in cell.rows)
