"""Commands that look at a store: status, audit, preview."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jobs.terminal import AsJson, Columns, StorePath, aligned, decimals, say, short_names, shortened, show, size
from pipeline.errors import JobError

if TYPE_CHECKING:
    from pipeline.against import AgreementRow
    from pipeline.status import Status

#: An audit shows this many findings of a kind; --json has them all.
SHOWN = 20
#: Characters of one fact that tells two versions of an expert apart.
FACT = 40


#: What an expert may have answered, "missing" where its cell is not committed.
Answer = Literal["ok", "empty", "failed", "missing"]


def status(
    store_url: StorePath,
    failures: Annotated[
        bool, typer.Option("--failures", help="Read the receipts too: rows per status, reasons, bytes, seconds.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Look again and again until all cells are there: failures, rate, time left, models' waiting. "
            "A table on a terminal, else (or with --json) a line of JSON for each look.",
        ),
    ] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks of --watch.")] = 5.0,
    window: Annotated[float, typer.Option("--window", min=0.1, help="Minutes over which --watch takes rates.")] = 5.0,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """How far a store is: cells committed and missing, per expert."""
    from pipeline.status import status as look
    from pipeline.store import LabelStore

    if watch:
        from jobs.watching import watch as look_on
        from pipeline.pace import Watch

        if failures:
            raise JobError("--watch counts failures by itself; run it without --failures")
        look_on(Watch(store_url, columns=columns, window=60 * window), every=every, as_json=as_json)
        return
    if columns is not None:
        raise JobError("--column chooses what --watch looks at; without --watch all columns are shown")
    found = look(LabelStore.open(store_url), failures=failures)
    head = ["expert", "version", "cells", "images"] + (["ok", "empty", "failed", "size", "compute"] if failures else [])
    table = [head]
    for column in found.columns:
        row = [column.expert, column.column.split("@")[1], f"{column.committed}/{found.shards}", str(column.images)]
        if column.rows is not None and column.seconds is not None:
            counts = [str(column.rows.ok), str(column.rows.empty), str(column.rows.failed)]
            row += [*counts, size(column.bytes or 0), f"{column.seconds.compute:.1f}s"]
        elif failures:
            row += ["-"] * 5
        table.append(row)
    names = short_names([column.column for column in found.columns])
    random = [names[column.column] for column in found.columns if column.random_weights]
    lines = [
        f"{found.url}: {found.images} images in {found.shards} shard(s) of {found.plan.shard_size}{_history(found)}",
        *aligned(table),
        *(
            f"{column.column}: {', '.join(shortened(fact, FACT) for fact in column.differs)}"
            for column in found.columns
            if column.differs
        ),
        *([f"random weights, so the labels are noise: {', '.join(random)}"] if random else []),
        *(f"left out: {column}: {why}" for column, why in found.unknown.items()),
    ]
    if found.rows is not None and found.rows.reasons:
        reasons = ", ".join(f"{times} x {reason}" for reason, times in list(found.rows.reasons.items())[:SHOWN])
        lines.append(f"reasons, counted in the rows of all experts: {reasons}; `expert-labels failures` lists them")
    show(lines, found.model_dump(mode="json") | {"complete": found.complete}, as_json)


def _history(found: Status) -> str:
    if not found.growths:
        return ""
    return f"; grown {found.growths} time(s), {found.dropped} image(s) dropped"


def failures(
    store_url: StorePath,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many rows.")] = 1000,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Which images failed, for which expert, and why. `expert-labels retry` asks for these again."""
    from pipeline.status import failed_rows
    from pipeline.store import LabelStore

    rows = list(islice(failed_rows(LabelStore.open(store_url), columns), limit))
    lines = [f"{row.image_id}  {row.column.split('@')[0]}  {row.reason}  {row.uri}" for row in rows]
    show(lines or ["no failed rows"], [row.model_dump(mode="json") for row in rows], as_json)


