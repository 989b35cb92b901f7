"""Scenes: photos rendered here, with captions and exact ground truth; nothing is read from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from manifests.record import ImageRecord, Rejection, batched, fold


class Scenes(BaseModel):
    """Rendered scenes number ``start`` to ``start + count - 1`` of a seed; ``size``: height and width in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["scenes"] = "scenes"
    count: int = Field(gt=0)
    seed: int = Field(ge=0, lt=10**18)
    start: int = Field(default=0, ge=0, lt=10**17)
    size: int = Field(default=256, ge=32, le=2048)
    name: str = Field(default="scenes", min_length=1)
    split: str = ""

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """One record per scene, by number."""
        return batched(self._records())

    def _records(self) -> Iterator[ImageRecord]:
        from manifests.scenes import captions, sample_world, scene_uri

        for index in range(self.start, self.start + self.count):
            yield ImageRecord(
                image_id=f"scene_{self.seed}_{index:06d}",
                source=self.name,
                uri=scene_uri(self.seed, index, self.size),
                width=self.size,
                height=self.size,
                captions=tuple(fold(caption) for caption in captions(sample_world(self.seed, index, self.size))),
                split=self.split,
            )
