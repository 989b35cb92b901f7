"""What a labelling run did, added up cell by cell, and the table that tells it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from jobs.terminal import aligned
from pipeline.filling import CellResult
from pipeline.receipt import DROPPED, Seconds

SHOWN_REASONS = 5


@dataclass
class ColumnSummary:
    """One column in one run.

    ``asked``: cells to fill (or, in a retry, to mend); ``left`` as they were: another job had committed them, or a retry
    mended nothing. ``images``: of the committed cells; ``dropped``: those among them that are not in the input any more; ``labelled``: rows that this run asked the expert for.
    """

    asked: int = 0
    committed: int = 0
    left: int = 0
    images: int = 0
    labelled: int = 0
    refused: list[str] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    bytes: int = 0
    seconds: Seconds = field(default_factory=Seconds)


@dataclass
class Summary:
    """One run. ``start_up``: seconds until the first worker began its first unit; ``working``: from then to the end."""

    columns: dict[str, ColumnSummary]
    start_up: float = 0.0
    working: float = 0.0
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        """Whether every cell that was asked for is committed now."""
        return all(column.asked == column.committed + column.left for column in self.columns.values())

    def add(self, result: CellResult) -> None:
        column = self.columns[result.column]
        column.labelled += result.labelled
        column.seconds.add(result.seconds)
        if result.refused:
            column.refused.append(result.refused)
        elif result.receipt is None:
            column.left += 1
        else:
            receipt = result.receipt
            rows = receipt.rows
            column.committed += 1
            column.images += result.images
            column.bytes += receipt.stored
            column.rows.update({"ok": rows.ok, "empty": rows.empty, "failed": rows.failed - rows.dropped})
            column.reasons.update({reason: count for reason, count in rows.reasons.items() if reason != DROPPED})
            column.dropped += rows.dropped

    def to_json(self) -> dict[str, Any]:
        return {
            "complete": self.complete,
            "interrupted": self.interrupted,
            "seconds": {"start_up": round(self.start_up, 3), "working": round(self.working, 3)},
            "columns": {
                name: {
                    "cells": {"asked": c.asked, "committed": c.committed, "left": c.left, "refused": len(c.refused)},
                    "refused": c.refused,
                    "rows": dict(c.rows),
                    "reasons": dict(c.reasons),
                    "dropped": c.dropped,
                    "bytes": c.bytes,
                    "seconds": {phase: round(value, 3) for phase, value in c.seconds.model_dump().items()},
                }
                for name, c in self.columns.items()
            },
        }

    def lines(self) -> list[str]:
        """The summary for a terminal: statuses and sizes per expert, reasons, and where the workers' seconds went."""
        worked = {name: column for name, column in self.columns.items() if column.asked}
        if not worked:
            return []
        table = [["expert", "cells", "ok", "empty", "failed", "kB/image", "compute", "encode", "write"]]
        for name, column in worked.items():
            rows = [str(column.rows[status]) for status in ("ok", "empty", "failed")]
            stored = f"{column.bytes / 1000 / column.images:.1f}" if column.images else "-"
            seconds = [
                f"{value:.1f}s" for value in (column.seconds.compute, column.seconds.encode, column.seconds.write)
            ]
            table.append([name.split("@")[0], f"{column.committed}/{column.asked}", *rows, stored, *seconds])
        lines = aligned(table)
        reasons: Counter[str] = Counter()
        for column in worked.values():
            reasons.update(column.reasons)
        if reasons:
            counts = ", ".join(f"{times} x {reason}" for reason, times in reasons.most_common(SHOWN_REASONS))
            lines.append(f"reasons, counted in the rows of all experts: {counts}")
        dropped = max(column.dropped for column in worked.values())
        if dropped:
            lines.append(f"{dropped} image(s) are not in the input any more: nobody was asked for their labels")
        left = sum(column.left for column in worked.values())
        if left:
            lines.append(
                f"{left} cells stayed as they were: another job had committed them, or nothing in them was mended"
            )
        for column in worked.values():
            lines += [f"refused: {refusal}" for refusal in column.refused[:SHOWN_REASONS]]
        reading = sum(column.seconds.read for column in worked.values())
        waiting = sum(column.seconds.wait for column in worked.values())
        labels = sum(column.labelled for column in worked.values())
        rate = f", {labels / self.working:.1f} labels/s" if self.working and labels else ""
        lines.append(f"reading photos {reading:.1f}s beside the models, models waiting for them {waiting:.1f}s")
        return [*lines, f"start-up {self.start_up:.1f}s, labelling {self.working:.1f}s{rate}"]
