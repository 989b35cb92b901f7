"""Exports a store, or holds an export against its store. Shard after shard, so that memory is that of one shard.

A shard whose receipt names the cells as they are now is left alone, so that an export can be killed and gone on with, and a
store that was labelled further is exported further.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from pydantic import BaseModel, Field

from expert_zoo.card import ExpertCard
from pipeline.errors import StoreError
from pipeline.exports.claim import CLAIM, LOCK, claimed
from pipeline.exports.files import Compared
from pipeline.exports.layout import Layout
from pipeline.exports.pieces import Pieces, origin_of
from pipeline.exports.record import EXPORT, RECEIPTS, ExportRecord, PieceReceipt, read_receipt, read_record
from pipeline.reader import LabelReader
from pipeline.storage import TEMPORARY, Storage, open_storage
from pipeline.store import PLAN, LabelStore

#: So many of a kind are told by name.
SHOWN = 3
#: Called with (shards done, shards in all).
Progress = Callable[[int, int], None]


class ExportReport(BaseModel):
    """What an export did. ``written``, ``skipped``: shards; ``left_out``: shards without any committed cell.

    ``missing``: cells not committed in shards that were exported: run `label` and export again to have them. ``labels``: the
    statuses of what was written now. ``columns_left``: expert -> why the layout has no room for it. ``files``, ``bytes``,
    ``photos_failed``: of what was written now, the last by code of the reason; ``unread``: some of them, image -> reason.
    """

    url: str
    layout: str
    columns: list[str]
    columns_left: dict[str, str] = Field(default_factory=dict)
    written: int = 0
    skipped: int = 0
    left_out: int = 0
    samples: int = 0
    files: int = 0
    bytes: int = 0
    missing: int = 0
    photos_failed: dict[str, int] = Field(default_factory=dict)
    unread: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, int] = Field(default_factory=dict)

    def add(self, receipt: PieceReceipt) -> None:
        """Counts a shard that was written now."""
        self.written += 1
        self.files += receipt.small + len(receipt.files)
        self.bytes += receipt.bytes
        codes = Counter(reason.partition(":")[0] for reason in receipt.unread.values())
        self.photos_failed = dict(Counter(self.photos_failed) + codes)
        self.unread = dict([*self.unread.items(), *receipt.unread.items()][:SHOWN])
        self.labels = dict(Counter(self.labels) + Counter(receipt.labels))


def export(
    store: LabelStore,
    out_url: str,
    layout: Layout,
    *,
    columns: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Writes ``columns`` of ``store`` to the folder or URL ``out_url``. Default: all that the layout has room for.

    overwrite: removes the receipts of an earlier export first, whatever store it came from, so that all is written anew.

    Raises StoreError where the layout has no room for a column that was named, or cannot hold the images, where another export
    is at work, where there is something else at ``out_url``, or an export of another store, layout or columns; DamagedCell
    where a cell cannot be read.
    """
    reader = LabelReader(store, columns)
    taken = layout.take(reader.cards)
    if taken.left:
        reader = LabelReader(store, [card.column for card in taken.cards.values()])
    if columns is not None and taken.left:
        raise StoreError(f"{layout.name}: " + "; ".join(f"{name}: {why}" for name, why in taken.left.items()))
    cards = dict(sorted(taken.cards.items()))
    _check_columns(store, layout, cards, taken.left)
    out = open_storage(out_url)
    _check_place(out)
    layout.check(record for shard in store.plan.shards() for record in store.records(shard))
    report = ExportReport(
        url=out.url, layout=layout.name, columns=[card.column for card in cards.values()], columns_left=taken.left
    )
    with closing(reader), claimed(out) as renew:
        _prepare(out, _record_of(store, layout, cards), overwrite)
        pieces = Pieces(store, out, layout, reader, cards)
        receipts: dict[int, PieceReceipt] = {}
        for shard in store.plan.shards():
            made = pieces.made_of(shard)
            if made.cells:
                receipt = pieces.receipt(shard.index, made)
                report.skipped += receipt is not None
                if receipt is None:
                    receipt = pieces.write(shard, made)
                    report.add(receipt)
                receipts[shard.index] = receipt
                report.missing += sum(attempt is None for attempt in made.cells.values())
                renew()
            else:
                report.left_out += 1
            if progress is not None:
                progress(shard.index + 1, len(store.plan))
        pieces.finish(receipts)
    report.samples = sum(receipt.samples for receipt in receipts.values())
    return report