def audit(
    store_url: StorePath,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte: digests, rows, PNGs, label rules.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Take damaged cells back and sweep old garbage; then run `label` again.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="PREFIX", help="Compare columns with PREFIX_* columns of the same quantity."),
    ] = None,
    drift: Annotated[
        bool,
        typer.Option(
            "--drift", help="Compare the cells of each column: shards and workers whose labels look otherwise."
        ),
    ] = False,
    grace: Annotated[
        float, typer.Option("--grace", help="Seconds that a file without receipt may be old before it is swept.", min=0)
    ] = 3600.0,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Hold a store against its receipts or, with --against, its columns against each other, or with --drift its cells.

    Exit code 1 if something is damaged and not repaired, or differs.
    """
    from pipeline.audit import agreement
    from pipeline.audit import audit as look
    from pipeline.audit import repair as mend
    from pipeline.store import LabelStore

    store = LabelStore.open(store_url)
    if against is not None:
        if deep or repair:
            raise JobError("--against compares columns; run it without --deep and --repair")
        rows = agreement(store, against, columns=columns, progress=NowAndThen("compared"))
        show(agreement_lines(rows), [row.model_dump(mode="json") for row in rows], as_json)
        return
    if drift:
        from jobs.drifting import audit_drift

        if deep or repair:
            raise JobError("--drift compares receipts; run it without --deep and --repair")
        raise typer.Exit(audit_drift(store, columns, NowAndThen("compared"), as_json))
    report = look(store, columns=columns, deep=deep, grace_seconds=grace, progress=NowAndThen("audited"))
    old = [piece for piece in report.garbage if not piece.young]
    lines = [
        f"{report.cells} cells with {report.rows} rows audited{' deeply' if deep else ''}: {len(report.errors)} errors, "
        f"{len(report.warnings)} warnings; {report.missing} cells missing; garbage {len(report.garbage)} files, "
        f"{size(sum(piece.bytes for piece in report.garbage))} ({len(old)} old enough to sweep)"
    ]
    lines += [
        f"{finding.severity}: {finding.column or 'store'}"
        f"{'' if finding.shard is None else f'/shard-{finding.shard:06d}'}: {finding.what}"
        for finding in report.findings[:SHOWN]
    ]
    value = report.model_dump(mode="json")
    unmended = report.errors
    if repair:
        done = mend(store, report, grace_seconds=grace)
        unmended = done.beyond
        lines += [
            f"withdrawn {len(done.withdrawn)} cells, swept {len(done.swept)} files ({size(done.bytes_freed)}), "
            f"left {len(done.kept)} young files; run `expert-labels label` to fill what is missing"
        ]
        value["repairs"] = done.model_dump(mode="json")
    show(lines, value, as_json)
    raise typer.Exit(1 if unmended else 0)


def preview(
    store_url: StorePath,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for preview.html and preview.png.")] = Path(
        "out/preview"
    ),
    only: Annotated[Answer | None, typer.Option("--status", help="Only images where some expert answered so.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many images.")] = 100,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """A web page (one file, works offline) and a contact sheet: photos beside their labels."""
    from jobs.preview import write_preview
    from pipeline.reader import LabelReader
    from pipeline.store import LabelStore

    reader = LabelReader(LabelStore.open(store_url), columns)
    if not reader.cards:
        raise JobError(f"{store_url} has no columns to show; `expert-labels label` makes them")
    done = write_preview(reader.samples(), reader.cards, out, title=store_url, status=only, limit=limit)
    lines = [f"{done.page}  ({done.shown} images)"] + ([str(done.sheet)] if done.sheet else [])
    show(lines, {"page": str(done.page), "sheet": done.sheet and str(done.sheet), "shown": done.shown}, as_json)


def agreement_lines(rows: Sequence[AgreementRow]) -> list[str]:
    """One line a comparison: the headline metric, and on how many images it rests."""
    names = short_names([name for row in rows for name in (row.column, row.truth)])
    table = [["expert", "against", "metric", "value", "better", "images", "without label"]]
    for row in rows:
        value, better = decimals(row.metrics[row.headline], 4), "higher" if row.higher_is_better else "lower"
        counts = [str(int(row.metrics["compared"])), str(int(row.metrics["without_label"]))]
        table.append([names[row.column], names[row.truth], row.headline, value, better, *counts])
    return aligned(table)


class NowAndThen:
    """A progress callback that says a line every ten seconds: short jobs stay silent."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._said > 10:
            self._said = time.monotonic()
            say(f"{self._verb} {done} of {total}")
