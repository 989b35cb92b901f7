"""One cell's two data files: a tar of PNG members and a Parquet of rows, written in manifest order, read in any."""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from expert_zoo.card import ExpertCard
from expert_zoo.labels import Label
from pipeline.codec import DENSE, decode, member_ending, stored_pixels, table_schema
from pipeline.errors import DamagedCell
from pipeline.receipt import FileEntry, Receipt, Rows
from pipeline.statistics import Facts, Statistics, Sums
from pipeline.storage import DataFile, Storage

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One label ready to be written: the row's columns and, for dense kinds that are ``ok``, its member's bytes.

    ``facts``: what it adds to the cell's statistics.
    """

    columns: dict[str, Any]
    member: bytes | None
    facts: Facts = field(default_factory=lambda: Facts({}))


class CellWriter:
    """Writes one attempt at a cell. Nothing it writes is visible until a receipt names it.

    Not thread-safe: one thread adds the rows, in manifest order. `finish` or `discard` ends it.
    """

    def __init__(self, storage: Storage, stem: str, card: ExpertCard, metadata: dict[str, str]) -> None:
        self._storage = storage
        self._stem = stem
        self._card = card
        self._metadata = metadata
        self._rows: list[dict[str, Any]] = []
        self._sums = Sums()
        self._tar: DataFile | None = storage.create(f"{stem}.tar") if card.spec.kind in DENSE else None

    def add(self, row: EncodedRow) -> None:
        columns = dict(row.columns)
        if row.member is not None:
            assert self._tar is not None, f"kind {self._card.spec.kind!r} has no members"
            ending = member_ending(self._card.spec, columns)
            header = _tar_header(f"{columns['image_id']}.{self._card.name}.{ending}", len(row.member))
            self._tar.write(header)
            columns |= {"offset": self._tar.bytes, "length": len(row.member)}
            self._tar.write(row.member)
            self._tar.write(bytes(-len(row.member) % _BLOCK))
        self._rows.append(columns)
        self._sums.add(row.facts)

    @property
    def rows(self) -> Rows:
        return Rows.count((row["status"], row["reason"]) for row in self._rows)

    @property
    def statistics(self) -> Statistics:
        return self._sums.statistics

    def finish(self) -> tuple[FileEntry, FileEntry | None]:
        """Makes both files durable and returns (Parquet, tar or None). An error leaves neither of them."""
        try:
            return self._finish()
        except BaseException:
            self.discard()
            raise

    def _finish(self) -> tuple[FileEntry, FileEntry | None]:
        tar_entry = None
        if self._tar is not None:
            self._tar.write(bytes(2 * _BLOCK))
            self._tar.close()
            tar_entry = _entry(self._tar)
        schema = table_schema(self._card.spec)
        # Provenance travels inside the file as well, for those who copy a Parquet out of its store.
        table = pa.Table.from_pylist(self._rows, schema.with_metadata(self._metadata))
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        with self._storage.create(f"{self._stem}.parquet") as file:
            file.write(memoryview(buffer.getvalue()))
        return _entry(file), tar_entry

    def discard(self) -> None:
        if self._tar is not None:
            self._tar.discard()
        self._storage.delete(f"{self._stem}.parquet")


def _entry(file: DataFile) -> FileEntry:
    return FileEntry(name=file.name.rsplit("/", 1)[-1], bytes=file.bytes, sha256=file.sha256)


def _tar_header(name: str, size: int) -> bytes:
    # No times and no owners: the same labels are the same bytes, whoever made them and when.
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


class CellReader:
    """The rows of one committed cell and, on demand, their labels, in any order. Use as a context manager."""

    def __init__(self, card: ExpertCard, receipt: Receipt, table: pa.Table, tar: IO[bytes] | None) -> None:
        self.card = card
        self.receipt = receipt
        self._table = table
        self._tar = tar

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, in manifest order: for those who go through them."""
        rows: list[dict[str, Any]] = self._table.to_pylist()
        return rows

    @functools.cached_property
    def _columns(self) -> list[tuple[str, pa.Array]]:
        return [(name, self._table.column(name).combine_chunks()) for name in self._table.column_names]

    def row(self, index: int) -> dict[str, Any]:
        """One row, without making the others: for those who come for a few."""
        return {name: values[index].as_py() for name, values in self._columns}

    def has_images(self, image_ids: pa.Array) -> bool:
        """Whether the rows are those images', in that order."""
        return bool(self._table.column("image_id").combine_chunks().cast(pa.string()).equals(image_ids))

    def member(self, row: dict[str, Any]) -> bytes | None:
        """The bytes of a row's member: one seek and one read. None for rows that have none. DamagedCell if cut off or gone."""
        if self._tar is None or row["status"] != "ok":
            return None
        try:
            self._tar.seek(row["offset"])
            data = self._tar.read(row["length"])
        except FileNotFoundError as error:
            raise self._damaged(row, f"the tar is gone ({error})") from error
        if len(data) != row["length"]:
            raise self._damaged(row, f"the tar ends after {len(data)} of {row['length']} bytes")
        return data

    def label(self, row: dict[str, Any]) -> Label:
        """The row's label. DamagedCell where its member is not what it should be."""
        try:
            return decode(self.card.spec, row, self.member(row))
        except ValueError as error:
            raise self._damaged(row, str(error)) from error

    def pixels(self, row: dict[str, Any]) -> NDArray[np.unsignedinteger]:
        """The integers of an ``ok`` row's PNG as they are stored, (H, W) or (H, W, 3); only for kinds map and classes.

        A map's value is ``row["scale"] * pixel + row["bias"]``. DamagedCell as `label`.
        """
        try:
            return stored_pixels(self.card.spec, self.member(row))
        except ValueError as error:
            raise self._damaged(row, str(error)) from error

    def _damaged(self, row: dict[str, Any], why: str) -> DamagedCell:
        return DamagedCell(
            f"{self.card.column}, image {row['image_id']}: {why}; `expert-labels audit --deep --repair` takes the cell back"
        )

    def labels(self) -> Iterator[Label]:
        """Every row's label, in manifest order."""
        return (self.label(row) for row in self.rows)

    def encoded(self, row: dict[str, Any]) -> EncodedRow:
        """The row as it was written, for a new attempt that keeps it."""
        columns = {name: value for name, value in row.items() if name not in ("offset", "length")}
        return EncodedRow(columns, self.member(row))

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()

    def __enter__(self) -> CellReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
