"""Audit: does the store hold what its receipts promise, and what does it hold that nobody needs?

    audit      receipts, files and sizes; with ``deep`` every byte and every label       reads only
    repair     takes damaged cells back and sweeps old garbage                           pipeline/repair.py
    agreement  columns against those that measure the same (`audit --against`)           pipeline/against.py

All three may run beside labelling jobs: files are listed before the receipts that may name them are read, so that what is
committed in between is never taken for garbage; and what is young is never touched.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

from expert_zoo.card import ExpertCard
from manifests.manifest import Manifest
from pipeline.against import AgreementRow, agreement
from pipeline.cell_check import DATA_FILE, CellCheck, check_cell
from pipeline.errors import StoreError
from pipeline.findings import GRACE_SECONDS, AuditReport, Finding, Garbage, Repairs
from pipeline.golden import GOLDEN
from pipeline.growth import DATA, GROWTH, NUMBERED, GrownPlan
from pipeline.repair import repair
from pipeline.storage import TEMPORARY, Entry
from pipeline.store import ATTEMPTS, CARD, LABELS, MANIFEST, LabelStore

__all__ = ["AgreementRow", "AuditReport", "Finding", "Garbage", "Repairs", "agreement", "audit", "repair"]

#: Called with (cells done, cells in all).
Progress = Callable[[int, int], None]
_READ_BYTES = 1 << 20
_RECEIPT = re.compile(r"shard-\d{6,}\.json")
_PLANNING = re.compile(r"[0-9a-f]{32}\." + re.escape(MANIFEST) + r"(\.[0-9a-f]+\.tmp)?")


def audit(
    store: LabelStore,
    *,
    columns: Sequence[str] | None = None,
    deep: bool = False,
    parallel: int = 4,
    grace_seconds: float = GRACE_SECONDS,
    progress: Progress | None = None,
) -> AuditReport:
    """Checks every committed cell of ``columns`` (expert names or ``expert@version``; default: the whole store).

    Not deep: each receipt is read; it is of this plan, column and shard, its counts add up to the shard, its files exist
    with the stated bytes. Deep: also both files' sha256; the Parquet's schema; the rows are the manifest's images in order;
    every label decodes and breaks no rule of its LabelSpec; the tar holds these members and nothing else; the manifest is
    the plan's. ``parallel``: cells checked at once; a deep check holds one member, not a tar, in memory.

    Raises StoreError for a column that is not there.
    """
    chosen = [store.column_of(name) for name in columns] if columns is not None else _column_folders(store)
    report = AuditReport(deep=deep, columns=chosen, findings=list(_plan_findings(store, deep)))
    total = sum(len(store.committed(column, beyond=True)) for column in chosen)
    with ThreadPoolExecutor(parallel, thread_name_prefix="audit") as pool:
        for column in chosen:
            card = _card(store, column, report)
            if card is None:
                continue
            # The order matters: files first, receipts second. A cell that is committed in between has files that are not
            # in the listing, which `check_cell` looks up; the other way round its files would look like garbage.
            listed = {entry.name: entry for entry in store.storage.entries(store.folder(column))}
            named: set[str] = set()
            unknown: set[int] = set()
            for check in _checks(store, card, listed, report, pool, 2 * parallel):
                report.cells += 1
                report.findings += check.findings
                if check.receipt is not None:
                    report.rows += len(check.receipt.rows)
                    named |= {entry.name for entry in (check.receipt.table, check.receipt.tar) if entry}
                if check.unknown:
                    unknown.add(check.index)
                if progress is not None:
                    progress(report.cells, total)
            _sort_out(store, column, listed, named, unknown, report, grace_seconds)
    if columns is None:
        report.garbage += _garbage_elsewhere(store, grace_seconds)
    return report


def _checks(
    store: LabelStore,
    card: ExpertCard,
    listed: dict[str, Entry],
    report: AuditReport,
    pool: ThreadPoolExecutor,
    in_work: int,
) -> Iterator[CellCheck]:
    """The checks of a column's committed cells in shard order, never more than ``in_work`` of them begun and not taken."""
    sizes = {name: entry.bytes for name, entry in listed.items()}
    committed = store.committed(card.column, beyond=True)
    if max(committed, default=-1) >= len(store.plan):
        store = LabelStore.open(store.storage.url)  # it may have grown since it was opened, and been labelled
    report.missing += sum(shard.index not in committed and len(shard) > 0 for shard in store.plan.shards())
    begun: deque[Future[CellCheck]] = deque()
    for index in sorted(committed):
        begun.append(pool.submit(check_cell, store, card, index, sizes, deep=report.deep))
        if len(begun) == in_work:
            yield begun.popleft().result()
    for check in begun:
        yield check.result()


def _column_folders(store: LabelStore) -> list[str]:
    return sorted(name for name in store.storage.names(LABELS) if "@" in name)


def _card(store: LabelStore, column: str, report: AuditReport) -> ExpertCard | None:
    if not store.storage.exists(f"{store.folder(column)}/{CARD}") and not store.committed(column, beyond=True):
        return (
            None  # a job is adding the column at this moment, or died when it was: it has no cell yet, and is no column
        )
    try:
        card = store.card(column)
    except (StoreError, ValueError, OSError) as error:
        what = f"its {CARD} cannot be used, so none of its cells can be read: {error}"
        report.findings.append(Finding(severity="error", column=column, shard=None, what=what))
        return None
    if card.column != column:
        what = f"its {CARD} is the card of {card.column}: it was changed by hand, restore it"
        report.findings.append(Finding(severity="error", column=column, shard=None, what=what))
        return None
    return card


