"""Build a manifest: sources in, one immutable Parquet file in shard order out, and a report of all that was left out.

    read      every source, cleaned, into bucket files                 manifests.spill        a worker for each source
    look      at files, where duplicates by content are asked for      manifests.duplicates
    join      rows that are one picture, and what is guarded           manifests.joining      numbers only
    merge     the rows of pictures that have several                   manifests.merge
    write     one bucket after the other, sorted                       manifests.manifest     sorting by the workers

Between the steps everything lies in a folder beside the manifest, which is removed when the manifest is there. Rows are
numbered through all sources in their order, so nothing depends on which worker was done first.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from glob import escape
from hashlib import blake2s
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from manifests.assembly import Assembly, parts_for, read_sorted
from manifests.buckets import BUCKETS, bucket_of
from manifests.cleaning import CaptionRules
from manifests.duplicates import Duplicates, Look, SeenFiles
from manifests.guard import AnyGuard, guarded
from manifests.joining import Names, joined
from manifests.ledger import Ledger, reasons_of
from manifests.location import local_path, replacing
from manifests.looking import UNSEEN, look_at_bucket, names_seen
from manifests.manifest import ManifestWriter
from manifests.report import BuildReport, RejectionCount
from manifests.spill import Source, Spill, signature, spill
from manifests.workers import Workers, advance, started

__all__ = ["BuildReport", "RejectionCount", "Source", "build"]

_ROW_GROUP = 16_384

#: Is told what is being done, how much of it, and how much there is to do (None: not known).
Progress = Callable[[str, int, int | None], None]
_RULES, _DUPLICATES = CaptionRules(), Duplicates()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """A source to be read by a worker."""

    source: Source
    folder: Path
    seed: int
    rules: CaptionRules


def build(
    sources: Sequence[Source],
    out_url: str,
    *,
    seed: int = 0,
    captions: CaptionRules = _RULES,
    guards: Sequence[AnyGuard] = (),
    duplicates: Duplicates = _DUPLICATES,
    look: Look | None = None,
    workers: int = 1,
    progress: Progress = lambda what, done, total: None,
) -> BuildReport:
    """Write the manifest of all images of ``sources`` to ``out_url`` (local path or fsspec URL), in shuffled order.

    The order is ascending BLAKE2b-64 of (seed, image_id). Rows that share an id or a key are one picture (`manifests.joining`)
    and become one record (`manifests.merge`). What stands at ``out_url`` is replaced, at the end and at once, and the report is
    written beside it as <manifest>.report.json. What is written depends on none of ``workers``, earlier builds and
    interruptions. ``look`` looks at files; it is needed where ``duplicates`` ask for that.

    A build that was interrupted begins again where the last source ended that was read whole (`manifests.spill`).
    Memory of each process: a batch while reading, then 1/64 of the rows, and some 30 bytes for each row that is a repeat.
    Disk: the rows once, uncompressed, beside the manifest; in the system's folder for temporary files if that is elsewhere.

    Raises ValueError where a source's files are broken or missing, where there is no image at all, and where ``out_url``
    cannot be written.
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {seed}: expected 0 to 2**64 - 1")
    assert look is not None or not duplicates.look, "somebody must look at the files"
    with _workspace(out_url) as folder, started(workers) as hands:
        watched = [guarded(guard) for guard in guards]
        spills = _read_all(sources, folder, seed=seed, rules=captions, hands=hands, progress=progress)
        starts = np.cumsum([0, *(found.rows for found in spills)])
        rows = int(starts[-1])
        assembly = Assembly(folder, tuple((s.folder, int(first)) for s, first in zip(spills, starts, strict=False)))
        seen = (
            names_seen(assembly) if _look_at_all(assembly, rows, out_url, duplicates, look, hands, progress) else UNSEEN
        )
        pictures = joined(
            ids=assembly.ids,
            keys=partial(assembly.names, "keys"),
            content=_with_more(partial(assembly.names, "content"), seen.content),
            near=seen.near,
            unreadable=list(seen.problems.values()),
            guards=watched,
            distance=duplicates.near or 0,
            most=duplicates.most,
            on_bucket=lambda done: progress("finding what is one picture", done, BUCKETS),
        )
        assembly = replace(assembly, parts=parts_for(len(pictures.members)))
        assembly.save(pictures)
        ledger = Ledger(
            (source.name for source in sources), guards, reasons_of(guards, duplicates.most, list(seen.problems))
        )
        for spilled in spills:
            ledger.rejected(spilled.rejections)
        for picked in hands.in_order(assembly.pick, range(BUCKETS)):
            ledger.picked(picked)
        for found in hands.in_order(assembly.merge, range(assembly.parts)):
            ledger.merged(found)
        with ManifestWriter(out_url, seed=seed) as writer:
            sort = partial(assembly.sort, captioned=captions.drop_uncaptioned)
            for number, done in enumerate(hands.in_order(sort, range(BUCKETS)), 1):
                for batch in read_sorted(done).to_batches(max_chunksize=_ROW_GROUP):
                    writer.write(batch)
                done.path.unlink()
                ledger.sorted(done)
                progress("writing", number, BUCKETS)
            if writer.count == 0:
                raise ValueError(_nothing_found(sources, ledger.rejections))
    report = ledger.report(writer.manifest, [len(names) for names in watched])
    with replacing(f"{out_url}.report.json") as stream:
        stream.write(json.dumps(report.as_json(), indent=1, ensure_ascii=False).encode())
    return report