def verify(store: LabelStore, out_url: str, layout: Layout, *, progress: Progress | None = None) -> list[str]:
    """What is wrong with an export, in plain words; [] if nothing. Makes every file again and compares it with the one there.

    layout: made from the settings in export.json. A shard that was not labelled when it was exported is named as well: the
    export is not whole. Raises StoreError where there is no export, or one of another store.
    """
    out = open_storage(out_url)
    record = read_record(out)
    with closing(LabelReader(store, record.column_names)) as reader:
        cards = dict(sorted(reader.cards.items()))
        _check_same(out, record, _record_of(store, layout, cards))
        pieces = Pieces(store, out, layout, reader, cards)
        problems: list[str] = []
        absent: list[int] = []
        receipts: dict[int, PieceReceipt] = {}
        for shard in store.plan.shards():
            receipt = read_receipt(out, shard.index)
            if receipt is None:
                absent.append(shard.index)
            elif (receipt.cells, receipt.images) != pieces.made_of(shard):
                problems.append(f"shard {shard.index:06d} was labelled again or further since it was exported")
            else:
                receipts[shard.index] = receipt
                problems += pieces.compare(shard, receipt)
            if progress is not None:
                progress(shard.index + 1, len(store.plan))
        if absent:
            shown = ", ".join(f"{index:06d}" for index in absent[:SHOWN]) + ", ..." * (len(absent) > SHOWN)
            problems.append(f"{len(absent)} of {len(store.plan)} shards are not there ({shown})")
        elif not problems:
            files = Compared(out)
            layout.finish(cards, sorted(receipts), files)
            problems += files.problems
    return [f"{problem}; export again" for problem in problems]


# ---- before


def _check_columns(store: LabelStore, layout: Layout, cards: Mapping[str, ExpertCard], left: Mapping[str, str]) -> None:
    if not cards:
        why = "; ".join(f"{name}: {reason}" for name, reason in left.items()) or "label it first"
        raise StoreError(f"{store.storage.url} has no column to export as {layout.name}: {why}")
    photos = [card.column for card in cards.values() if card.spec.kind == "image"]
    if len(photos) > 1:
        raise StoreError(f"{' and '.join(photos)} both hold the photo, a sample has room for one; name the columns")


def _record_of(store: LabelStore, layout: Layout, cards: Mapping[str, ExpertCard]) -> ExportRecord:
    about = {
        name: {
            "column": card.column,
            "summary": card.summary,
            "licence": card.licence,
            "commercial_use": card.commercial_use,
            "spec": card.spec.model_dump(mode="json"),
        }
        for name, card in cards.items()
    }
    settings = json.loads(json.dumps(layout.settings()))
    return ExportRecord(layout=layout.name, settings=settings, plan=origin_of(store), columns=about)


def _check_place(out: Storage) -> None:
    names = set(out.names("")) - {LOCK, CLAIM}
    if PLAN in names:
        raise StoreError(f"{out.url} is a label store; export into another folder")
    if EXPORT not in names and any(not name.startswith(TEMPORARY) for name in names):
        raise StoreError(f"{out.url} holds something that is no export of ours; name a new or an empty folder")


def _prepare(out: Storage, wanted: ExportRecord, overwrite: bool) -> None:
    for name in out.names(""):
        if name.startswith(TEMPORARY):
            out.delete(name)
    data = wanted.model_dump_json(indent=1).encode()
    if overwrite:
        _clear(out, wanted)
        out.replace(EXPORT, data)
    elif not out.publish(EXPORT, data):
        _check_same(out, read_record(out), wanted)


def _clear(out: Storage, wanted: ExportRecord) -> None:
    if not out.exists(EXPORT):
        return
    found = read_record(out)
    if found.layout != wanted.layout:
        raise StoreError(f"{out.url} is an export as {found.layout}, not {wanted.layout}; name another folder")
    for name in out.names(RECEIPTS):
        receipt = read_receipt(out, name.removesuffix(".json"))
        if receipt is not None and receipt.small and found != wanted:
            raise StoreError(
                f"{out.url} holds thousands of small files of another export, which nothing here keeps a list of; remove the folder "
                "yourself, or name another one"
            )
        # A piece without a receipt is not finished, so that a crash here leaves nothing that looks whole.
        out.delete(f"{RECEIPTS}/{name}")
        for entry in receipt.files if receipt else ():
            out.delete(entry.name)


def _check_same(out: Storage, found: ExportRecord, wanted: ExportRecord) -> None:
    if found.layout != wanted.layout:
        raise StoreError(f"{out.url} is an export as {found.layout}, not {wanted.layout}; name another folder")
    if found.plan != wanted.plan:
        raise StoreError(
            f"{out.url} is an export of another store (plan {found.plan}, this one has {wanted.plan}); "
            "name another folder, or overwrite it"
        )
    if found.column_names != wanted.column_names:
        raise StoreError(
            f"{out.url} is an export of {', '.join(found.column_names)}; asked for is {', '.join(wanted.column_names)}: name "
            "another folder, the same columns, or overwrite it"
        )
    for name in sorted(found.settings.keys() | wanted.settings.keys()):
        there, asked = found.settings.get(name), wanted.settings.get(name)
        if there != asked:
            raise StoreError(
                f"{out.url} was exported with {name} {there!r}, asked for is {asked!r}; name another folder, or overwrite it"
            )
