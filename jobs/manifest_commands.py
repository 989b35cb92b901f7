"""Commands that need no store: manifests, the version."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from jobs.filter_command import filter_texts
from jobs.terminal import AsJson, aligned, say, show
from manifests.manifest import Manifest
from manifests.record import ImageRecord
from pipeline.errors import JobError

app = typer.Typer(help="Build and look at manifests: which images exist, in which order.", no_args_is_help=True)

ManifestPath = Annotated[str, typer.Argument(metavar="MANIFEST.parquet", help="Path or URL of a manifest.")]


@app.command()
def build(
    sources_file: Annotated[
        str,
        typer.Argument(
            metavar="SOURCES.yaml",
            help="A file with `images:`, and perhaps `root:`, `guard:`, `captions:`, `duplicates:`, `seed:`; or a job file.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Where to write the manifest; its report goes beside it.")],
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes. Default: one for each CPU, at most 8.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build a manifest: read the sources, make one record of each picture, keep guarded ones out, shuffle.

    The same sources give the same manifest, byte for byte, whatever the number of workers. A build that was stopped is taken
    up where it was: run the same command again. docs/manifests.md has all rules; manifests/*.yaml are files to copy.
    """
    from jobs.building import BuildProgress, build_manifest, report_lines, usual_workers
    from jobs.sources_file import load_sources

    sources = load_sources(sources_file)
    with BuildProgress() as progress:
        report = build_manifest(sources, out, workers=workers or usual_workers(), progress=progress)
    show(report_lines(report, out), {"manifest": out, **report.as_json()}, as_json)


@app.command("show")
def show_records(
    manifest: ManifestPath,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many records.")] = 10,
    find: Annotated[
        str | None,
        typer.Option("--find", help="Only the record with this image id or key (coco:391895), or this web address."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The first records of a manifest in shard order, or the one that is asked for."""
    from manifests.record import SCHEMA

    opened = _opened(manifest)
    records = list(islice(opened.records(), limit) if find is None else _found(opened, find))
    if find is not None and not records:
        raise JobError(f"{manifest}: no image has the id or key {find!r}")
    lines = []
    for r in records:
        size = f"  {r.width}x{r.height}" if r.width and r.height else ""
        lines += [f"{r.image_id}  {r.source}{size}  {r.uri}", *(f"    {caption}" for caption in r.captions)]
        lines += [f"    [{' '.join(r.keys)}]"] if r.keys else []
    show(lines, [{field: getattr(r, field) for field in SCHEMA.names} for r in records], as_json)


def _found(manifest: Manifest, text: str) -> list[ImageRecord]:
    """Records by id, key or address; all rows are looked through, column by column."""
    import pyarrow.compute as pc

    from manifests.record import from_batch, url_key

    names = {text, url_key(text)} if "://" in text else {text}
    found = []
    for batch in manifest.batches(16_384):
        keys = batch.column("keys")
        rows = set(pc.list_parent_indices(keys).filter(_is_one_of(keys.flatten(), names)).to_pylist())
        rows |= set(pc.indices_nonzero(_is_one_of(batch.column("image_id"), names)).to_pylist())
        found += [record for row in sorted(rows) for record in from_batch(batch.slice(row, 1))]
    return found


def _is_one_of(column: object, names: set[str]) -> object:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.is_in(column, value_set=pa.array(sorted(names), pa.string()))


@app.command()
def stats(manifest: ManifestPath, as_json: AsJson = False) -> None:
    """Images and captions of a manifest, per source and split, and where the images are."""
    import numpy as np
    import pyarrow.compute as pc

    images: Counter[tuple[str, str, str]] = Counter()
    captions: Counter[tuple[str, str, str]] = Counter()
    words: Counter[tuple[str, str, str]] = Counter()
    bare: Counter[tuple[str, str, str]] = Counter()
    for batch in _opened(manifest).batches(16_384):
        places = pc.struct_field(pc.extract_regex(batch.column("uri"), r"^(?P<scheme>[a-z0-9+.-]+)://"), "scheme")
        kinds = pc.binary_join_element_wise(
            batch.column("source"), batch.column("split"), places.fill_null("file"), "\0"
        ).dictionary_encode()
        codes = np.asarray(kinds.indices)
        lengths = np.asarray(pc.list_value_length(batch.column("captions")))
        owners = np.repeat(codes, lengths)
        counted = np.asarray(pc.add(pc.count_substring(batch.column("captions").flatten(), " "), 1))
        for code, text in enumerate(kinds.dictionary.to_pylist()):
            source, split, place = text.split("\0")
            kind = (source, split, place)
            images[kind] += int(np.count_nonzero(codes == code))
            captions[kind] += int(lengths[codes == code].sum())
            bare[kind] += int(np.count_nonzero(lengths[codes == code] == 0))
            words[kind] += int(counted[owners == code].sum())
    names = ("source", "split", "where", "images", "captions", "without", "words")
    rows = [
        (*kind, count, captions[kind], bare[kind], round(words[kind] / max(captions[kind], 1), 1))
        for kind, count in sorted(images.items())
    ]
    head = ["source", "split", "where", "images", "captions", "without", "words a caption"]
    table = [head, *([s, p or "-", w, f"{i:,}", f"{c:,}", f"{b:,}", str(n)] for s, p, w, i, c, b, n in rows)]
    show(aligned(table, left=(0, 1, 2)), [dict(zip(names, row, strict=True)) for row in rows], as_json)


@app.command()
def check(
    manifest: ManifestPath,
    photos: Annotated[
        int, typer.Option("--photos", min=0, help="Read so many photos, evenly spread, and say which cannot be.")
    ] = 0,
) -> None:
    """Read a whole manifest and compare its fingerprint. Exit code 2 if it is damaged or was changed, 1 for unreadable photos."""
    opened = _opened(manifest)
    try:
        opened.verify()
    except ValueError as error:
        raise JobError(str(error)) from error
    say(f"{manifest}: {len(opened):,} images, fingerprint {opened.fingerprint[:16]} as stated")
    if photos:
        problems = _unreadable(opened, photos)
        for record, problem in problems:
            print(f"{record.image_id}  {record.uri}  {problem}")
        say(f"{min(photos, len(opened))} photos read, {len(problems)} cannot be")
        if problems:
            raise typer.Exit(1)


def _unreadable(manifest: Manifest, count: int) -> list[tuple[ImageRecord, str]]:
    """Those of ``count`` photos, evenly spread over the manifest, that cannot be read, and why."""
    from concurrent.futures import ThreadPoolExecutor

    from pipeline.photos import Limits, PhotoError, read_photo

    def problem(record: ImageRecord) -> tuple[ImageRecord, str]:
        try:
            read_photo(record, Limits())
        except PhotoError as error:
            return record, error.reason
        return record, ""

    step = max(1, len(manifest) // count)
    spread = islice(manifest.records(), 0, None, step)
    with ThreadPoolExecutor(8) as threads:
        return [found for found in threads.map(problem, islice(spread, count)) if found[1]]


app.command("filter")(filter_texts)


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