def _read_all(
    sources: Sequence[Source], folder: Path, *, seed: int, rules: CaptionRules, hands: Workers, progress: Progress
) -> list[Spill]:
    """Every source spilled into ``folder``, those from there that an earlier build has finished; in the order of ``sources``."""
    signatures = [signature(source, seed=seed, rules=rules) for source in sources]
    digests = [found.digest for found in signatures]
    folders = [
        folder / (f"source-{digest}-{digests[:number].count(digest)}" if digest else f"source-{number}")
        for number, digest in enumerate(digests)
    ]
    for stale in set(folder.glob("source-*")) - {path for path, digest in zip(folders, digests, strict=True) if digest}:
        shutil.rmtree(stale)
    spills = [Spill.find(path) for path in folders]
    due = [number for number, found in enumerate(spills) if found is None]
    due.sort(key=lambda number: -signatures[number].size)
    before = sum(found.rows for found in spills if found)
    tasks = [_Reading(source=sources[number], folder=folders[number], seed=seed, rules=rules) for number in due]
    for number, spilled in hands.map(_read, tasks, on_progress=lambda done: progress("reading", before + done, None)):
        spills[due[number]] = spilled
    return [found for found in spills if found]


def _read(task: _Reading) -> Spill:
    return spill(task.source, task.folder, seed=task.seed, rules=task.rules, on_rows=advance)


def _look_at_all(
    assembly: Assembly,
    rows: int,
    out_url: str,
    rules: Duplicates,
    look: Look | None,
    hands: Workers,
    progress: Progress,
) -> bool:
    """Look at the files of all rows, where that is asked for; whether it was."""
    if look is None or not rules.look:
        return False
    done = 0

    def on_rows(count: int) -> None:
        nonlocal done
        done += count
        progress("looking at files", done, rows)

    out = local_path(out_url)
    beside = out.with_name(f"{out.name}.seen.sqlite") if out else assembly.folder.with_suffix(".seen.sqlite")
    with SeenFiles(beside) as seen:
        for bucket in range(BUCKETS):
            look_at_bucket(assembly, bucket, rules=rules, look=look, seen=seen, workers=hands, on_rows=on_rows)
    return True


def _with_more(names: Callable[[int], Names], more: Names) -> Callable[[int], Names]:
    """The names of a bucket, and those of ``more`` that belong into it."""
    more = more.sorted()
    ends = np.searchsorted(bucket_of(more.name), np.arange(BUCKETS + 1))

    def both(bucket: int) -> Names:
        some = slice(ends[bucket], ends[bucket + 1])
        return Names.of_all([names(bucket), Names(more.name[some], more.row[some])])

    return both


@contextmanager
def _workspace(out_url: str) -> Iterator[Path]:
    """The folder for all that lies between the steps: beside a local manifest, whose disk likely has room; else in the
    system's folder for temporary files. One build at a time. When a build fails, what is left is what can be taken up again.
    """
    out = local_path(out_url)
    if out is not None and out.is_dir():
        raise ValueError(f"cannot write the manifest {out_url}: it is a folder; expected the name of a file")
    if out is None:
        digest = blake2s(out_url.encode(), digest_size=8).hexdigest()
        folder = Path(tempfile.gettempdir()) / f"expert-labels-build-{digest}"
    else:
        folder = out.with_name(f".{out.name}.build")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0)
        lock.acquire()
        for half in out.parent.glob(f"{escape(out.name)}.????????.tmp") if out else ():
            half.unlink()  # of a build that was killed while it wrote
    except Timeout:
        raise ValueError(f"{out_url} is being built by another process; wait for it, or name another file") from None
    except OSError as error:
        raise ValueError(
            f"cannot write the manifest {out_url}: {error.strerror}; expected a folder that this user may write to"
        ) from error
    try:
        yield folder
    except BaseException:
        if not any(Spill.find(path) for path in folder.glob("source-*-*")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder)
    finally:
        lock.release()


def _nothing_found(sources: Sequence[Source], rejections: Sequence[RejectionCount]) -> str:
    names = ", ".join(str(source) for source in sources) or "none"
    why = "; ".join(f"{r.count} x {r.reason}, such as {r.examples[0]}" for r in rejections) or "nothing was rejected"
    return f"no image found in the sources ({names}): {why}; check their paths"
