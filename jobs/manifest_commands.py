"""Commands that need no store: manifests, the version."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from jobs.terminal import AsJson, aligned, say, show
from manifests.manifest import Manifest
from pipeline.errors import JobError

app = typer.Typer(help="Build and look at manifests: which images exist, in which order.", no_args_is_help=True)

ManifestPath = Annotated[str, typer.Argument(metavar="MANIFEST.parquet", help="Path or URL of a manifest.")]


@app.command()
def build(
    sources_file: Annotated[
        str, typer.Argument(metavar="SOURCES.yaml", help="A file with `images:` and `seed:`, or a job file.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Where to write the manifest.")],
    as_json: AsJson = False,
) -> None:
    """Build a manifest from sources: streaming, shuffled by a seed, the same records always in the same order."""
    from jobs.job import load_sources
    from manifests.build import build as make

    sources = load_sources(sources_file)
    try:
        report = make(sources.images, out, seed=sources.seed)
    except ValueError as error:
        raise JobError(str(error)) from error
    lines = [f"{out}: {len(report.manifest)} images, fingerprint {report.manifest.fingerprint[:16]}"]
    lines += [f"  {count} from {source}" for source, count in report.images.items()]
    lines += [f"  left out {r.count} x {r.reason} ({r.source}; {', '.join(r.examples[:2])})" for r in report.rejections]
    value = {
        "manifest": out,
        "fingerprint": report.manifest.fingerprint,
        "images": report.images,
        "rejections": [
            {"source": r.source, "reason": r.reason, "count": r.count, "examples": list(r.examples)}
            for r in report.rejections
        ],
    }
    show(lines, value, as_json)


@app.command("show")
def show_records(
    manifest: ManifestPath,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many records.")] = 10,
    as_json: AsJson = False,
) -> None:
    """The first records of a manifest, in shard order."""
    from manifests.record import SCHEMA

    records = list(islice(_opened(manifest).records(), limit))
    lines = [f"{r.image_id}  {r.uri}  {' | '.join(r.captions)}" for r in records]
    show(lines, [{field: getattr(r, field) for field in SCHEMA.names} for r in records], as_json)


@app.command()
def stats(manifest: ManifestPath, as_json: AsJson = False) -> None:
    """Images and captions of a manifest, per source and split."""
    images: Counter[tuple[str, str]] = Counter()
    captions: Counter[tuple[str, str]] = Counter()
    for record in _opened(manifest).records():
        images[record.source, record.split] += 1
        captions[record.source, record.split] += len(record.captions)
    rows = [(source, split, count, captions[source, split]) for (source, split), count in sorted(images.items())]
    table = [["source", "split", "images", "captions"], *([s, p or "-", str(i), str(c)] for s, p, i, c in rows)]
    names = ("source", "split", "images", "captions")
    show(aligned(table), [dict(zip(names, row, strict=True)) for row in rows], as_json)


@app.command()
def check(manifest: ManifestPath) -> None:
    """Read a whole manifest and compare its fingerprint. Exit code 2 if it is damaged or was changed."""
    opened = _opened(manifest)
    try:
        opened.verify()
    except ValueError as error:
        raise JobError(str(error)) from error
    say(f"{manifest}: {len(opened)} images, fingerprint {opened.fingerprint[:16]} as stated")


def version() -> None:
    """Version of expert-labels, and of the packages that can change a label."""
    from pipeline.receipt import installed_packages

    print("\n".join(f"{name} {number}" for name, number in installed_packages().items()))


def _opened(manifest: str) -> Manifest:
    if Path(manifest).is_dir():
        raise JobError(f"{manifest} is a folder; a store's manifest is {manifest}/manifest.parquet")
    try:
        return Manifest.open(manifest)
    except ValueError as error:
        raise JobError(str(error)) from error
