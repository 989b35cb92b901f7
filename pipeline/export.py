"""Export of a store as WebDataset: one tar a shard, readable by the `webdataset` package and by plain tar.

    out/dataset.json     which store, which columns, and the LabelSpec of each; written first
    out/000042.tar       the samples of shard 42 in manifest order
    out/000042.json      the tar's own small receipt; written last, so that a tar without one is not finished

Members of a sample, whose key is the image's id; a label has one if and only if its status is ok:

    <key>.json                   record, captions, sizes; status and reason of every column, scale and bias of maps
    <key>.txt                    the captions, one a line, where there are any
    <key>.jpg, .png, ...         the photo, from a column of kind image
    <key>.<expert>.png           map or class map, the store's own bytes
    <key>.<expert>.json          instances, words, text, score
    <key>.<expert>.mask003.png   the mask of instance 3

webdataset's own decoders fit the photo, the texts and the JSON; they would make 8 bits of a 16-bit map: decode those with
OpenCV, and apply scale and bias. The same cells give the same bytes, whoever exports them and when.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from expert_zoo.card import ExpertCard
from manifests.record import ImageRecord
from pipeline.cell import CellReader
from pipeline.errors import DamagedCell, StoreError
from pipeline.export_sample import sample_members
from pipeline.findings import GRACE_SECONDS
from pipeline.plan import Shard
from pipeline.reader import LabelReader
from pipeline.storage import TEMPORARY, Storage, open_storage
from pipeline.store import PLAN, LabelStore

FORMAT = 1
DATASET = "dataset.json"
_OURS = re.compile(r"(\d{6,})\.(tar|json)")
_READ_BYTES = 1 << 20
#: So many tars that are not there are told by name.
SHOWN_ABSENT = 3

#: Called with (shards done, shards in all).
Progress = Callable[[int, int], None]


class TarReceipt(BaseModel):
    """What makes a tar complete. ``cells``: by column the attempt it was made of, None where the cell was missing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    plan: str
    cells: dict[str, str | None]
    tar: str
    bytes: int
    sha256: str
    samples: int


class ExportReport(BaseModel):
    """What an export did. ``written``, ``skipped``: tars; ``left_out``: shards without any committed cell.

    ``missing``: cells not committed in shards that were exported: run `label` and export again to have them.
    """

    url: str
    columns: list[str]
    written: int = 0
    skipped: int = 0
    left_out: int = 0
    samples: int = 0
    bytes: int = 0
    missing: int = 0
    labels: dict[str, int] = Field(default_factory=dict)


