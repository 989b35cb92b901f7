"""Folders as img2dataset writes them, in each of its forms, made from a list of samples."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

Form = Literal["webdataset", "files", "parquet"]


@dataclass(frozen=True)
class Downloaded:
    """One row of a list: ``data`` is the picture, None where ``message`` says why there is none."""

    url: str
    caption: str | None
    data: bytes | None
    message: str | None = None
    status: str = "success"
    size: tuple[int, int] = (64, 48)


def write_shard(
    root: Path, number: int, samples: Sequence[Downloaded], *, form: Form, digits: int = 4, captions: bool = True
) -> None:
    """One shard with its Parquet and its _stats.json; keys have 5 + ``digits`` digits."""
    root.mkdir(parents=True, exist_ok=True)
    stem = f"{number:05d}"
    rows = [_row(f"{stem}{index:0{digits}d}", sample, captions=captions) for index, sample in enumerate(samples)]
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample.message or "success"] = counts.get(sample.message or "success", 0) + 1
    (root / f"{stem}_stats.json").write_text(json.dumps({"count": len(rows), "status_dict": counts}))
    table = pa.Table.from_pylist(rows)
    if form == "parquet":
        table = table.append_column("jpg", pa.array([sample.data for sample in samples], pa.binary()))
    pq.write_table(table, root / f"{stem}.parquet", row_group_size=100)
    whole = [(row, sample.data) for row, sample in zip(rows, samples, strict=True) if sample.data is not None]
    if form == "webdataset":
        with tarfile.open(root / f"{stem}.tar", "w") as tar:
            for row, data in whole:
                for ending, content in _files(row, data).items():
                    add(tar, f"{row['key']}.{ending}", content)
    elif form == "files":
        (root / stem).mkdir()
        for row, data in whole:
            for ending, content in _files(row, data).items():
                (root / stem / f"{row['key']}.{ending}").write_bytes(content)


def add(tar: tarfile.TarFile, name: str, data: bytes, **more: Any) -> None:
    """A member; the time has a fraction, as img2dataset's, which puts an extended header before it."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1795217532.5
    for field, value in more.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def _row(key: str, sample: Downloaded, *, captions: bool) -> dict[str, Any]:
    width, height = sample.size if sample.data is not None else (None, None)
    row = {
        "url": sample.url,
        "key": key,
        "status": sample.status,
        "error_message": sample.message,
        "width": width,
        "height": height,
        "original_width": width and 2 * width,
        "original_height": height and 2 * height,
        "exif": "{}",
        "sha256": None if sample.data is None else hashlib.sha256(b"original" + sample.data).hexdigest(),
    }
    return {"caption": sample.caption, **row} if captions else row


def _files(row: dict[str, Any], data: bytes) -> dict[str, bytes]:
    files = {"jpg": data, "json": json.dumps(row, indent=4).encode()}
    return files | {"txt": row["caption"].encode()} if row.get("caption") else files
