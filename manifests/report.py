"""What a build says of itself: how much of which source is in the manifest, and why the rest is not."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

from manifests.manifest import Manifest
from manifests.record import Rejection

#: How many examples of each kind of rejection a report keeps.
EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectionCount:
    """How much of one source was left out for one reason; ``examples``: up to five of what, first in the alphabet."""

    source: str
    reason: str
    count: int
    examples: tuple[str, ...]


class Tally:
    """Counts rejections by source and reason; which examples it keeps does not depend on the order they come in."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._examples: dict[tuple[str, str], list[str]] = {}

    def add(self, rejection: Rejection) -> None:
        self.extend(
            [
                RejectionCount(
                    source=rejection.source, reason=rejection.reason, count=rejection.count, examples=(rejection.what,)
                )
            ]
        )

    def extend(self, counts: Iterable[RejectionCount]) -> None:
        for found in counts:
            kind = (found.source, found.reason)
            self._counts[kind] = self._counts.get(kind, 0) + found.count
            examples = self._examples.setdefault(kind, [])
            for what in found.examples:
                if len(examples) < EXAMPLES or what < examples[-1]:
                    bisect.insort(examples, what)
                    del examples[EXAMPLES:]

    def counts(self) -> tuple[RejectionCount, ...]:
        return tuple(
            RejectionCount(source=source, reason=reason, count=count, examples=tuple(self._examples[source, reason]))
            for (source, reason), count in sorted(self._counts.items())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCount:
    """Images of one source. read = left_out + merged + images: left out by guards, as placeholders or unreadable; merged
    into a record that came before; in the manifest. What the source itself or a caption rule rejected was never read.
    ``captions``: of the images in the manifest, wherever they came from.
    """

    source: str
    read: int = 0
    left_out: int = 0
    merged: int = 0
    images: int = 0
    captions: int = 0

    def plus(self, other: SourceCount) -> SourceCount:
        assert self.source == other.source
        mine, its = asdict(self), asdict(other)
        return SourceCount(source=self.source, **{name: mine[name] + its[name] for name in mine if name != "source"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardCount:
    """One guard: how many keys it watches for, and how many images of which source it kept out."""

    guard: str
    keys: int
    kept_out: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What `manifests.build.build` did: the manifest, and one entry for each source, guard and kind of rejection."""

    manifest: Manifest
    sources: tuple[SourceCount, ...]
    guards: tuple[GuardCount, ...]
    rejections: tuple[RejectionCount, ...]

    @property
    def images(self) -> dict[str, int]:
        """How many images of each source are in the manifest."""
        return {source.source: source.images for source in self.sources}

    def as_json(self) -> dict[str, Any]:
        """The report for a file or a script: plain dicts and lists. The manifest's place is not in it, only its content's."""
        return {
            "fingerprint": self.manifest.fingerprint,
            "seed": self.manifest.seed,
            "images": len(self.manifest),
            "captions": sum(source.captions for source in self.sources),
            "sources": [asdict(source) for source in self.sources],
            "guards": [asdict(guard) for guard in self.guards],
            "rejections": [{**asdict(found), "examples": list(found.examples)} for found in self.rejections],
        }

    def as_table(self) -> list[list[str]]:
        """One row of cells for each source, with a row of headings before them and one of sums behind."""
        names = ["read", "left_out", "merged", "images", "captions"]
        whole = SourceCount(source="all")
        for source in self.sources:
            whole = whole.plus(SourceCount(**{**asdict(source), "source": "all"}))
        counted = [*self.sources, *([whole] if len(self.sources) > 1 else [])]
        rows = [[s.source, *(f"{getattr(s, name):,}" for name in names)] for s in counted]
        return [["source", *(name.replace("_", " ") for name in names)], *rows]


class Sums:
    """SourceCounts being added up, in the order of the sources."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._counts = {source: SourceCount(source=source) for source in sources}

    def add(self, source: str, **numbers: int) -> Self:
        before = self._counts.get(source, SourceCount(source=source))
        self._counts[source] = before.plus(SourceCount(source=source, **numbers))
        return self

    def counts(self) -> tuple[SourceCount, ...]:
        return tuple(self._counts.values())
