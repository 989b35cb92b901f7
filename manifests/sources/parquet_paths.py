"""Parquet files by path, folder or pattern, here or behind an fsspec URL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from manifests.location import encoded_uri, filesystem, local_path

_PATTERN = re.compile(r"[*?\[]")


class ParquetPath(NamedTuple):
    """``uri`` of a file, and where it lies below the folder, or the fixed part of the pattern, that was asked for."""

    uri: str
    below: str


def parquet_paths(where: str) -> list[ParquetPath]:
    """The file at ``where``; all .parquet files below it, if it is a folder; or all files that fit it, if it is a pattern
    with *, ? or ** for any folders between. Sorted by where they lie.

    Raises ValueError where there is none.
    """
    local = local_path(where)
    try:
        found = _local(local) if local is not None else _remote(where)
    except OSError as error:
        raise ValueError(f"cannot read {where}: {error.strerror or type(error).__name__}") from error
    if not found:
        raise ValueError(
            f"no Parquet file at {where}; expected a file, a folder of .parquet files, or a pattern of them"
        )
    return sorted(found, key=lambda path: path.below)


def _local(where: Path) -> list[ParquetPath]:
    if where.is_dir():
        root, found = where, list(where.rglob("*.parquet"))
    elif where.exists():
        root, found = where.parent, [where]
    else:
        root, pattern = _fixed(str(where))
        found = list(root.glob(pattern))
    return [ParquetPath(path.as_uri(), path.relative_to(root).as_posix()) for path in found if path.is_file()]


def _remote(url: str) -> list[ParquetPath]:
    files, path = filesystem(url, use_listings_cache=False)
    if files.isdir(path):
        root, found = path.rstrip("/"), [name for name in files.find(path) if name.endswith(".parquet")]
    elif files.exists(path):
        root, found = path.rpartition("/")[0], [path]
    else:
        root, found = _fixed(path)[0].as_posix(), files.glob(path)
    return [ParquetPath(encoded_uri(files.unstrip_protocol(name)), name[len(root) :].lstrip("/")) for name in found]


def _fixed(pattern: str) -> tuple[Path, str]:
    """The folder above the first name with a wildcard in it, and the rest."""
    magic = _PATTERN.search(pattern)
    above = pattern[: magic.start() if magic else len(pattern)].rpartition("/")[0]
    return Path(above or "/"), pattern[len(above) :].lstrip("/")
