"""ShardPlan: one manifest cut into contiguous shards, once. Another shard size is another store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 1
#: 512 photos with six maps at 480 px are about 150 MB of files and minutes of GPU time: little to lose, little to list.
SHARD_SIZE = 512


class Shard(BaseModel):
    """Rows ``start`` to ``stop`` (exclusive) of the manifest."""

    model_config = ConfigDict(frozen=True)

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        return shard_name(self.index)


def shard_name(index: int) -> str:
    return f"shard-{index:06d}"


class ShardPlan(BaseModel):
    """What `store.json` holds.

    ``manifest``: fingerprint of the manifest; ``images``: number of its rows; ``seed``: of its shuffle; ``sources``: the
    job file's ``images`` section that it was built from, so that a resume need not scan the sources again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    manifest: str
    images: int = Field(gt=0)
    shard_size: int = Field(gt=0)
    seed: int
    sources: list[dict[str, object]] = Field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Of all that decides which image stands in which row of which shard."""
        text = json.dumps([self.format, self.manifest, self.images, self.shard_size, self.seed])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return -(-self.images // self.shard_size)

    def shard(self, index: int) -> Shard:
        assert 0 <= index < len(self), f"shard {index} of {len(self)}"
        start = index * self.shard_size
        return Shard(index=index, start=start, stop=min(start + self.shard_size, self.images))

    def shards(self) -> Iterator[Shard]:
        return (self.shard(index) for index in range(len(self)))
