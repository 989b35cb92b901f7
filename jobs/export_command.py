"""`expert-labels export`: a store's labels in the layouts that other programs read (docs/exports.md)."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from jobs.store_commands import NowAndThen
from jobs.terminal import AsJson, Columns, StorePath, say, show, size
from pipeline.errors import JobError

#: Layouts of an export.
Format = Literal["webdataset", "hf", "coco", "prismer"]


def export(
    store_url: StorePath,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder or URL of the export.")],
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="Tars; Parquet with pictures; COCO results; files for Prismer's released code."),
    ] = None,
    photos: Annotated[
        bool, typer.Option("--photos", help="The photos too, from their addresses where no column has them.")
    ] = False,
    embeddings: Annotated[
        str | None, typer.Option("--embeddings", help="prismer: vectors of words and classes, made by `embed`.")
    ] = None,
    datasets: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset", metavar="SOURCE=DATASET", help="prismer: what its code calls the images of a source."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove an earlier export in that place first.")
    ] = False,
    verify_only: Annotated[
        bool,
        typer.Option("--verify", help="Write nothing: compare an export made earlier with the store, byte by byte."),
    ] = False,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Copy labels out for other programs. Run it again after a crash: it finishes what is missing and leaves alone what is done.

    With --verify, exit code 1 if the export is not whole, or not what the store says.
    """
    from jobs.exporting import datasets_of, layout_at, layout_of
    from pipeline.exports.run import export as write
    from pipeline.exports.run import verify
    from pipeline.store import LabelStore

    if verify_only:
        if format_ or photos or embeddings or datasets or overwrite or columns:
            raise JobError("--verify asks for what the export itself says was asked for; run it with --out alone")
        problems = verify(LabelStore.open(store_url), out, layout_at(out), progress=NowAndThen("verified"))
        show(problems or [f"{out}: nothing wrong"], problems, as_json)
        raise typer.Exit(1 if problems else 0)
    if format_ is None:
        raise JobError("--format: expected webdataset, hf, coco or prismer")
    layout = layout_of(format_, photos=photos, embeddings=embeddings, datasets=datasets_of(datasets))
    store = LabelStore.open(store_url)
    done = write(store, out, layout, columns=columns, overwrite=overwrite, progress=NowAndThen("exported"))
    for name, why in done.columns_left.items():
        say(f"not exported: {name}: {why}")
    lines = [
        f"{done.url} ({format_}): {done.samples} images, {', '.join(name.split('@')[0] for name in done.columns)}",
        f"{done.written} shards written ({done.files} files, {size(done.bytes)}), {done.skipped} were there",
    ]
    if done.missing or done.left_out:
        lines.append(
            f"{done.missing} cells missing in them, {done.left_out} shards without any label: `label`, then export again"
        )
    if done.photos_failed:
        counts = ", ".join(f"{times} x {code}" for code, times in done.photos_failed.items())
        examples = "; ".join(f"{image}: {reason}" for image, reason in done.unread.items())
        lines.append(
            f"photos that could not be read: {counts} ({examples}); all of them stand in the export's receipts"
        )
    show(lines, done.model_dump(mode="json"), as_json)
