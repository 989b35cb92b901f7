"""Build a manifest: sources in, one immutable Parquet file in shard order out, and a report of all that was left out."""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from manifests.location import local_path
from manifests.manifest import Manifest, ManifestWriter
from manifests.record import Rejection
from manifests.shuffle import Shuffle

#: How many examples of each kind of rejection a report keeps.
EXAMPLES = 5
_ROW_GROUP = 16_384


class Source(Protocol):
    """One dataset's own files, read in a deterministic order; `manifests.sources` has those of job files."""

    @property
    def name(self) -> str:
        """What its records call their ``source``."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """Every image, in batches of `manifests.record.SCHEMA` with at most BATCH_ROWS rows, and one Rejection for
        everything left out. ValueError where the files are not what they should be.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectionCount:
    """How much of one source was left out for one reason; ``examples``: up to five of what, first in the alphabet."""

    source: str
    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What `build` did. ``images``: how many of each source are in the manifest."""

    manifest: Manifest
    images: dict[str, int]
    rejections: tuple[RejectionCount, ...]


def build(sources: Sequence[Source], out_url: str, *, seed: int = 0) -> BuildReport:
    """Write the manifest of all images of ``sources`` to ``out_url`` (local path or fsspec URL), in shuffled order.

    The order is ascending BLAKE2b-64 of (seed, image_id): the same whatever the order of the sources. Images that share
    an id become one; see `manifests.shuffle.Shuffle`, which also says what memory and disk it takes. What stands at
    ``out_url`` is replaced, at the end and at once.

    Raises ValueError where a source's files are broken or missing, where there is no image at all, and where ``out_url``
    cannot be written.
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {seed}: expected 0 to 2**64 - 1")
    tally = _Tally()
    images = {source.name: 0 for source in sources}
    with _workspace(out_url) as folder:
        shuffle = Shuffle(folder, seed=seed)
        try:
            for source in sources:
                for found in source.batches():
                    if isinstance(found, Rejection):
                        tally.add(found)
                    else:
                        shuffle.add(found)
            with ManifestWriter(out_url, seed=seed) as writer:
                for table in shuffle.sorted_tables(tally.add):
                    for counted in table.column("source").value_counts().to_pylist():
                        images[counted["values"]] = images.get(counted["values"], 0) + counted["counts"]
                    for batch in table.to_batches(max_chunksize=_ROW_GROUP):
                        writer.write(batch)
                if writer.count == 0:
                    raise ValueError(_nothing_found(sources, tally.counts()))
        finally:
            shuffle.close()
    return BuildReport(manifest=writer.manifest, images=images, rejections=tally.counts())


class _Tally:
    """Counts rejections by source and reason; which examples it keeps does not depend on the order they come in."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._examples: dict[tuple[str, str], list[str]] = {}

    def add(self, rejection: Rejection) -> None:
        kind = (rejection.source, rejection.reason)
        self._counts[kind] = self._counts.get(kind, 0) + rejection.count
        examples = self._examples.setdefault(kind, [])
        if len(examples) < EXAMPLES or rejection.what < examples[-1]:
            bisect.insort(examples, rejection.what)
            del examples[EXAMPLES:]

    def counts(self) -> tuple[RejectionCount, ...]:
        return tuple(
            RejectionCount(source=source, reason=reason, count=count, examples=tuple(self._examples[source, reason]))
            for (source, reason), count in sorted(self._counts.items())
        )


@contextmanager
def _workspace(out_url: str) -> Iterator[Path]:
    """A folder for the bucket files: beside a local manifest, whose disk likely has room for them; else the system's."""
    out = local_path(out_url)
    if out is not None and out.is_dir():
        raise ValueError(f"cannot write the manifest {out_url}: it is a folder; expected the name of a file")
    try:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".manifest-", dir=out.parent if out else None)
    except OSError as error:
        raise ValueError(
            f"cannot write the manifest {out_url}: {error.strerror}; expected a folder that this user may write to"
        ) from error
    with temporary as folder:
        yield Path(folder)


def _nothing_found(sources: Sequence[Source], rejections: Sequence[RejectionCount]) -> str:
    names = ", ".join(str(source) for source in sources) or "none"
    why = "; ".join(f"{r.count} x {r.reason}, such as {r.examples[0]}" for r in rejections) or "nothing was rejected"
    return f"no image found in the sources ({names}): {why}; check their paths"