def export_webdataset(
    store: LabelStore,
    out_url: str,
    *,
    columns: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Writes ``columns`` (default: all) of ``store`` to the folder or URL ``out_url``; see the module for the layout.

    A tar whose receipt names the cells as they are now is skipped; others are (re)made. ``overwrite``: remove an earlier
    export first, whatever store it came from. ``labels`` of the report counts the statuses of what was written now.

    Raises StoreError where the columns cannot stand side by side (two versions of one expert, two columns of photos), where
    there is something else at ``out_url``, or an export of another store or of other columns; DamagedCell where a cell
    cannot be read.
    """
    cards = LabelReader(store, columns).cards
    _check_columns(store, cards)
    out = open_storage(out_url)
    _prepare(out, store, cards, overwrite)
    report = ExportReport(url=out.url, columns=[card.column for card in cards.values()])
    committed = {name: store.committed(card.column) for name, card in cards.items()}
    for shard in store.plan.shards():
        names = [name for name in cards if shard.index in committed[name]]
        if names:
            _export_shard(store, out, shard, cards, names, report)
        else:
            report.left_out += 1
        if progress is not None:
            progress(shard.index + 1, len(store.plan))
    return report


def verify(out_url: str) -> list[str]:
    """What is wrong with an export, in plain words: a tar that is missing, changed, or without a receipt. [] if nothing.

    A shard that was not labelled when it was exported has no tar either, and is named as well: the export is not whole.

    Reads every tar once. Raises StoreError where there is no export.
    """
    out = open_storage(out_url)
    shards = _read_dataset(out)["shards"]
    names = set(out.names(""))
    problems = []
    for name in sorted(name for name in names if _OURS.fullmatch(name)):
        stem, _, ending = name.partition(".")
        if ending == "tar":
            if f"{stem}.json" not in names:
                problems.append(f"{name} is not finished: it has no {stem}.json; export again")
            continue
        receipt = _read_receipt(out, name)
        if receipt is None:
            problems.append(f"{name} is no receipt of a tar; export again")
        elif receipt.tar not in names:
            problems.append(f"{receipt.tar} is missing; remove {name} and export again")
        elif _sha256(out, receipt.tar) != receipt.sha256:
            problems.append(f"{receipt.tar} was changed after it was written; remove {name} and export again")
    absent = [stem for stem in map("{:06d}".format, range(shards)) if not {f"{stem}.tar", f"{stem}.json"} & names]
    if absent:
        shown = ", ".join(f"{stem}.tar" for stem in absent[:SHOWN_ABSENT]) + ", ..." * (len(absent) > SHOWN_ABSENT)
        problems.append(
            f"{len(absent)} of {shards} shards are not there ({shown}); label what is missing and export again"
        )
    return problems


# ---- before


def _check_columns(store: LabelStore, cards: Mapping[str, ExpertCard]) -> None:
    if not cards:
        raise StoreError(f"{store.storage.url} has no column to export; label it first")
    photos = [card.column for card in cards.values() if card.spec.kind == "image"]
    if len(photos) > 1:
        raise StoreError(f"{' and '.join(photos)} both hold the photo, a sample has room for one; name the columns")


def _dataset(store: LabelStore, cards: Mapping[str, ExpertCard]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "plan": store.plan.fingerprint,
        "manifest": store.plan.manifest,
        "images": store.plan.images,
        "shards": len(store.plan),
        "columns": {
            name: {
                "column": card.column,
                "summary": card.summary,
                "licence": card.licence,
                "commercial_use": card.commercial_use,
                "spec": card.spec.model_dump(mode="json"),
            }
            for name, card in sorted(cards.items())
        },
    }


def _prepare(out: Storage, store: LabelStore, cards: Mapping[str, ExpertCard], overwrite: bool) -> None:
    wanted = _dataset(store, cards)
    data = json.dumps(wanted, indent=1).encode()
    names = out.names("")
    if PLAN in names:
        raise StoreError(f"{out.url} is a label store; export into another folder")
    if DATASET not in names and any(_OURS.fullmatch(name) for name in names):
        raise StoreError(f"{out.url} has tars but no {DATASET}: not an export of ours; name an empty folder")
    if overwrite:
        # Receipts first: a tar without one is not finished, so that a crash here leaves nothing that looks whole.
        for ending in (".json", ".tar"):
            for name in names:
                if _OURS.fullmatch(name) and name.endswith(ending):
                    out.delete(name)
        out.replace(DATASET, data)
    elif not out.publish(DATASET, data):
        _check_same(out, _read_dataset(out), wanted)
    for entry in list(out.entries("")):
        # Young ones may belong to another export of the same.
        if entry.name.startswith(TEMPORARY) and entry.age > GRACE_SECONDS:
            out.delete(entry.name)


def _check_same(out: Storage, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if found.get("plan") != wanted["plan"]:
        raise StoreError(
            f"{out.url} is an export of another store (plan {found.get('plan')}, this store has {wanted['plan']}); "
            "name another folder, or overwrite it"
        )
    there, asked = ([c["column"] for c in about["columns"].values()] for about in (found, wanted))
    if there != asked:
        raise StoreError(
            f"{out.url} is an export of {', '.join(there)}; asked for is {', '.join(asked)}: name another folder, the "
            "same columns, or overwrite it"
        )


def _read_dataset(out: Storage) -> dict[str, Any]:
    try:
        found = json.loads(out.read(DATASET))
        if found["format"] != FORMAT:
            raise StoreError(f"{out.url} is an export of format {found['format']}; this version knows {FORMAT}")
    except FileNotFoundError:
        raise StoreError(f"{out.url} is no export: {DATASET} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{out.url}/{DATASET} is not what an export writes: {error!r}") from error
    return cast("dict[str, Any]", found)


# ---- one tar


def _export_shard(
    store: LabelStore,
    out: Storage,
    shard: Shard,
    cards: Mapping[str, ExpertCard],
    names: Sequence[str],
    report: ExportReport,
) -> None:
    stem = f"{shard.index:06d}"
    receipts = {name: store.receipt(cards[name].column, shard) for name in names}
    cells = {card.column: receipts[name].attempt if name in receipts else None for name, card in sorted(cards.items())}
    report.missing += len(cards) - len(names)
    report.samples += len(shard)
    old = _read_receipt(out, f"{stem}.json")
    if old is not None and (old.plan, old.cells) == (store.plan.fingerprint, cells) and out.exists(old.tar):
        report.skipped += 1
        report.bytes += old.bytes
        return
    for ending in ("json", "tar"):
        out.delete(f"{stem}.{ending}")
    with ExitStack() as stack, out.create(f"{TEMPORARY}{uuid.uuid4().hex}") as file:
        readers = {
            name: stack.enter_context(store.read(cards[name].column, shard, receipts[name])) for name in receipts
        }
        with tarfile.open(mode="w|", fileobj=cast(Any, file), format=tarfile.GNU_FORMAT, bufsize=_READ_BYTES) as tar:
            for index, record in enumerate(store.records(shard)):
                rows = {name: _row(store, reader, shard, index, record) for name, reader in readers.items()}
                for name in cards:
                    status = rows[name]["status"] if name in rows else "missing"
                    report.labels[status] = report.labels.get(status, 0) + 1
                for ending, data in sample_members(record, cards, readers, rows):
                    _add(tar, f"{record.image_id}.{ending}", data)
    # Another export of the same cells may have been faster; its bytes are the same.
    out.settle(file.name, f"{stem}.tar")
    receipt = TarReceipt(
        plan=store.plan.fingerprint,
        cells=cells,
        tar=f"{stem}.tar",
        bytes=file.bytes,
        sha256=file.sha256,
        samples=len(shard),
    )
    out.publish(f"{stem}.json", receipt.model_dump_json(indent=1).encode())
    report.written += 1
    report.bytes += file.bytes


def _row(store: LabelStore, reader: CellReader, shard: Shard, index: int, record: ImageRecord) -> dict[str, Any]:
    if len(reader.rows) != len(shard) or reader.rows[index]["image_id"] != record.image_id:
        raise DamagedCell(
            f"cell {reader.card.column}/{shard.name} of {store.storage.url} does not hold the images of its shard; "
            "`expert-labels audit --deep --repair` takes it back"
        )
    return reader.rows[index]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # No times and no owners: the same cells are the same bytes.
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _read_receipt(out: Storage, name: str) -> TarReceipt | None:
    try:
        return TarReceipt.model_validate_json(out.read(name), extra="ignore")
    except (FileNotFoundError, ValidationError):
        return None


def _sha256(out: Storage, name: str) -> str:
    digest = hashlib.sha256()
    with out.open(name) as stream:
        while data := stream.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()
