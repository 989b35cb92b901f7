"""ShardPlan: one manifest cut into contiguous shards, once. Another shard size is another store; a store may grow by parts."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 1
#: 512 photos with six maps at 480 px are about 150 MB of files and minutes of GPU time: little to lose, little to list.
SHARD_SIZE = 512
#: Of one manifest. Arrow reads no Parquet footer with more row groups (kDefaultThriftContainerSizeLimit in its parquet/properties.h).
MOST_SHARDS = 1_000_000
#: The manifest of the part that a store begins with.
MANIFEST = "manifest.parquet"


class Shard(BaseModel):
    """Rows ``start`` to ``stop`` (exclusive) of its part's manifest. ``len()`` counts the images that are there.

    ``dropped``: rows of the shard, from 0, whose images were taken out of the store. Its cells have rows for them too, which
    nobody is shown: ``rows`` counts these as well.
    """

    model_config = ConfigDict(frozen=True)

    index: int
    start: int
    stop: int
    dropped: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.rows - len(self.dropped)

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def kept(self) -> list[int]:
        """Rows of the images that are there."""
        gone = set(self.dropped)
        return [row for row in range(self.rows) if row not in gone]

    @property
    def name(self) -> str:
        return shard_name(self.index)


def shard_name(index: int) -> str:
    return f"shard-{index:06d}"


class Part(BaseModel):
    """Images that came to the store together: the manifest ``file``, cut into shards from ``first`` on.

    ``fingerprint``: what the receipts of its cells quote; ``receipt_format``: which number they have.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    manifest: str
    images: int
    first: int
    shard_size: int
    fingerprint: str
    receipt_format: int

    def __len__(self) -> int:
        return -(-self.images // self.shard_size)

    @property
    def last_rows(self) -> int:
        """Rows of its last shard, which may be shorter than the others."""
        return self.images - (len(self) - 1) * self.shard_size


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
        return short_digest([self.format, self.manifest, self.images, self.shard_size, self.seed])

    @property
    def parts(self) -> tuple[Part, ...]:
        """In the order of their shards."""
        return (self._whole,)

    @functools.cached_property
    def _whole(self) -> Part:
        return Part(
            file=MANIFEST,
            manifest=self.manifest,
            images=self.images,
            first=0,
            shard_size=self.shard_size,
            fingerprint=self.fingerprint,
            receipt_format=1,
        )

    @property
    def input(self) -> str:
        """Fingerprint of the manifest of all images that were asked for last."""
        return self.manifest

    def part(self, index: int) -> Part:
        """The part that has the shard of that number."""
        return self.parts[0]

    def __len__(self) -> int:
        return -(-self.images // self.shard_size)

    def shard(self, index: int) -> Shard:
        assert 0 <= index < len(self), f"shard {index} of {len(self)}"
        start = index * self.shard_size
        return Shard(index=index, start=start, stop=min(start + self.shard_size, self.images))

    def shards(self) -> Iterator[Shard]:
        return (self.shard(index) for index in range(len(self)))

    def images_of(self, shards: set[int]) -> int:
        """Images in the shards of these numbers."""
        last = len(self) - 1
        return len(shards) * self.shard_size - (self.shard_size - len(self.shard(last)) if last in shards else 0)

    def difference(self, found: ShardPlan) -> str:
        """What this plan asks for otherwise than the one that was ``found``."""
        names = ("manifest", "images", "shard_size", "seed")
        changed = [name for name in names if getattr(found, name) != getattr(self, name)]
        return ", ".join(f"{name} {getattr(found, name)} there, {getattr(self, name)} asked" for name in changed)


def short_digest(decisive: list[object]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the JSON."""
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]
