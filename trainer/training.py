"""Training: the part of a recipe that the loop reads, the same for every method; and what of a recipe may change on the way.

Every number that decides the weights stands in it; how many machines do the work does not, so that the same recipe trains the
same on one GPU and on sixty-four.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.errors import CheckpointError, RecipeError

Precision = Literal["fp32", "bf16", "fp16"]
Sharding = Literal["ddp", "zero2", "zero3"]
_Share = Annotated[float, Field(ge=0, lt=1)]
_Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerChoice(Section):
    """AdamW. decay: ``all`` parameters, as Prismer's authors do, or only ``matrices``: neither norms nor biases. clip: longest
    gradient; null: as long as it is."""

    betas: tuple[_Share, _Share] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0, allow_inf_nan=False)
    weight_decay: _Rate = 0.05
    decay: Literal["all", "matrices"] = "all"
    clip: float | None = Field(None, gt=0, allow_inf_nan=False)


class ScheduleChoice(Section):
    """The learning rate: from ``start`` to ``peak`` in ``warm_up`` steps, then a cosine down to ``least``, step by step."""

    peak: float = Field(gt=0, allow_inf_nan=False)
    least: _Rate = 0.0
    warm_up: int = Field(0, ge=0)
    start: _Rate = 0.0

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if max(self.least, self.start) > self.peak:
            raise ValueError(
                f"start {self.start:g}, peak {self.peak:g}, least {self.least:g}; expected none above the peak"
            )
        return self


class BatchChoice(Section):
    """``size``: samples per optimizer step, of all ranks and micro-batches together. ``most_per_rank``: as many as fit a device
    at once; what is more is accumulated."""

    size: int = Field(gt=0)
    most_per_rank: int = Field(gt=0)


class Best(Section):
    """The metric of the evaluation whose best checkpoint is kept beside the latest ones."""

    metric: str
    higher: bool = True


class CheckpointChoice(Section):
    """every: steps. keep: of the latest. frozen: false leaves out what is not trained, where it comes from files of its own."""

    every: int = Field(1000, gt=0)
    keep: int = Field(2, gt=0)
    best: Best | None = None
    frozen: bool = True


class LogChoice(Section):
    """every: steps between two lines."""

    every: int = Field(20, gt=0)
    tensorboard: bool = True


class Training(Section):
    """How to train, whatever is trained.

    seed            of everything that is drawn
    epochs, steps   how long: one of the two
    skip_bad_steps  how many steps whose loss or gradients are not finite are left out before the run is given up
    compute         device, sharding (see sharding.py), gradient_checkpointing, compile and deterministic: how, not what
    start_from      a checkpoint or run whose weights to begin with
    evaluate_every  steps between two evaluations; null: only at the end, if there is one
    """

    seed: int = 42
    epochs: int | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    batch: BatchChoice
    schedule: ScheduleChoice
    optimizer: OptimizerChoice = OptimizerChoice()
    precision: Precision = "fp32"
    skip_bad_steps: int = Field(0, ge=0)
    start_from: str | None = Field(None, min_length=1)
    evaluate_every: int | None = Field(None, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    sharding: Sharding = "ddp"
    gradient_checkpointing: bool = False
    compile: bool = False
    deterministic: bool = False
    checkpoints: CheckpointChoice = CheckpointChoice()
    log: LogChoice = LogChoice()

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either `epochs` or `steps`")
        return self

    def total_steps(self, per_epoch: int) -> int:
        """Optimizer steps of the whole run. Raises RecipeError for one without a step, or that ends while warming up."""
        if per_epoch == 0:
            raise RecipeError(
                f"`batch.size`: there are fewer than {self.batch.size} images to train on; expected a batch of them at least"
            )
        steps = self.steps if self.steps is not None else (self.epochs or 0) * per_epoch
        if steps <= self.schedule.warm_up:
            raise RecipeError(
                f"`schedule.warm_up`: {self.schedule.warm_up} steps, and the run has {steps}; expected fewer than that"
            )
        return steps


#: Sections that say how and not what: a run may go on with others. What lies in a folder of embeddings is compared by itself.
FREE = (
    "device", "sharding", "gradient_checkpointing", "compile", "deterministic", "checkpoints", "log", "evaluate_every", "evaluation",
    "batch.most_per_rank", "data.store", "data.workers", "data.cache", "skip_bad_steps", "start_from",
    "method.embeddings",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Split:
    """How one global batch is done: ``size`` samples at once on each of ``ranks`` ranks, ``accumulated`` times."""

    size: int
    ranks: int
    accumulated: int

    @classmethod
    def of(cls, batch: BatchChoice, *, ranks: int) -> Split:
        """The fewest micro-batches that fit. Raises RecipeError where the ranks cannot share a batch equally."""
        each, rest = divmod(batch.size, ranks)
        if rest or not each:
            raise RecipeError(
                f"`batch.size`: {batch.size} samples for {ranks} ranks; expected a multiple of the number of ranks"
            )
        accumulated = next(n for n in range(1, each + 1) if each % n == 0 and each // n <= batch.most_per_rank)
        return cls(size=each // accumulated, ranks=ranks, accumulated=accumulated)

    def __str__(self) -> str:
        return f"{self.size * self.ranks * self.accumulated} = {self.size} per rank x {self.ranks} rank(s) x {self.accumulated} accumulated"


def check_same(recipe: dict[str, Any], begun: dict[str, Any], *, where: str) -> list[str]:
    """Raises CheckpointError where ``recipe`` would not go on with what was ``begun``. Returns a line for each other change."""
    notes = []
    now, then = _flat(recipe), _flat(begun)
    for key in sorted({*now, *then}):
        if now.get(key) == then.get(key):
            continue
        change = f"`{key}` is {now.get(key)!r}; {where} was trained with {then.get(key)!r}"
        if not any(key == free or key.startswith(f"{free}.") for free in FREE):
            raise CheckpointError(
                f"{change}: expected the same recipe to go on; give the run another folder, with `start_from` for its weights"
            )
        notes.append(change)
    return notes


def _flat(section: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found