def _plan_findings(store: LabelStore, deep: bool) -> Iterator[Finding]:
    """The manifests inside the store, held against the plan; and what its growths promise."""
    for part in store.plan.parts:
        try:
            manifest = Manifest.open(f"{store.storage.url}/{part.file}")
            if (manifest.fingerprint, len(manifest)) != (part.manifest, part.images):
                raise ValueError(
                    f"{part.file} is manifest {manifest.fingerprint[:16]} of {len(manifest)} images; the plan was made from "
                    f"{part.manifest[:16]} of {part.images}: restore it"
                )
            store.records(store.plan.shard(part.first))
            if deep:
                manifest.verify()
        except (ValueError, OSError, StoreError) as error:
            yield Finding(severity="error", column="", shard=None, what=str(error))
    for file in store.plan.files if isinstance(store.plan, GrownPlan) else ():
        try:
            with store.storage.open(f"{GROWTH}/{file.name}") as stream:
                digest = _sha256(stream) if deep else file.sha256
                found = (stream.seek(0, io.SEEK_END), digest)
        except OSError as error:
            what = f"{GROWTH}/{file.name} cannot be read ({error}); restore it"
        else:
            if found == (file.bytes, file.sha256):
                continue
            what = f"{GROWTH}/{file.name} was changed after it was written; restore it"
        yield Finding(severity="error", column="", shard=None, what=what)


def _sha256(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while data := stream.read(_READ_BYTES):
        digest.update(data)
    return digest.hexdigest()


def _sort_out(
    store: LabelStore,
    column: str,
    listed: dict[str, Entry],
    named: set[str],
    unknown: set[int],
    report: AuditReport,
    grace: float,
) -> None:
    """What is neither card nor receipt nor named by a receipt: garbage where the name is ours, else a stranger.

    Files of the shards ``unknown``, whose receipts are of another format, may be named by them.
    """
    for name, entry in sorted(listed.items()):
        match = DATA_FILE.fullmatch(name)
        if name in (CARD, GOLDEN) or name in named or _RECEIPT.fullmatch(name):
            continue
        if match is not None and int(match[1]) in unknown:
            continue
        if match is None and not name.startswith(TEMPORARY):
            what = f"{name} ({entry.bytes} bytes) is no file of a store; if you do not need it, remove it by hand"
            report.findings.append(Finding(severity="warning", column=column, shard=None, what=what))
            continue
        age, why = entry.age, "a temporary file that was never finished"
        if match is not None:
            receipt = listed.get(f"shard-{match[1]}.json")
            why = "replaced by a retry" if receipt else "an attempt that was never committed"
            # Replaced a moment ago, it may still be being read, however old it is.
            age = min(entry.age, receipt.age) if receipt else entry.age
        path = f"{store.folder(column)}/{name}"
        report.garbage.append(Garbage(name=path, bytes=entry.bytes, age=age, young=age < grace, why=why))


def _garbage_elsewhere(store: LabelStore, grace: float) -> Iterator[Garbage]:
    for entry in store.storage.entries(""):
        if entry.name.startswith(TEMPORARY) or _PLANNING.fullmatch(entry.name):
            yield Garbage(
                name=entry.name,
                bytes=entry.bytes,
                age=entry.age,
                young=entry.age < grace,
                why="planning that was interrupted",
            )
    yield from _garbage_of_growths(store, grace)
    for run in sorted(store.storage.names(ATTEMPTS)):
        for entry in store.storage.entries(f"{ATTEMPTS}/{run}"):
            yield Garbage(
                name=f"{ATTEMPTS}/{run}/{entry.name}",
                bytes=entry.bytes,
                age=entry.age,
                young=entry.age < grace,
                why="the journal of a unit that was not finished",
            )


def _garbage_of_growths(store: LabelStore, grace: float) -> Iterator[Garbage]:
    """Files of growths that never were, and lists that a later growth made out of date."""
    listed = list(store.storage.entries(GROWTH))
    # Listed before the growths that may name them are read: one that is committed in between keeps its files.
    plan = LabelStore.open(store.storage.url).plan if listed else store.plan
    needed = {file.name for file in plan.files} if isinstance(plan, GrownPlan) else set()
    out_of_date = plan.out_of_date if isinstance(plan, GrownPlan) else set()
    # Made out of date a moment ago, a list may still be being read, however old it is.
    last = min((entry.age for entry in listed if NUMBERED.fullmatch(entry.name)), default=0.0)
    for entry in listed:
        if entry.name not in needed and (DATA.fullmatch(entry.name) or entry.name.startswith(TEMPORARY)):
            age = min(entry.age, last) if entry.name in out_of_date else entry.age
            yield Garbage(
                name=f"{GROWTH}/{entry.name}",
                bytes=entry.bytes,
                age=age,
                young=age < grace,
                why="a list of an earlier growth" if entry.name in out_of_date else "a growth that was interrupted",
            )
