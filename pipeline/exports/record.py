"""What an export says of itself: export.json, written first, and a receipt for each shard, written last.

export.json              which store and columns, in which layout
receipts/000042.json     what the files of shard 42 were made of; without it they are not finished
receipts/whole.json      of the files that are made of all shards together, where the layout has any
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import StoreError
from pipeline.receipt import FileEntry
from pipeline.storage import Storage

FORMAT = 1
EXPORT = "export.json"
RECEIPTS = "receipts"
WHOLE = "whole"


class ExportRecord(BaseModel):
    """``layout``: its name; ``settings``: its own; ``plan``: fingerprint of what the store was
    planned with; ``columns``: what was exported, by name."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    layout: str
    settings: dict[str, Any] = Field(default_factory=dict)
    plan: str
    columns: dict[str, dict[str, Any]]

    @property
    def column_names(self) -> list[str]:
        """As expert@version."""
        return [about["column"] for about in self.columns.values()]


class PieceReceipt(BaseModel):
    """``cells``: by column the attempt it was made of, None where the cell was missing. ``images``: digest of its records, for
    captions may change and images go. ``samples``: how many.

    ``files``: the large ones, by name, size and digest; ``small``: how many others; ``bytes``: of all. ``unread``: photos that could not
    be read, image -> reason.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    plan: str
    cells: dict[str, str | None]
    images: str
    samples: int
    files: list[FileEntry]
    small: int
    bytes: int
    labels: dict[str, int]
    unread: dict[str, str] = Field(default_factory=dict)
    packages: dict[str, str]


def receipt_name(piece: int | str) -> str:
    """Of a shard by its number, or WHOLE."""
    return f"{RECEIPTS}/{piece:06d}.json" if isinstance(piece, int) else f"{RECEIPTS}/{piece}.json"


def read_record(out: Storage) -> ExportRecord:
    """Raises StoreError where there is no export, or one of another version."""
    try:
        text = out.read(EXPORT)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{out.url} is no export: {EXPORT} is missing") from None
    try:
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise StoreError(f"{out.url} is an export of format {found['format']}; this version knows {FORMAT}")
        return ExportRecord.model_validate(found)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{out.url}/{EXPORT} is not what an export writes: {error!r}") from error


def read_receipt(out: Storage, piece: int | str) -> PieceReceipt | None:
    """None where there is none, or what is there is none: the piece is not finished."""
    try:
        return PieceReceipt.model_validate_json(out.read(receipt_name(piece)))
    except (FileNotFoundError, ValidationError):
        return None
