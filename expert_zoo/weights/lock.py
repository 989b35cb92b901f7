"""weights.lock: which files of which revision lie in a weights folder, with their digests. JSON, sorted, changed by one at a time.

    {"dpt-hybrid-midas": {"source": ..., "revision": ..., "licence": ..., "files": {"model.safetensors": {"bytes", "sha256"}}}}

Copied into an empty folder on another machine it makes `expert-labels weights fetch` bring exactly these revisions and digests.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

LOCK_NAME = "weights.lock"
#: Sources that are not a place on the network.
SEEDED = "seeded random weights"
BY_HAND = "put there by hand"


class LockedFile(BaseModel):
    """What a file was when it was recorded."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str


class LockEntry(BaseModel):
    """One checkpoint. ``source``: Hub repository, page, `SEEDED` or `BY_HAND`; ``revision``: its commit, "" for none."""

    model_config = ConfigDict(frozen=True)

    source: str
    revision: str = ""
    licence: str = ""
    files: dict[str, LockedFile]


Entries = dict[str, LockEntry]
_ENTRIES = TypeAdapter(Entries)


def read_lock(root: Path) -> Entries:
    """The entries of the lock in ``root``; none where there is no lock. Raises ValueError where it is not readable."""
    path = root / LOCK_NAME
    try:
        return _ENTRIES.validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else "not what `expert-labels weights fetch` writes"
        raise ValueError(
            f"cannot read {path}: {why}; restore it from where you copied it, or remove it and fetch again"
        ) from error


def change_lock(root: Path, change: Callable[[Entries], None]) -> None:
    """Lets ``change`` edit the entries and writes them back: beside, fsync, rename; others wait meanwhile."""
    from filelock import FileLock

    root.mkdir(parents=True, exist_ok=True)
    path = root / LOCK_NAME
    with FileLock(root / f".{LOCK_NAME}.busy"):
        entries = read_lock(root)
        change(entries)
        beside = root / f".{LOCK_NAME}.{secrets.token_hex(6)}"
        try:
            with beside.open("wb") as stream:
                stream.write(_ENTRIES.dump_json(_sorted(entries), indent=1) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        folder = os.open(root, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _sorted(entries: Entries) -> Entries:
    return {
        name: entry.model_copy(update={"files": dict(sorted(entry.files.items()))})
        for name, entry in sorted(entries.items())
    }
