"""What labelling costs: hours, money and bytes per expert for any number of images, from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.forecast import Forecast
from jobs.terminal import aligned, short_names, size
from pipeline.errors import JobError
from pipeline.status import status
from pipeline.store import LabelStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCost:
    """One column for so many images.

    ``seconds_per_image``: of a worker, as far as this expert kept it busy or waiting; ``gpus``: of such a worker, 0 where it
    needs none; ``measured_on``: images.
    """

    column: str
    images: int
    seconds_per_image: float
    bytes_per_image: float
    gpus: float
    measured_on: int

    @property
    def hours(self) -> float:
        """GPU-hours; hours of workers where these have no GPU."""
        return self.images * self.seconds_per_image / 3600 * (self.gpus or 1.0)

    @property
    def bytes(self) -> float:
        return self.images * self.bytes_per_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of all experts. ``price``: of one hour, in whatever money; None where none was given."""

    experts: tuple[ExpertCost, ...]
    price: float | None = None

    def to_json(self) -> dict[str, Any]:
        def told(hours: float, stored: float) -> dict[str, Any]:
            return {"hours": hours, "money": None if self.price is None else hours * self.price, "bytes": stored}

        about = ("column", "images", "seconds_per_image", "bytes_per_image", "gpus", "measured_on")
        each = [{key: getattr(cost, key) for key in about} | told(cost.hours, cost.bytes) for cost in self.experts]
        return {"price": self.price, "experts": each} | {
            "total": told(sum(cost.hours for cost in self.experts), sum(cost.bytes for cost in self.experts))
        }

    def lines(self) -> list[str]:
        if not self.experts:
            return ["nothing is missing; --images says for how many images to forecast"]
        names = short_names([cost.column for cost in self.experts])
        table = [["expert", "images", "ms/image", "kB/image", "hours", "money", "size", "measured on"]]
        for cost in self.experts:
            each = [f"{1000 * cost.seconds_per_image:.1f}", f"{cost.bytes_per_image / 1000:.1f}"]
            of = [_hours(cost.hours), self._money(cost.hours), size(cost.bytes), f"{cost.measured_on} images"]
            table.append([names[cost.column], str(cost.images), *each, *of])
        hours = sum(cost.hours for cost in self.experts)
        stored = sum(cost.bytes for cost in self.experts)
        table.append(["all", "", "", "", _hours(hours), self._money(hours), size(stored), ""])
        with_gpu = [cost.gpus > 0 for cost in self.experts]
        unit = (
            "GPU-hours"
            if all(with_gpu)
            else "hours of a worker"
            if not any(with_gpu)
            else "GPU-hours where there is one"
        )
        return [*aligned(table), f"hours: {unit}; n of them at a time take an n-th of the time"]

    def _money(self, hours: float) -> str:
        return "-" if self.price is None else f"{hours * self.price:.2f}"


def costs_of_job(found: Forecast, *, images: int | None, price: float | None) -> Costs:
    """From a calibration on this machine. ``images``: for so many, else for those that are missing."""
    if images is not None and not found.columns:
        raise JobError(
            "the job's store lacks nothing, so nothing was measured; `expert-labels forecast STORE --images` tells from its receipts"
        )
    experts = [
        ExpertCost(
            column=column.column,
            images=column.images if images is None else images,
            seconds_per_image=column.seconds_per_image,
            bytes_per_image=column.bytes_per_image,
            gpus=column.gpus,
            measured_on=found.calibrated_on,
        )
        for column in found.columns
    ]
    return Costs(experts=tuple(experts), price=price)


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


def _hours(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 100 else f"{hours:.2f}"
