"""Damages to plant in a store, one by one, and what an audit should say about each."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.codec import table_schema
from pipeline.png import write_png
from pipeline.store import LabelStore

#: The damage is always in this cell of its column; shard 1 of `tests.test_audit` holds two photos of one size.
SHARD = 1


def column_folder(store: LabelStore, name: str) -> Path:
    return Path(store.storage.url) / store.folder(store.column_of(name))


def receipt_path(store: LabelStore, name: str) -> Path:
    return column_folder(store, name) / f"shard-{SHARD:06d}.json"


def data_path(store: LabelStore, name: str, ending: str) -> Path:
    (found,) = column_folder(store, name).glob(f"shard-{SHARD:06d}.*.{ending}")
    return found


def edit_receipt(store: LabelStore, name: str, **changes: Any) -> None:
    path = receipt_path(store, name)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


class Cell:
    """A cell taken apart, to be changed and put together again with a receipt that fits its files."""

    def __init__(self, store: LabelStore, name: str) -> None:
        self.table, self.tar = data_path(store, name, "parquet"), None
        self._receipt = receipt_path(store, name)
        self.expert = name
        card = store.card(store.column_of(name))
        self.schema = table_schema(card.spec)
        self.rows: list[dict[str, Any]] = pq.read_table(self.table).to_pylist()
        self.members: list[tuple[str, bytes]] = []
        if "offset" in self.schema.names:
            self.tar = data_path(store, name, "tar")
            with tarfile.open(self.tar) as tar:
                self.members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]

    def replace_map(self, row: int, pixels: np.ndarray) -> None:
        name, _ = self.members[row]
        self.members[row] = name, write_png(pixels)

    def commit(self, *, place_members: bool = True, tail: bytes = b"") -> None:
        told = json.loads(self._receipt.read_text())
        if self.tar is not None:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for name, data in self.members:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            buffer.seek(0)
            with tarfile.open(fileobj=buffer) as tar:
                places = {m.name: {"offset": m.offset_data, "length": m.size} for m in tar} if place_members else {}
            for row in self.rows:
                row |= places.get(f"{row['image_id']}.{self.expert}.png", {})
            self.tar.write_bytes(buffer.getvalue() + tail)
            told["tar"] |= facts(self.tar)
        pq.write_table(pa.Table.from_pylist(self.rows, self.schema), self.table)
        told["table"] |= facts(self.table)
        self._receipt.write_text(json.dumps(told))


def facts(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


# ---- each damage takes a store and returns the expert whose cell it spoilt


def _delete(ending: str) -> Callable[[LabelStore], str]:
    def damage(store: LabelStore) -> str:
        data_path(store, "grey", ending).unlink()
        return "grey"

    return damage


def _truncate(ending: str) -> Callable[[LabelStore], str]:
    def damage(store: LabelStore) -> str:
        path = data_path(store, "grey", ending)
        path.write_bytes(path.read_bytes()[:-700])
        return "grey"

    return damage


def flip_in(ending: str) -> Callable[[LabelStore], str]:
    def damage(store: LabelStore) -> str:
        path = data_path(store, "grey", ending)
        flip(path, path.stat().st_size // 2)
        return "grey"

    return damage


def _receipt(name: str = "grey", **changes: Any) -> Callable[[LabelStore], str]:
    def damage(store: LabelStore) -> str:
        edit_receipt(store, name, **changes)
        return name

    return damage


def cell(name: str, change: Callable[[Cell], None], **how: Any) -> Callable[[LabelStore], str]:
    def damage(store: LabelStore) -> str:
        cell = Cell(store, name)
        change(cell)
        cell.commit(**how)
        return name

    return damage


def _no_receipt(store: LabelStore) -> str:
    receipt_path(store, "grey").write_text("{}")
    return "grey"


def _receipt_of_another_shard(store: LabelStore) -> str:
    path = receipt_path(store, "grey")
    path.write_bytes((path.parent / "shard-000000.json").read_bytes())
    return "grey"


def swap_rows(cell: Cell) -> None:
    cell.rows[0], cell.rows[1] = cell.rows[1], cell.rows[0]


def _swap_members(cell: Cell) -> None:
    cell.members[0], cell.members[1] = cell.members[1], cell.members[0]


def _swap_pictures(cell: Cell) -> None:
    """Both rows keep their names; what they point at is exchanged."""
    for key in ("offset", "length"):
        cell.rows[0][key], cell.rows[1][key] = cell.rows[1][key], cell.rows[0][key]


def _set(row: int, **values: Any) -> Callable[[Cell], None]:
    return lambda cell: cell.rows[row].update(values)


def _rename(cell: Cell) -> None:
    cell.members[0] = "other.grey.png", cell.members[0][1]


def _schema(cell: Cell) -> None:
    cell.schema = pa.schema([f.with_type(pa.float32()) if f.name == "scale" else f for f in cell.schema])


def _not_a_png(cell: Cell) -> None:
    cell.members[0] = cell.members[0][0], b"GIF89a" + bytes(50)


#: What is done, whether the audit that is not deep sees it, and what is said about it.
DAMAGES: dict[str, tuple[Callable[[LabelStore], str], bool, str]] = {
    "tar deleted": (_delete("tar"), True, r"\.tar is missing"),
    "parquet deleted": (_delete("parquet"), True, r"\.parquet is missing"),
    "tar truncated": (_truncate("tar"), True, r"\.tar has \d+ bytes; the receipt says"),
    "parquet truncated": (_truncate("parquet"), True, r"\.parquet has \d+ bytes; the receipt says"),
    "byte of tar flipped": (flip_in("tar"), False, r"\.tar was changed after it was committed"),
    "byte of parquet flipped": (flip_in("parquet"), False, r"\.parquet was changed after it was committed"),
    "not a receipt": (_no_receipt, True, "the receipt is no receipt"),
    "receipt of another plan": (_receipt(plan="0123456789abcdef"), True, "the receipt is of plan 0123456789abcdef"),
    "receipt of another column": (_receipt(column="grey@0000000000"), True, "the receipt is of column grey@0000000000"),
    "receipt of another shard": (_receipt_of_another_shard, True, "the receipt is of shard 0"),
    "receipt counts too many": (_receipt(rows={"ok": 6}), True, "counts 6 rows; the shard has 5 images"),
    "receipt counts other statuses": (_receipt(rows={"ok": 4, "empty": 1}), False, "counts are not those of the rows"),
    "receipt without a tar": (_receipt(tar=None), True, "names the tar None"),
    "receipt names a strange file": (
        _receipt("squares", table={"name": "../../store.json", "bytes": 1, "sha256": ""}),
        True,
        "the receipt names '../../store.json'",
    ),
    "rows swapped": (cell("grey", swap_rows), False, "not the shard's images in the manifest's order: row 0"),
    "rows of a table without tar swapped": (cell("squares", swap_rows), False, "in the manifest's order: row 0"),
    "a row too few": (cell("squares", lambda cell: cell.rows.pop()), False, "4 rows for 5 images"),
    "members swapped": (cell("grey", _swap_members), False, "where .* should be"),
    "pictures swapped": (cell("grey", _swap_pictures, place_members=False), False, "its row says"),
    "member renamed": (cell("grey", _rename, place_members=False), False, "the tar holds 'other.grey.png' where"),
    "member missing": (cell("grey", lambda cell: cell.members.pop(), place_members=False), False, "before its member"),
    "foreign member": (
        cell("grey", lambda cell: cell.members.append(("notes.txt", b"hello"))),
        False,
        "the tar holds 'notes.txt', which no row names",
    ),
    "bytes after the tar": (cell("grey", lambda cell: None, tail=b"x" * 20_000), False, "something follows"),
    "length wrong": (cell("grey", _set(1, length=7), place_members=False), False, "its row says 7 bytes"),
    "PNG unreadable": (cell("grey", _not_a_png), False, "the tar holds no readable PNG"),
    "PNG of another dtype": (
        cell("grey", lambda cell: cell.replace_map(0, np.zeros((48, 64), np.uint8))),
        False,
        "the PNG is 1 x uint8; expected 1 x uint16",
    ),
    "PNG of other channels": (
        cell("grey", lambda cell: cell.replace_map(0, np.zeros((48, 64, 3), np.uint16))),
        False,
        "the PNG is 3 x uint16; expected 1 x uint16",
    ),
    "PNG of another size": (
        cell("grey", lambda cell: cell.replace_map(4, np.zeros((20, 20), np.uint16))),
        False,
        r"a map of 20 x 20 \(height x width\) for a photo of 80 x 60; another photo of that size has one of 64 x 48",
    ),
    "scale not a number": (cell("grey", _set(0, scale=float("nan"))), False, "values are NaN or infinite"),
    "normals not unit": (
        cell("slopes", lambda cell: cell.replace_map(0, np.full((64, 64, 3), 128, np.uint8))),
        False,
        "a normal's length is off",
    ),
    "unknown class": (
        cell("darkness", lambda cell: cell.replace_map(0, np.full((64, 64), 7, np.uint8))),
        False,
        "class id 7 of 2 classes",
    ),
    "ok row without values": (cell("squares", _set(0, boxes=None)), False, "is ok but lacks boxes"),
    "ok row without a size": (cell("grey", _set(0, height=None)), False, "is ok but lacks the size of its photo"),
    "box outside the photo": (cell("squares", _set(0, boxes=[[1.0, 1.0, 999.0, 9.0]])), False, "outside the"),
    "failed row with values": (cell("troubled", _set(1, scale=1.0)), False, "is failed but has scale"),
    "unknown status": (cell("squares", _set(0, status="fine")), False, "unknown status 'fine'"),
    "another schema": (cell("grey", _schema), False, "has not the schema of kind 'map'"),
}
