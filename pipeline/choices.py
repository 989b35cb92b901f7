"""What a job asks of a worker, as it travels to it: experts by name, packs of them, and units of work."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from expert_zoo.catalog import create
from expert_zoo.expert import Expert
from pipeline.labeller import Effort
from pipeline.plan import Shard


class ExpertChoice(BaseModel):
    """One expert as the job file names it; ``batch_size`` in place of the expert's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    use: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    batch_size: int | None = Field(None, ge=1)

    def create(self) -> Expert:
        return create(self.name, use=self.use, options=self.options)


class Pack(BaseModel):
    """Experts that share one actor, so that a photo is read and decoded once for all of them; and the pool of actors.

    ``cpus``, ``gpus``: of one actor. ``actors``: fewest and most of the pool.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    experts: tuple[ExpertChoice, ...]
    cpus: float = 1.0
    gpus: float = 0.0
    actors: tuple[int, int] = (1, 1)
    effort: Effort = Effort()


class Unit(BaseModel):
    """The cells of one shard that one pack is to fill."""

    model_config = ConfigDict(frozen=True)

    shard: Shard
    columns: tuple[str, ...]
