"""Telemetry: the numbers that a run tells while it runs, through Ray's metrics.

Nobody needs it: where Ray's metrics are off, numbers go nowhere, and what is true of a store stands in its receipts.
Counting takes a few microseconds a number, and happens once for each unit and not for each photo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.filling import CellResult
from pipeline.redaction import redacted

#: A reason is a label of a metric, and every new one is kept by the database for ever: beyond so many they are "other".
MOST_REASONS = 40
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Exported:
    """One metric, as Ray is told of it. Prometheus sees it as ``prometheus``."""

    name: str
    kind: Literal["counter", "gauge"]
    tags: tuple[str, ...]
    about: str

    @property
    def prometheus(self) -> str:
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"


IMAGES = Exported(
    "expert_labels_images", "counter", ("expert",), "Photos that an expert was asked about, failed ones too."
)
FAILURES = Exported("expert_labels_failures", "counter", ("expert", "reason"), "Photos that failed, by reason code.")
SECONDS = Exported(
    "expert_labels_seconds", "counter", ("expert", "phase"), "Seconds by phase: read, wait, compute, encode, write."
)
BYTES = Exported("expert_labels_bytes", "counter", ("expert",), "Bytes of committed cells.")
CELLS = Exported("expert_labels_cells", "counter", ("expert", "outcome"), "Cells by outcome: committed, refused, left.")
BATCH_SIZE = Exported("expert_labels_batch_size", "gauge", ("expert",), "Micro-batch in force in a worker.")
CELLS_ASKED = Exported("expert_labels_cells_asked", "gauge", ("expert",), "Cells that the run was to fill (driver).")
CELLS_DONE = Exported("expert_labels_cells_done", "gauge", ("expert",), "Cells dealt with so far in the run (driver).")
#: All of them. Besides its own tags each has ``store``.
METRICS = (IMAGES, FAILURES, SECONDS, BYTES, CELLS, BATCH_SIZE, CELLS_ASKED, CELLS_DONE)


class Telemetry:
    """The numbers of one process, worker or driver, of a run on the store at ``store_url``."""

    def __init__(self, store_url: str) -> None:
        self._store = redacted(store_url)
        self._reasons: set[str] = set()
        self._made: dict[str, Any] = {}

    def unit(self, results: Sequence[CellResult], batch_sizes: Mapping[str, int]) -> None:
        """A worker is done with a unit. ``batch_sizes``: in force now, by expert."""
        for result in results:
            expert = result.column.partition("@")[0]
            self._tell(CELLS, 1, expert=expert, outcome=result.outcome)
            self._tell(IMAGES, result.labelled, expert=expert)
            for reason, times in result.failures.items():
                self._tell(FAILURES, times, expert=expert, reason=self._bounded(reason))
            for phase, seconds in result.seconds.model_dump().items():
                self._tell(SECONDS, seconds, expert=expert, phase=phase)
            self._tell(BYTES, result.receipt.stored if result.receipt else 0, expert=expert)
        for expert, batch_size in batch_sizes.items():
            self._tell(BATCH_SIZE, batch_size, expert=expert)

    def cells(self, column: str, *, asked: int, done: int) -> None:
        """The driver knows how far a column of its run is."""
        expert = column.partition("@")[0]
        self._tell(CELLS_ASKED, asked, expert=expert)
        self._tell(CELLS_DONE, done, expert=expert)

    def _bounded(self, reason: str) -> str:
        if reason not in self._reasons and len(self._reasons) >= MOST_REASONS:
            return OTHER
        self._reasons.add(reason)
        return reason

    def _tell(self, metric: Exported, value: float, **tags: str) -> None:
        if metric.kind == "counter" and value <= 0:  # Ray refuses to add nothing
            return
        if metric.name not in self._made:
            from ray.util.metrics import Counter, Gauge

            make = Counter if metric.kind == "counter" else Gauge
            self._made[metric.name] = make(metric.name, metric.about, (*metric.tags, "store"))
        tags["store"] = self._store
        made = self._made[metric.name]
        if metric.kind == "counter":
            made.inc(value, tags)
        else:
            made.set(value, tags)
