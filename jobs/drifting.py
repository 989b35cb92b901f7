"""`expert-labels audit --drift`: what it says of workers and shards whose labels look otherwise than their column."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jobs.terminal import show
from pipeline.drift import LIMIT, MIN_CELLS, Differing, Drift, drift
from pipeline.store import LabelStore

#: Lines of a kind; --json has them all.
SHOWN = 20
#: Numbers of a cell or group that a line names.
NUMBERS = 3


def audit_drift(
    store: LabelStore, columns: Sequence[str] | None, progress: Callable[[int, int], None], as_json: bool
) -> int:
    """Says what differs; the exit code: 1 if anything does."""
    report = drift(store, columns=columns, progress=progress)
    lines = [
        f"{report.compared} cells of {len(report.columns)} column(s) compared: {len(report.groups)} worker(s), host(s) or "
        f"version(s) and {len(report.cells)} cell(s) differ by more than {LIMIT:g} robust standard deviations"
    ]
    if report.without:
        lines.append(f"{report.without} cells left out: their receipts have no statistics, or cannot be read")
    lines += [f"{column}: too few cells to compare, {MIN_CELLS} are needed" for column in report.too_few]
    lines += [f"{found.column}: {found.who} ({found.cells} cells): {_told(found)}" for found in report.groups[:SHOWN]]
    lines += [f"{found.column}/shard-{found.shard:06d} ({found.who}): {_told(found)}" for found in report.cells[:SHOWN]]
    more = max(0, len(report.groups) - SHOWN) + max(0, len(report.cells) - SHOWN)
    if more:
        lines.append(f"and {more} more (--json has them all)")
    show(lines, report.model_dump(mode="json"), as_json)
    return 1 if report.groups or report.cells else 0


def _told(found: Drift) -> str:
    return "; ".join(_number(number) for number in found.numbers[:NUMBERS])


def _number(number: Differing) -> str:
    return f"{number.number} {number.value:.4g}, usually {number.usual:.4g} (z {number.z:+.1f})"
