"""Drift: cells, and workers, whose labels look otherwise than the rest of their column. Reads receipts and no label.

A manifest is shuffled, so that the cells of one part of a store are samples of the same images: what differs between them is
chance, or a machine. For every number of the receipts' statistics, and for the shares of failed and empty rows and of the
classes that are frequent in most cells:

    usual     median of the cells of the same part of the store, or of the whole column where the part has fewer than MIN_CELLS
    spread    1.4826 x median distance from it, at least FLOOR of the number's scale: 1 for shares, scores and coverage, a map's own
              spread for its mean, else the usual value; for cells with n photos where others have m > n it is sqrt(m / n) wider
    z         (value - usual) / spread
    a cell differs      where |z| > LIMIT
    a group differs     (all cells of a host, a worker, or a version of a package, at least MIN_GROUP and not the whole column)
                        where |median z| >= 1 and |median z| x sqrt(cells) / 1.2533 > LIMIT: small shifts that all its cells share
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import StoreError
from pipeline.receipt import Receipt
from pipeline.store import LabelStore

LIMIT = 6.0
MIN_CELLS = 8
MIN_GROUP = 3
FLOOR = 0.005
_READERS = 16
_AT_ONCE = 1024
_SHARES = ("constant", "not_finite", "failed", "empty", "coverage", "score")
_SE_OF_MEDIAN = 1.2533
_TINY = 1e-9


class Differing(BaseModel):
    """One number that is not as usual. Of a group ``value`` is the median over its cells and ``z`` their median z."""

    model_config = ConfigDict(frozen=True)

    number: str
    value: float
    usual: float
    z: float


class Drift(BaseModel):
    """One cell (``shard``) or one group of cells that differs, the most differing number first.

    ``who``: the cell's "host, worker", or what the group has in common. ``cells``: how many, 1 for a cell.
    """

    model_config = ConfigDict(frozen=True)

    column: str
    shard: int | None
    who: str
    cells: int
    numbers: list[Differing]


class DriftReport(BaseModel):
    """``compared``: cells; ``without``: cells whose receipts are older than statistics, or cannot be read. ``too_few``: columns
    with fewer than MIN_CELLS cells to compare, about which nothing is said.
    """

    columns: list[str]
    compared: int = 0
    without: int = 0
    too_few: list[str] = Field(default_factory=list)
    groups: list[Drift] = Field(default_factory=list)
    cells: list[Drift] = Field(default_factory=list)


class _Cell(NamedTuple):
    shard: int
    part: int
    rows: int
    host: str
    worker: str
    packages: tuple[str, ...]
    numbers: dict[str, float]
    classes: dict[str, float]


def drift(
    store: LabelStore, *, columns: Sequence[str] | None = None, progress: Callable[[int, int], None] | None = None
) -> DriftReport:
    """Compares the committed cells of ``columns`` (default: all) with each other, column by column.

    Raises StoreError for a column that is not there.
    """
    chosen = [store.column_of(name) for name in columns] if columns is not None else list(store.columns())
    report = DriftReport(columns=chosen)
    total = sum(len(store.committed(column)) for column in chosen)
    for column in chosen:
        cells: list[_Cell] = []
        for cell in _cells(store, column):
            if cell is None:
                report.without += 1
            else:
                cells.append(cell)
                report.compared += 1
            if progress is not None:
                progress(report.compared + report.without, total)
        if len(cells) < MIN_CELLS:
            report.too_few.append(column)
            report.compared -= len(cells)
            continue
        _judge(column, cells, report)
    return report


def _cells(store: LabelStore, column: str) -> Iterator[_Cell | None]:
    parts = {part.first: number for number, part in enumerate(store.plan.parts)}

    def read(index: int) -> _Cell | None:
        try:
            receipt = store.receipt(column, store.plan.shard(index))
        except StoreError:  # damaged, which is for an audit to tell
            return None
        return _cell(receipt, parts[store.plan.part(index).first])

    committed = sorted(store.committed(column))
    with ThreadPoolExecutor(_READERS, thread_name_prefix="drift") as pool:
        for at in range(0, len(committed), _AT_ONCE):
            yield from pool.map(read, committed[at : at + _AT_ONCE])


def _cell(receipt: Receipt, part: int) -> _Cell | None:
    rows = len(receipt.rows)
    if receipt.statistics is None or not rows:
        return None
    shares = {"failed": receipt.rows.failed / rows, "empty": receipt.rows.empty / rows}
    return _Cell(
        shard=receipt.shard,
        part=part,
        rows=rows,
        host=receipt.host,
        worker=receipt.worker,
        packages=tuple(f"{name} {version}" for name, version in receipt.packages.items()),
        numbers=shares | receipt.statistics.numbers,
        classes=receipt.statistics.classes,
    )


def _judge(column: str, cells: list[_Cell], report: DriftReport) -> None:
    values = _values(cells)
    usual: dict[str, NDArray[np.float64]] = {}
    scores: dict[str, NDArray[np.float64]] = {}
    for name, values_N in values.items():
        usual[name] = np.full(len(cells), np.nan)
        scores[name] = np.zeros(len(cells))
        for members_N in _references(cells, values_N):
            spreads_N = values.get(name.replace("mean", "spread")) if name.startswith("mean") else None
            middle, z_N = _robust_z(name, values_N, members_N, spreads_N, np.array([cell.rows for cell in cells]))
            usual[name][members_N] = middle
            scores[name][members_N] = z_N
    told: set[tuple[str, frozenset[int]]] = set()
    for who, members in _groups(cells):
        numbers = []
        for name, z_N in scores.items():
            here = [m for m in members if np.isfinite(usual[name][m])]
            z = float(np.median(z_N[here])) if len(here) >= MIN_GROUP else 0.0
            key = (name, frozenset(members))
            if abs(z) >= 1 and abs(z) * math.sqrt(len(here)) / _SE_OF_MEDIAN > LIMIT and key not in told:
                told.add(key)
                value, middle = np.median(values[name][here]), np.median(usual[name][here])
                numbers.append(Differing(number=name, value=float(value), usual=float(middle), z=round(z, 1)))
        if numbers:
            report.groups.append(Drift(column=column, shard=None, who=who, cells=len(members), numbers=_worst(numbers)))
    for at, cell in enumerate(cells):
        numbers = [
            Differing(
                number=name, value=float(values[name][at]), usual=float(usual[name][at]), z=round(float(z_N[at]), 1)
            )
            for name, z_N in scores.items()
            if abs(z_N[at]) > LIMIT
        ]
        if numbers:
            who = ", ".join(filter(None, (cell.host, cell.worker)))
            report.cells.append(Drift(column=column, shard=cell.shard, who=who, cells=1, numbers=_worst(numbers)))


def _values(cells: list[_Cell]) -> dict[str, NDArray[np.float64]]:
    """Every number of all cells, NaN where a cell does not have it."""
    names = sorted({name for cell in cells for name in cell.numbers})
    found = {name: np.array([cell.numbers.get(name, np.nan) for cell in cells]) for name in names}
    held: dict[str, int] = defaultdict(int)
    for cell in cells:
        for name in cell.classes:
            held[name] += 1
    for name in sorted(name for name, times in held.items() if 2 * times > len(cells)):
        # A cell whose most frequent eight are others has little of it, but for cells without any object.
        found[f"class {name}"] = np.array([cell.classes.get(name, 0.0) if cell.classes else np.nan for cell in cells])
    return found


def _references(cells: list[_Cell], values_N: NDArray[np.float64]) -> Iterator[NDArray[np.int64]]:
    """Cells to compare with one another: those of one part; those of parts with too few all together."""
    there_N = np.isfinite(values_N)
    part_N = np.array([cell.part for cell in cells])
    small: list[int] = []
    for part in sorted(set(part_N.tolist())):
        members_N = np.flatnonzero(there_N & (part_N == part))
        if len(members_N) >= MIN_CELLS:
            yield members_N
        else:
            small += members_N.tolist()
    if len(small) >= MIN_CELLS:
        yield np.array(small)


def _robust_z(
    name: str,
    values_N: NDArray[np.float64],
    members_N: NDArray[np.int64],
    spreads_N: NDArray[np.float64] | None,
    rows_N: NDArray[np.int64],
) -> tuple[float, NDArray[np.float64]]:
    own_N = values_N[members_N]
    middle = float(np.median(own_N))
    scale = abs(middle)
    if name in _SHARES or name.startswith("class "):
        scale = 1.0
    elif spreads_N is not None:
        scale = max(scale, float(np.nanmedian(spreads_N[members_N])))
    spread = max(1.4826 * float(np.median(np.abs(own_N - middle))), FLOOR * scale, _TINY)
    rows = rows_N[members_N]
    return middle, (own_N - middle) / (spread * np.sqrt(np.maximum(1.0, np.median(rows) / rows)))


def _groups(cells: list[_Cell]) -> Iterator[tuple[str, list[int]]]:
    """What some cells have in common and others have not, the coarser first."""
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    for at, cell in enumerate(cells):
        groups[0, f"host {cell.host}"].append(at)
        if cell.worker:
            groups[1, f"host {cell.host}, {cell.worker}"].append(at)
        for package in cell.packages:
            groups[2, package].append(at)
    for (_, who), members in sorted(groups.items()):
        if MIN_GROUP <= len(members) < len(cells):
            yield who, members


def _worst(numbers: list[Differing]) -> list[Differing]:
    return sorted(numbers, key=lambda differing: -abs(differing.z))
