"""`expert-labels grow`: what a store lacks of the images that its job asks for now, and taking it over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jobs.job import Job
from jobs.planning import asked_for, asks_for_the_same, check_cut, sources_of
from manifests.build import RejectionCount
from pipeline.difference import Difference, difference
from pipeline.growing import grow as take_over
from pipeline.store import LabelStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """What `grow` found and did. ``images``, ``shards``: of the store, (before, after); after a dry run both are as before."""

    store: str
    found: Difference
    rejections: tuple[RejectionCount, ...]
    images: tuple[int, int]
    shards: tuple[int, int]
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "dry_run": self.dry_run,
            "differs": not self.found.nothing,
            "counts": self.found.counts,
            "examples": self.found.examples,
            "under_another_id": int(self.found.renamed_N.sum()),
            "captions_left": self.found.captions_left,
            "images": dict(zip(("before", "after"), self.images, strict=True)),
            "shards": dict(zip(("before", "after"), self.shards, strict=True)),
        }

    def lines(self) -> list[str]:
        found = self.found
        lines = [f"{self.store}: {self.images[0]} images; the job asks for {found.images}"]
        for word, count in found.counts.items():
            if count:
                few = found.examples.get(word, [])
                lines.append(f"  {count:,} {word}: {', '.join(few)}{', ...' if count > len(few) else ''}")
        if found.renamed_N.any():
            lines.append(f"  {int(found.renamed_N.sum()):,} stand there under another id, which they keep")
        if found.captions_left:
            lines.append(
                f"  {found.captions_left:,} with other captions, which stay as they are: the store has scores for the old ones"
            )
        if found.nothing:
            return [*lines, "the same images: nothing to take over"]
        if self.dry_run:
            return [*lines, "nothing was changed; the same command without --dry-run takes this over"]
        more = self.shards[1] - self.shards[0]
        lines.append(f"now {self.images[1]} images; {more} new shard(s), and no label was touched")
        if more:
            lines.append("run `expert-labels label` to label the new images")
        if found.restored:
            lines.append(
                "restored images that were not there when a cell was labelled: `expert-labels retry` asks for them"
            )
        return lines


def grow(job: Job, say: Callable[[str], None], *, dry_run: bool = False) -> Grown:
    """Holds the job's store against the job's images and, unless ``dry_run``, takes the difference over.

    Raises StoreError where there is no store, where it is cut otherwise than the job says, or where somebody else grew it in
    the meantime; JobError for images that cannot be found.
    """
    store = LabelStore.open(job.store)
    check_cut(job, store)
    say(
        f"{job.store}: reading {job.manifest or f'{len(job.images)} source(s)'} to compare with {store.plan.images} images"
    )
    after = store
    with asked_for(job) as (manifest, rejections):
        found = difference(store, manifest)
        # Without a difference there may still be something to remember: how the images are written in the job now.
        if not dry_run and not (found.nothing and asks_for_the_same(job, store)):
            after = take_over(store, manifest, found, sources=sources_of(job))
    return Grown(
        store=job.store,
        found=found,
        rejections=rejections,
        images=(store.plan.images, after.plan.images),
        shards=(len(store.plan), len(after.plan)),
        dry_run=dry_run,
    )
