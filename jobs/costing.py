"""What labelling costs: hours, money and bytes per expert for any number of images, from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.terminal import aligned, duration, short_names, size
from pipeline.errors import JobError
from pipeline.status import status
from pipeline.store import LabelStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCost:
    """One column for so many images.

    ``seconds_per_image``: of a worker, as far as this expert kept it busy or waiting; ``gpus``: of such a worker, 0 where it
    needs none; ``measured_on``: images; ``cells``: that are missing, None where the number of images is anybody's.
    """

    column: str
    images: int
    seconds_per_image: float
    bytes_per_image: float
    gpus: float
    measured_on: int
    cells: int | None = None

    @property
    def hours(self) -> float:
        """GPU-hours; hours of workers where these have no GPU."""
        return self.images * self.seconds_per_image / 3600 * (self.gpus or 1.0)

    @property
    def bytes(self) -> float:
        return self.images * self.bytes_per_image

    def for_images(self, images: int) -> ExpertCost:
        """The same for any number of ``images``."""
        return replace(self, images=images, cells=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of all experts. ``price``: of one hour, in whatever money; None where none was given."""

    experts: tuple[ExpertCost, ...]
    price: float | None = None

    def to_json(self) -> dict[str, Any]:
        def told(hours: float, stored: float) -> dict[str, Any]:
            return {"hours": hours, "money": None if self.price is None else hours * self.price, "bytes": stored}

        about = ("column", "cells", "images", "seconds_per_image", "bytes_per_image", "gpus", "measured_on")
        each = [{key: getattr(cost, key) for key in about} | told(cost.hours, cost.bytes) for cost in self.experts]
        return {"price": self.price, "experts": each} | {
            "total": told(sum(cost.hours for cost in self.experts), sum(cost.bytes for cost in self.experts))
        }

    def lines(self) -> list[str]:
        if not self.experts:
            return ["nothing is missing; --images says for how many images to forecast"]
        names = short_names([cost.column for cost in self.experts])
        told = [
            {
                "expert": names[cost.column],
                "cells missing": "" if cost.cells is None else str(cost.cells),
                "images": str(cost.images),
                "ms/image": f"{1000 * cost.seconds_per_image:.1f}",
                "kB/image": f"{cost.bytes_per_image / 1000:.1f}",
                "time": _time(cost.hours),
                "money": self._money(cost.hours),
                "size": size(cost.bytes),
                "measured on": f"{cost.measured_on} images",
            }
            for cost in self.experts
        ]
        hours = sum(cost.hours for cost in self.experts)
        stored = sum(cost.bytes for cost in self.experts)
        total = {"expert": "all", "time": _time(hours), "money": self._money(hours), "size": size(stored)}
        heads = [head for head in told[0] if any(row[head] for row in told)]  # no money without a price
        table = [heads, *([row.get(head, "") for head in heads] for row in (*told, total))]
        with_gpu = [cost.gpus > 0 for cost in self.experts]
        unit = (
            "of one GPU"
            if all(with_gpu)
            else "of one worker"
            if not any(with_gpu)
            else "of one GPU, of one worker where it has none"
        )
        return [*aligned(table), f"time: {unit}; n of them take an n-th of it"]

    def _money(self, hours: float) -> str:
        return "" if self.price is None else f"{hours * self.price:.2f}"


def costs_of_store(
    store: LabelStore, *, images: int | None, price: float | None, gpus: float, columns: Sequence[str] | None = None
) -> Costs:
    """From the receipts of a store: what its workers took and wrote. ``gpus``: of one worker, which receipts do not tell.

    ``images``: for so many, else for those that are missing. Raises JobError where no cell of a column was ever committed.
    """
    wanted = None if columns is None else {store.column_of(name) for name in columns}
    experts = []
    for column in status(store, failures=True).columns:
        if wanted is not None and column.column not in wanted:
            continue
        many = store.plan.images - column.images if images is None else images
        measured = len(column.rows) if column.rows else 0
        if not many:
            continue
        if not measured or column.seconds is None or column.bytes is None:
            raise JobError(f"{store.storage.url} has no cell of {column.column} to measure; leave it out with --column")
        experts.append(
            ExpertCost(
                column=column.column,
                images=many,
                seconds_per_image=(column.seconds.wait + column.seconds.compute) / measured,
                bytes_per_image=column.bytes / measured,
                gpus=gpus,
                measured_on=measured,
            )
        )
    return Costs(experts=tuple(experts), price=price)


def _time(hours: float) -> str:
    """Up to any number of hours, which is what is paid for: 42 s, 3.5 min, 7.2 h, 1200 h."""
    return duration(3600 * hours) if hours < 10 else f"{hours:.0f} h"
