"""A manifest from the images of a file: `manifests.build` with what it needs from above, and what a person is shown."""

from __future__ import annotations

import os
import sys
import time

from tqdm import tqdm

from jobs.sources_file import ImageChoices
from jobs.terminal import aligned
from manifests.build import BuildReport, Progress, build
from manifests.location import open_binary
from manifests.manifest import Manifest
from pipeline.content import LookAtFiles
from pipeline.errors import JobError
from pipeline.photos import Limits

#: Seconds between two lines where there is no terminal.
_LOG_EVERY = 15.0
#: Beyond that a build waits for its disk.
_MOST_WORKERS = 8


def build_manifest(
    choices: ImageChoices,
    out: str,
    *,
    limits: Limits | None = None,
    workers: int = 1,
    progress: Progress = lambda what, done, total: None,
) -> BuildReport:
    """The manifest of ``choices`` at ``out`` (path or URL), as `manifests.build.build`. Raises JobError.

    A file that stands there is replaced only if it is a manifest or was built by us: its report lies beside it.
    """
    _check_replaceable(out)
    try:
        return build(
            choices.images,
            out,
            seed=choices.seed,
            captions=choices.captions,
            guards=choices.guard,
            duplicates=choices.duplicates,
            look=LookAtFiles(limits or Limits()),
            workers=workers,
            progress=progress,
        )
    except ValueError as error:
        raise JobError(str(error)) from error
    except OSError as error:
        why = error.strerror or str(error)
        raise JobError(
            f"{out}: {why}; sources that were read to their end are kept, the same command goes on"
        ) from error
    except KeyboardInterrupt:
        print(
            f"{out}: stopped; the same command goes on after the last source that was read to its end", file=sys.stderr
        )
        raise


def _check_replaceable(out: str) -> None:
    try:
        with open_binary(out) as stream:
            if not stream.read(1):
                return
    except ValueError:
        return  # nothing is there, or nothing that can be read: the build says what it cannot write
    try:
        Manifest.open(out)
    except ValueError as error:
        try:
            open_binary(f"{out}.report.json").close()  # a manifest that was damaged since
        except ValueError:
            raise JobError(f"{out} is there and is no manifest; name another file, or remove it first") from error


def usual_workers() -> int:
    """As many as this process may use CPUs, and not more than a disk can feed."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _MOST_WORKERS)


def report_lines(report: BuildReport, out: str) -> list[str]:
    """The report for a person: what is in the manifest, from where, and what is not, and why."""
    lines = [f"{out}: {len(report.manifest):,} images, fingerprint {report.manifest.fingerprint[:16]}", ""]
    lines += aligned(report.as_table())
    for guard in report.guards:
        out_of = ", ".join(f"{count:,} of {source}" for source, count in guard.kept_out.items()) or "nothing"
        lines += ["", f"guard {guard.guard} ({guard.keys:,} keys) kept out {out_of}"]
    if report.rejections:
        table = [["left out", "source", "reason", "such as"]]
        table += [[f"{r.count:,}", r.source, r.reason, r.examples[0]] for r in report.rejections]
        lines += ["", *(line[:200] for line in aligned(table, left=(1, 2, 3)))]
    return lines


class BuildProgress:
    """Bars on a terminal, one for each step, and a line now and then in a log. Use as a context manager; call to tell."""

    def __init__(self) -> None:
        self._what = ""
        self._line = ""
        self._bar: tqdm | None = None
        self._said = time.monotonic()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if what != self._what:
            self._end_step()
            self._what, self._said = what, time.monotonic()
            if sys.stderr.isatty():
                self._bar = _bar(what, total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            return
        self._line = f"{what}: {done:,} images" if total is None else f"{what}: {done:,} of {total:,}"
        if time.monotonic() - self._said > _LOG_EVERY:
            self._said = time.monotonic()
            print(self._line, file=sys.stderr, flush=True)

    def _end_step(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._line:
            print(self._line, file=sys.stderr, flush=True)
            self._line = ""

    def __enter__(self) -> BuildProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_step()


def _bar(what: str, total: int | None) -> tqdm:
    images = total is None or what == "looking at files"
    unit = "img" if images else "part"
    return tqdm(total=total, desc=f"{what:<28}", unit=unit, unit_scale=images, dynamic_ncols=True)
