"""Ledger: what the steps of a build report, added up until it is a BuildReport."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from manifests.assembly import Picked, Sorted
from manifests.guard import AnyGuard
from manifests.joining import PLACEHOLDER
from manifests.manifest import Manifest
from manifests.merge import Merged
from manifests.report import BuildReport, GuardCount, RejectionCount, Sums, Tally


class Ledger:
    """``sources``: names in their order. ``reasons``: the phrase for each number that `manifests.joining.Joined` gives."""

    def __init__(self, sources: Iterable[str], guards: Sequence[AnyGuard], reasons: dict[int, str]) -> None:
        self._sums = Sums(sources)
        self._tally = Tally()
        self._guards = guards
        self._reasons = reasons
        self._kept_out: list[dict[str, int]] = [{} for _ in guards]

    def rejected(self, counts: Iterable[RejectionCount]) -> None:
        """What was never a row: rejections of sources, captions."""
        self._tally.extend(counts)

    def picked(self, found: Picked) -> None:
        for (source, reason), (count, examples) in found.out.items():
            self._leave_out(
                RejectionCount(source=source, reason=self._reasons[reason], count=count, examples=tuple(examples))
            )
            if reason >= 0:
                self._kept_out[reason][source] = self._kept_out[reason].get(source, 0) + count

    def merged(self, found: Merged) -> None:
        for clash in found.clashes:
            self._leave_out(clash)
        for source, count in found.later.items():
            self._sums.add(source, read=count, merged=count)

    def sorted(self, found: Sorted) -> None:
        for bare in found.bare:
            self._leave_out(bare)
        for source, images in found.images.items():
            self._sums.add(source, read=images, images=images, captions=found.captions[source])

    def _leave_out(self, count: RejectionCount) -> None:
        self._tally.extend([count])
        self._sums.add(count.source, read=count.count, left_out=count.count)

    @property
    def rejections(self) -> tuple[RejectionCount, ...]:
        return self._tally.counts()

    def report(self, manifest: Manifest, keys: Sequence[int]) -> BuildReport:
        """``keys``: how many each guard watches for."""
        guards = (
            GuardCount(guard=guard.name, keys=count, kept_out=dict(sorted(kept_out.items())))
            for guard, count, kept_out in zip(self._guards, keys, self._kept_out, strict=True)
        )
        return BuildReport(
            manifest=manifest, sources=self._sums.counts(), guards=tuple(guards), rejections=self.rejections
        )


def reasons_of(guards: Sequence[AnyGuard], most: int | None, problems: Sequence[str]) -> dict[int, str]:
    """The phrase for each reason: guards by number, then a content that more than ``most`` have, then unreadable files."""
    reasons = {number: f"kept out by guard: {guard.name}" for number, guard in enumerate(guards)}
    reasons[PLACEHOLDER] = f"a placeholder: more than {most} pictures have this content"
    return reasons | {
        PLACEHOLDER - 1 - number: f"file cannot be read: {problem}" for number, problem in enumerate(problems)
    }
