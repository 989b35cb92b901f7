"""Repair: takes damaged cells back, so that the next labelling job fills them, and sweeps garbage that is old enough.

Killed at any point, it leaves a valid store: a cell's receipt goes before its files, and files without a receipt are
garbage. It may run beside labelling jobs: what it removes was judged again just before, receipts after files.
"""

from __future__ import annotations

import hashlib

from pydantic import ValidationError

from pipeline.cell_check import DATA_FILE
from pipeline.errors import UnknownFormat
from pipeline.findings import GRACE_SECONDS, AuditReport, Garbage, Repairs
from pipeline.growth import GROWTH, NUMBERED, GrownPlan
from pipeline.plan import shard_name
from pipeline.receipt import Receipt
from pipeline.storage import Entry
from pipeline.store import ATTEMPTS, LABELS, LabelStore


def repair(store: LabelStore, report: AuditReport, *, grace_seconds: float = GRACE_SECONDS) -> Repairs:
    """Does what ``report`` asks for: withdraws its damaged cells, removes its garbage older than ``grace_seconds``.

    A damaged cell is withdrawn only if its receipt is still the one that was judged. Young files, files that a receipt
    names by now, and files that are not of a store stay. Run the same call again after a crash.
    """
    done = Repairs(beyond=[finding for finding in report.errors if not finding.receipt])
    for (column, index), judged in sorted(report.damaged.items()):
        _withdraw(store, column, index, judged, done)
    folders: dict[str, list[Garbage]] = {}
    for garbage in report.garbage:
        folders.setdefault(garbage.name.rpartition("/")[0], []).append(garbage)
    for folder, found in sorted(folders.items()):
        _sweep(store, folder, found, grace_seconds, done)
    for run in store.storage.names(ATTEMPTS):  # a driver that was killed leaves its folder, empty or not
        store.storage.prune(f"{ATTEMPTS}/{run}")
    store.storage.prune(ATTEMPTS)
    done.swept += store.storage.end_uploads(older=grace_seconds)
    return done


def _withdraw(store: LabelStore, column: str, index: int, judged: str, done: Repairs) -> None:
    try:
        data = store.storage.read(f"{store.folder(column)}/{shard_name(index)}.json")
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != judged:
        done.changed.append((column, index))
        return
    store.withdraw(column, index)
    done.withdrawn.append((column, index))
    try:
        receipt = Receipt.read(data)
    except ValidationError:
        return  # its files are in the report as garbage
    for entry in (receipt.table, receipt.tar):
        match = DATA_FILE.fullmatch(entry.name) if entry else None
        # Only what is this cell's own: a strange receipt may name another cell's files.
        if entry is not None and match is not None and int(match[1]) == index:
            _remove(store, f"{store.folder(column)}/{entry.name}", entry.bytes, done)


def _sweep(store: LabelStore, folder: str, found: list[Garbage], grace: float, done: Repairs) -> None:
    listed = {entry.name: entry for entry in store.storage.entries(folder)}
    out_of_date: set[str] = set()
    if folder == GROWTH and isinstance(plan := LabelStore.open(store.storage.url).plan, GrownPlan):
        out_of_date = plan.out_of_date
        for file in plan.files:
            listed.pop(file.name, None)
    last = min((entry.age for entry in listed.values() if NUMBERED.fullmatch(entry.name)), default=0.0)
    for garbage in found:
        name = garbage.name.rpartition("/")[2]
        entry = listed.get(name)
        if entry is None:
            continue
        age = min(entry.age, last) if name in out_of_date else entry.age
        match = DATA_FILE.fullmatch(name) if folder.startswith(f"{LABELS}/") else None
        if match is not None:
            names, receipt_age = _named_now(store, folder, int(match[1]), listed)
            if names is None or name in names:
                continue
            age = min(age, receipt_age)
        if age < grace or name.startswith("."):
            done.kept.append(garbage.model_copy(update={"age": age, "young": age < grace}))
        else:
            _remove(store, garbage.name, entry.bytes, done)


def _named_now(store: LabelStore, folder: str, index: int, listed: dict[str, Entry]) -> tuple[set[str] | None, float]:
    """The files that the shard's receipt names at this moment (None: it cannot be read), and the receipt's age."""
    name = f"{shard_name(index)}.json"
    try:
        receipt = Receipt.read(store.storage.read(f"{folder}/{name}"))
    except FileNotFoundError:
        return set(), float("inf")
    except (ValidationError, UnknownFormat):
        return None, 0.0
    # A receipt that is younger than the listing replaced another one a moment ago.
    age = listed[name].age if name in listed else 0.0
    return {entry.name for entry in (receipt.table, receipt.tar) if entry is not None}, age


def _remove(store: LabelStore, name: str, size: int, done: Repairs) -> None:
    if store.storage.exists(name):
        store.storage.delete(name)
        done.swept.append(name)
        done.bytes_freed += size
