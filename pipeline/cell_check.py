"""One committed cell held against its receipt and, on request, byte for byte and label for label against its plan.

Everything here reads; nothing writes. A problem is (severity, sentence), the gravest kind first.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from expert_zoo.card import ExpertCard
from expert_zoo.labels import ClassMap, DenseMap, Label
from expert_zoo.spec import LabelSpec
from pipeline.codec import DENSE, decode, member_ending, table_schema
from pipeline.errors import StoreError, UnknownFormat
from pipeline.findings import Finding, Severity
from pipeline.plan import shard_name
from pipeline.receipt import FileEntry, Receipt, Rows
from pipeline.store import LabelStore

#: A data file of a cell: shard index, attempt, ending.
DATA_FILE = re.compile(r"shard-(\d{6,})\.([0-9a-f]+)\.(parquet|tar)")
#: So many problems of one cell are told one by one.
SHOWN_PROBLEMS = 3
#: Common columns, and those that an ok row may leave null.
_MAY_BE_NULL = {"image_id", "status", "reason", "height", "width", "masks"}
_READ_BYTES = 1 << 20

Problem = tuple[Severity, str]


@dataclass(slots=True)
class CellCheck:
    """What became of the check of one cell. ``receipt``: None where it is gone, unknown or no receipt.

    ``unknown``: the receipt is of another format, so that nobody here can tell which files it names.
    """

    index: int
    receipt: Receipt | None = None
    unknown: bool = False
    findings: list[Finding] = field(default_factory=list)


def check_cell(store: LabelStore, card: ExpertCard, index: int, sizes: Mapping[str, int], *, deep: bool) -> CellCheck:
    """The findings about the cell of ``card`` in shard ``index``; none if it was withdrawn in the meantime.

    ``sizes``: bytes by name, from a listing of the column's folder that may be older than the cell. A cell that a running
    retry replaces during the check is checked again.
    """
    name = f"{store.folder(card.column)}/{shard_name(index)}.json"
    check = CellCheck(index)
    data: bytes | None = None
    while (found := _read(store, name)) is not None and found != data:
        data = found
        try:
            check.receipt, problems = _judge(store, card, index, data, sizes, deep)
        except UnknownFormat as error:
            # Without the receipt's digest no repair touches the cell: its labels may be as good as any.
            finding = Finding(severity="error", column=card.column, shard=index, what=str(error))
            return CellCheck(index, findings=[finding], unknown=True)
        digest = hashlib.sha256(data).hexdigest()
        check.findings = [
            Finding(severity=severity, column=card.column, shard=index, what=what, receipt=digest)
            for severity, what in _shortened(problems)
        ]
        if not problems:
            return check
    return check if found is not None else CellCheck(index)


def _read(store: LabelStore, name: str) -> bytes | None:
    try:
        return store.storage.read(name)
    except FileNotFoundError:
        return None


def _shortened(problems: list[Problem]) -> Iterator[Problem]:
    severities: tuple[Severity, ...] = ("error", "warning")
    for severity in severities:
        told = [problem for problem in problems if problem[0] == severity]
        yield from told[:SHOWN_PROBLEMS]
        if len(told) > SHOWN_PROBLEMS:
            yield severity, f"and {len(told) - SHOWN_PROBLEMS} more of this kind in the same cell"


def _judge(
    store: LabelStore, card: ExpertCard, index: int, data: bytes, sizes: Mapping[str, int], deep: bool
) -> tuple[Receipt | None, list[Problem]]:
    try:
        receipt = Receipt.read(data)
    except ValidationError as error:
        return None, [("error", f"the receipt is no receipt: {error.errors()[0]['msg']}")]
    told = list(_receipt_problems(store, card, index, receipt)) or list(_file_problems(store, card, receipt, sizes))
    if told or not deep:
        return receipt, [("error", what) for what in told]
    return receipt, list(_deep_problems(store, card, receipt))


def _receipt_problems(store: LabelStore, card: ExpertCard, index: int, receipt: Receipt) -> Iterator[str]:
    plan = store.plan.part(index).fingerprint
    if receipt.plan != plan:
        yield f"the receipt is of plan {receipt.plan}; this store's is {plan}"
    if receipt.column != card.column:
        yield f"the receipt is of column {receipt.column}"
    if receipt.shard != index:
        yield f"the receipt is of shard {receipt.shard}"
    if index >= len(store.plan):
        yield f"the plan has {len(store.plan)} shards, so there is no shard {index}"
        return
    expected = store.plan.shard(index).rows
    if len(receipt.rows) != expected:
        yield f"the receipt counts {len(receipt.rows)} rows; the shard has {expected} images"
    stem = f"{shard_name(index)}.{receipt.attempt}"
    if receipt.table.name != f"{stem}.parquet":
        yield f"the receipt names {receipt.table.name!r}; expected {stem}.parquet"
    expected_tar = f"{stem}.tar" if card.spec.kind in DENSE else None
    found_tar = receipt.tar.name if receipt.tar else None
    if found_tar != expected_tar:
        yield f"the receipt names the tar {found_tar!r}; expected {expected_tar!r} for kind {card.spec.kind!r}"


def _file_problems(store: LabelStore, card: ExpertCard, receipt: Receipt, sizes: Mapping[str, int]) -> Iterator[str]:
    for entry in _entries(receipt):
        if sizes.get(entry.name) == entry.bytes:
            continue
        # Committed or mended since the listing? Ask for this one file.
        try:
            with store.storage.open(f"{store.folder(card.column)}/{entry.name}") as stream:
                size = stream.seek(0, io.SEEK_END)
        except FileNotFoundError:
            yield f"{entry.name} is missing"
            continue
        if size != entry.bytes:
            yield f"{entry.name} has {size} bytes; the receipt says {entry.bytes}"


def _entries(receipt: Receipt) -> list[FileEntry]:
    return [entry for entry in (receipt.table, receipt.tar) if entry is not None]


# ---- deep


def _deep_problems(store: LabelStore, card: ExpertCard, receipt: Receipt) -> Iterator[Problem]:
    folder = store.folder(card.column)
    try:
        data = store.storage.read(f"{folder}/{receipt.table.name}")
    except OSError as error:
        yield "error", f"{receipt.table.name} cannot be read: {error}"
        return
    rows: list[dict[str, Any]] = []
    if hashlib.sha256(data).hexdigest() != receipt.table.sha256:
        yield "error", f"{receipt.table.name} was changed after it was committed: its sha256 is not the receipt's"
    else:
        problems, rows = _table_problems(store, card, receipt, data)
        yield from problems
    for row in rows:
        if receipt.tar is None or row["status"] != "ok":
            yield from _label_problems(card.spec, row, None, {})
    if receipt.tar is None:
        return
    try:
        with store.storage.open(f"{folder}/{receipt.tar.name}") as stream:
            hashing = _Hashing(stream)
            found = list(_tar_problems(hashing, card, [row for row in rows if row["status"] == "ok"]))
            hashing.drain()
    except OSError as error:
        yield "error", f"{receipt.tar.name} cannot be read: {error}"
        return
    if hashing.sha256 != receipt.tar.sha256:
        # What else is wrong in it follows from that.
        yield "error", f"{receipt.tar.name} was changed after it was committed: its sha256 is not the receipt's"
    elif rows:
        yield from found


def _table_problems(
    store: LabelStore, card: ExpertCard, receipt: Receipt, data: bytes
) -> tuple[list[Problem], list[dict[str, Any]]]:
    """The problems, and the rows if they can be looked at one by one."""
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        return [("error", f"{receipt.table.name} is no Parquet file: {error}")], []
    schema = table_schema(card.spec)
    if not table.schema.equals(schema, check_metadata=False):
        odd = [field.name for field in schema if field not in table.schema]
        what = ", ".join(odd or sorted(set(table.column_names) - set(schema.names)) or ["the order of columns"])
        return [("error", f"{receipt.table.name} has not the schema of kind {card.spec.kind!r}; look at: {what}")], []
    rows: list[dict[str, Any]] = table.to_pylist()
    try:
        expected = [record.image_id for record in store.records(store.plan.shard(receipt.shard), dropped=True)]
    except (StoreError, ValueError, OSError) as error:
        return [("error", f"the manifest's rows of this shard cannot be read: {error}")], []
    ids = [row["image_id"] for row in rows]
    if ids != expected:
        what = _first_difference(ids, expected)
        return [("error", f"the rows are not the shard's images in the manifest's order: {what}")], []
    problems: list[Problem] = [
        ("error", f"{row['image_id']}: unknown status {row['status']!r}; expected ok, empty or failed")
        for row in rows
        if row["status"] not in ("ok", "empty", "failed")
    ]
    if problems:
        return problems, []
    if Rows.count((row["status"], row["reason"]) for row in rows) != receipt.rows:
        problems.append(("error", "the receipt's counts are not those of the rows"))
    return problems, rows


def _first_difference(ids: list[str], expected: list[str]) -> str:
    if len(ids) != len(expected):
        return f"{len(ids)} rows for {len(expected)} images"
    row = next(row for row, pair in enumerate(zip(ids, expected, strict=True)) if pair[0] != pair[1])
    return f"row {row} is {ids[row]!r}, expected {expected[row]!r}"


def _tar_problems(stream: _Hashing, card: ExpertCard, rows: list[dict[str, Any]]) -> Iterator[Problem]:
    """One pass from front to end: as many bytes are read as the tar has, once, wherever it lies."""
    map_sizes: dict[tuple[int, int], tuple[int, int]] = {}
    end = 0
    try:
        with tarfile.open(mode="r|", fileobj=stream, bufsize=_READ_BYTES) as tar:  # type: ignore[call-overload]
            for member, row in zip_longest(tar, rows):
                if member is None:
                    yield "error", f"{row['image_id']} is ok but the tar ends before its member"
                    continue
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if row is None:
                    yield "error", f"the tar holds {member.name!r}, which no row names"
                    continue
                expected = f"{row['image_id']}.{card.name}.{member_ending(card.spec, row)}"
                if member.name != expected or not member.isreg():
                    yield "error", f"the tar holds {member.name!r} where {expected!r} should be"
                elif (row["offset"], row["length"]) != (member.offset_data, member.size):
                    place = f"{row['length']} bytes at {row['offset']}"
                    yield "error", f"{expected} is {member.size} bytes at {member.offset_data}; its row says {place}"
                else:
                    content = tar.extractfile(member)
                    assert content is not None
                    yield from _label_problems(card.spec, row, content.read(), map_sizes)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        yield "error", f"the tar cannot be read to its end: {error}"
        return
    stream.drain()
    if not 0 <= stream.bytes - end - 2 * tarfile.BLOCKSIZE < tarfile.RECORDSIZE:
        yield "error", f"the tar's last member ends at {end}, the file at {stream.bytes}: something follows, or is cut"


def _label_problems(
    spec: LabelSpec, row: dict[str, Any], member: bytes | None, map_sizes: dict[tuple[int, int], tuple[int, int]]
) -> Iterator[Problem]:
    image_id, size = row["image_id"], (row["height"], row["width"])
    own = [name for name in table_schema(spec).names if name not in _MAY_BE_NULL]
    if row["status"] != "ok":
        filled = [name for name in own if row[name] is not None]
        if filled:
            yield "error", f"{image_id} is {row['status']} but has {', '.join(filled)}"
        if row["status"] == "failed" and not row["reason"]:
            yield "error", f"{image_id} failed without a reason"
        return
    absent = [name for name in own if row[name] is None]
    if absent or None in size:
        yield "error", f"{image_id} is ok but lacks {', '.join(absent) or 'the size of its photo'}"
        return
    try:
        label = decode(spec, row, member)
        what = spec.problem_with(label, height=size[0], width=size[1])
    except ValueError as error:
        what = str(error)
    if what:
        yield "error", f"{image_id}: {what}"
    else:
        yield from _map_size_problems(label, image_id, size, map_sizes)


def _map_size_problems(
    label: Label, image_id: str, size: tuple[int, int], map_sizes: dict[tuple[int, int], tuple[int, int]]
) -> Iterator[Problem]:
    match label.value:
        case DenseMap(values):
            found = (values.shape[0], values.shape[1])
        case ClassMap(ids_HW):
            found = (ids_HW.shape[0], ids_HW.shape[1])
        case _:
            return
    said = f"{image_id}: a map of {found[0]} x {found[1]} (height x width) for a photo of {size[0]} x {size[1]}"
    usual = map_sizes.setdefault(size, found)
    if found != usual:
        # No rule fixes a map's size, but the same network gives photos of one size maps of one size.
        yield "error", f"{said}; another photo of that size has one of {usual[0]} x {usual[1]}"
    elif (found[0] - found[1]) * (size[0] - size[1]) < 0 and min(found) < 0.95 * max(found):
        yield "warning", f"{said}: height and width look exchanged"


class _Hashing:
    """A stream for tarfile that remembers the digest and the number of the bytes that went through."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        self.bytes += len(data)
        return data

    def drain(self) -> None:
        while self.read(_READ_BYTES):
            pass
