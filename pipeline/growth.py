"""What a store has taken in and dropped since it was planned: growth/0001.json and its successors, and the plan they make.

growth/0001.json                       one growth; written last, and once: of two at the same time one is there
growth/0001.<token>.manifest.parquet   the new images: a part of its own, cut into shards that go on where the last part ended
growth/0001.<token>.dropped.parquet    every image that is not in the store's input since then
growth/0001.<token>.changed.parquet    records in place of those in the parts' manifests, for images that moved and the like

The last growth's two lists hold; those of earlier ones are history. No cell is touched by any of this.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import json
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from manifests.record import SCHEMA
from pipeline.errors import StoreError
from pipeline.plan import Part, Shard, ShardPlan, short_digest
from pipeline.storage import Storage

FORMAT = 1
GROWTH = "growth"
NUMBERED = re.compile(r"(\d{4,})\.json")
DATA = re.compile(r"\d{4,}\.[0-9a-f]{12}\.(manifest|dropped|changed)\.parquet")

#: ``shard`` and ``row`` say where the image stands, ascending.
_PLACE = [pa.field("shard", pa.int32(), nullable=False), pa.field("row", pa.int32(), nullable=False)]
DROPPED_SCHEMA = pa.schema([*_PLACE, SCHEMA.field("image_id")])
CHANGED_SCHEMA = pa.schema([*_PLACE, *SCHEMA])


class GrowthFile(BaseModel):
    """One of a growth's files, in the folder `growth`. ``rows``: images in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int
    bytes: int
    sha256: str


class Growth(BaseModel):
    """What `growth/0001.json` holds.

    ``after``, ``plan``: plan fingerprint of the store before and with it. ``manifest``: of the new images, None where there are none, and
    ``fingerprint``, ``seed`` of that manifest. ``dropped``, ``changed``: as of now, not only what is new in them. ``input``:
    fingerprint of the manifest of all images that were asked for; ``sources``: the job file's ``images`` section.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    number: int = Field(gt=0)
    after: str
    plan: str = ""
    manifest: GrowthFile | None = None
    fingerprint: str = ""
    seed: int = 0
    dropped: GrowthFile | None = None
    changed: GrowthFile | None = None
    input: str
    sources: list[dict[str, object]] = Field(default_factory=list)
    grown_at: str

    @property
    def files(self) -> list[GrowthFile]:
        return [file for file in (self.manifest, self.dropped, self.changed) if file is not None]


class GrownPlan(ShardPlan):
    """The plan of a store that has grown: it answers as a ShardPlan does, for all its parts.

    ``first``: the plan in store.json. ``images``: those that are there; ``sources``: as they were asked for last.
    """

    first: ShardPlan
    growths: tuple[Growth, ...]
    _dropped_D: NDArray[np.int64] = PrivateAttr()

    @classmethod
    def of(cls, first: ShardPlan, growths: tuple[Growth, ...], dropped_D: NDArray[np.int64]) -> GrownPlan:
        """dropped_D: places (shard * shard_size + row) of the images that were taken out, ascending."""
        rows = first.images + sum(growth.manifest.rows for growth in growths if growth.manifest)
        fields = first.model_dump() | {"images": rows - len(dropped_D), "sources": growths[-1].sources}
        if rows == len(dropped_D):
            raise StoreError("every image of the store is dropped; expected one or more")
        plan = cls(**fields, first=first, growths=growths)
        plan._dropped_D = dropped_D
        return plan

    @property
    def dropped_D(self) -> NDArray[np.int64]:
        """Places (shard * shard_size + row) of the images that were taken out, ascending."""
        return self._dropped_D

    @functools.cached_property
    def _parts(self) -> tuple[Part, ...]:
        parts = list(self.first.parts)
        for growth in self.growths:
            if growth.manifest is None:
                continue
            first, images = parts[-1].first + len(parts[-1]), growth.manifest.rows
            parts.append(
                Part(
                    file=f"{GROWTH}/{growth.manifest.name}",
                    manifest=growth.fingerprint,
                    images=images,
                    first=first,
                    shard_size=self.shard_size,
                    fingerprint=short_digest(
                        [growth.format, growth.fingerprint, images, self.shard_size, growth.seed, first]
                    ),
                    receipt_format=2,
                )
            )
        return tuple(parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        return self._parts

    @functools.cached_property
    def _fingerprint(self) -> str:
        if len(self.parts) == 1 and not len(self._dropped_D):
            return self.first.fingerprint
        dropped = hashlib.sha256(self._dropped_D.astype("<i8").tobytes()).hexdigest() if len(self._dropped_D) else ""
        return short_digest([*(part.fingerprint for part in self.parts), dropped])

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def input(self) -> str:
        return self.growths[-1].input

    @property
    def files(self) -> list[GrowthFile]:
        """The files that are needed: the manifests of all growths, and the lists of the last."""
        earlier = [growth.manifest for growth in self.growths[:-1] if growth.manifest is not None]
        return earlier + self.growths[-1].files

    @property
    def out_of_date(self) -> set[str]:
        """Names of the lists of earlier growths, which only those read who opened the store before the last."""
        return {file.name for growth in self.growths for file in growth.files} - {file.name for file in self.files}

    @property
    def changed(self) -> GrowthFile | None:
        """The list of changed records that holds."""
        return self.growths[-1].changed

    def part(self, index: int) -> Part:
        return self.parts[bisect.bisect_right(self.parts, index, key=lambda part: part.first) - 1]

    def __len__(self) -> int:
        return self.parts[-1].first + len(self.parts[-1])

    def shard(self, index: int) -> Shard:
        assert 0 <= index < len(self), f"shard {index} of {len(self)}"
        part = self.part(index)
        start = (index - part.first) * self.shard_size
        return Shard(
            index=index,
            start=start,
            stop=min(start + self.shard_size, part.images),
            dropped=tuple(self._dropped_in(index).tolist()) if len(self._dropped_D) else (),
        )

    def _dropped_in(self, index: int) -> NDArray[np.int64]:
        place = index * self.shard_size
        low, high = np.searchsorted(self._dropped_D, (place, place + self.shard_size))
        return self._dropped_D[low:high] - place

    def images_of(self, shards: set[int]) -> int:
        rows = len(shards) * self.shard_size
        for part in self.parts:
            if part.first + len(part) - 1 in shards:
                rows -= self.shard_size - part.last_rows
        if len(self._dropped_D):
            rows -= int(np.isin(self._dropped_D // self.shard_size, np.fromiter(shards, np.int64, len(shards))).sum())
        return rows


def grown(storage: Storage, first: ShardPlan) -> ShardPlan:
    """The plan as it is now: ``first`` itself where the store has never grown.

    Raises StoreError where a growth is missing, of another store or of a later format.
    """
    growths = tuple(_growths(storage))
    if not growths:
        return first
    before = first.fingerprint
    for growth in growths:
        if growth.after != before:
            raise _strange(storage, growth, f"grows plan {growth.after}; expected {before}")
        before = growth.plan
    plan = GrownPlan.of(first, growths, read_dropped(storage, growths[-1], first.shard_size))
    if plan.fingerprint != before:
        raise _strange(storage, growths[-1], f"is of plan {before}; its files make {plan.fingerprint}")
    return plan


def _strange(storage: Storage, growth: Growth, what: str) -> StoreError:
    return StoreError(
        f"{storage.url}/{GROWTH}/{growth.number:04d}.json {what}: it came from another store or was changed; restore the folder "
        f"{GROWTH}"
    )


def _growths(storage: Storage) -> Iterator[Growth]:
    found = sorted(int(match[1]) for match in map(NUMBERED.fullmatch, storage.names(GROWTH)) if match)
    if found != list(range(1, len(found) + 1)):
        raise StoreError(f"{storage.url}/{GROWTH} has the growths {found}; expected 1, 2, ...: restore what is missing")
    for number in found:
        name = f"{GROWTH}/{number:04d}.json"
        try:
            stated = json.loads(storage.read(name))
            if stated.get("format") != FORMAT:
                raise StoreError(
                    f"{storage.url}/{name} has format {stated.get('format')!r}; this version knows {FORMAT}: use the version of "
                    "expert-labels that wrote it"
                )
            growth = Growth.model_validate(stated, extra="ignore")
        except (ValueError, AttributeError, ValidationError, RecursionError) as error:
            raise StoreError(f"{storage.url}/{name} is not a growth: {error}") from error
        if growth.number != number:
            raise StoreError(f"{storage.url}/{name} is growth {growth.number}; expected {number}: it was renamed")
        yield growth


def read_dropped(storage: Storage, growth: Growth, shard_size: int) -> NDArray[np.int64]:
    """Places of the images that a growth lists as dropped, ascending. StoreError where its file cannot be read."""
    if growth.dropped is None:
        return np.zeros(0, np.int64)
    name = f"{GROWTH}/{growth.dropped.name}"
    try:
        with storage.open(name) as stream:
            table = pq.read_table(stream, columns=["shard", "row"])
    except (FileNotFoundError, ValueError, OSError) as error:
        raise StoreError(f"cannot read {storage.url}/{name}: {error}; restore it") from error
    if len(table) != growth.dropped.rows:
        raise StoreError(f"{storage.url}/{name} has {len(table)} rows; expected {growth.dropped.rows}: restore it")
    return table["shard"].to_numpy().astype(np.int64) * shard_size + table["row"].to_numpy()
