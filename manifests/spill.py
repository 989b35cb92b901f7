"""A source's rows on disk: read once, cleaned, cut into buckets, and kept until the manifest is there.

    <build folder>/source-<signature>/bucket-07.arrow    rows by order key (manifests.buckets)
                                      keys-07.names       their keys by number: what makes two rows one picture
                                      content-07.names    those keys that are of the file's content
                                      done.json           rows, rejections; written last

The signature is of the source's section, its input files, the caption rules and the seed: a build that starts again takes a
finished source from here, and one that was changed is read anew.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.buckets import KEYED_SCHEMA, BucketWriter, NameWriter
from manifests.cleaning import CaptionRules
from manifests.lists import owners, taken_apart
from manifests.location import filesystem, local_path
from manifests.names import name_numbers, order_keys
from manifests.record import ID_PATTERN, SCHEMA, Rejection
from manifests.report import RejectionCount, Tally

#: Part of every signature: what other versions have spilled is not taken.
_FORMAT = 1
_DONE = "done.json"
#: Of a folder with more entries only the time of the last change among its names is part of a signature.
_ENTRIES = 100_000


class Source(Protocol):
    """One dataset's own files, read in a deterministic order; `manifests.sources` has those of job files."""

    @property
    def name(self) -> str:
        """What its records call their ``source``."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """Every image, in batches of `manifests.record.SCHEMA` with at most BATCH_ROWS rows, and one Rejection for
        everything left out. ValueError where the files are not what they should be.
        """
        ...


@dataclass(frozen=True, slots=True)
class Spill:
    """One finished source on disk. ``rows``: how many it has; they are numbered from 0 in the order of its files."""

    folder: Path
    rows: int
    rejections: tuple[RejectionCount, ...]

    @classmethod
    def find(cls, folder: Path) -> Spill | None:
        """What an earlier build finished in ``folder``; None where there is nothing, or not all of it."""
        try:
            found = json.loads((folder / _DONE).read_text("utf-8"))
        except (OSError, json.JSONDecodeError):
            return None
        counts = tuple(
            RejectionCount(**{**count, "examples": tuple(count["examples"])}) for count in found["rejections"]
        )
        return cls(folder, found["rows"], counts)


def spill(source: Source, folder: Path, *, seed: int, rules: CaptionRules, on_rows: Callable[[int], None]) -> Spill:
    """Read ``source`` to its end into ``folder``. ``on_rows`` is told how many rows were read, batch by batch.

    Raises ValueError where the source does, or where its batches are not what they should be.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tally = Tally()
    rows = 0
    with BucketWriter(folder) as buckets, NameWriter(folder, "keys") as names, NameWriter(folder, "content") as content:
        for found in source.batches():
            if isinstance(found, Rejection):
                tally.add(found)
                continue
            _check(found, source)
            batch, dropped = rules.apply(found)
            tally.extend(dropped)
            numbers = np.arange(rows, rows + batch.num_rows, dtype=np.uint32)
            order = order_keys(seed, batch.column("image_id"))
            buckets.write(
                pa.RecordBatch.from_arrays([pa.array(order), pa.array(numbers), *batch.columns], schema=KEYED_SCHEMA)
            )
            keys, lengths = taken_apart(batch.column("keys"))
            of_row, named = numbers[owners(lengths)], name_numbers(keys)
            of_content = pc.match_substring_regex(keys, "^(sha256|phash):").to_numpy(zero_copy_only=False)
            names.write(named[~of_content], of_row[~of_content])
            content.write(named[of_content], of_row[of_content])
            rows += batch.num_rows
            on_rows(found.num_rows)
    about = {"rows": rows, "rejections": [asdict(count) for count in tally.counts()]}
    unfinished = folder / f"{_DONE}.tmp"
    unfinished.write_text(json.dumps(about), "utf-8")
    unfinished.replace(folder / _DONE)
    return Spill(folder, rows, tally.counts())


def _check(batch: pa.RecordBatch, source: Source) -> None:
    if not batch.schema.equals(SCHEMA):
        raise ValueError(f"source {source.name}: a batch has the columns {batch.schema.names}; expected {SCHEMA.names}")
    ids = batch.column("image_id")
    valid = pc.match_substring_regex(ids, rf"\A{ID_PATTERN.pattern}\z")
    if not pc.all(valid).as_py():
        wrong = ids.filter(pc.invert(valid))[0].as_py()
        raise ValueError(
            f"source {source.name}: image id {wrong!r}: expected 1 to 128 of A-Z a-z 0-9 _ - (a letter or digit first)"
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """``digest``: 16 hexadecimal digits; None for a source that cannot be told from another, which is always read.
    ``size``: bytes of its local input files, to begin with the largest.
    """

    digest: str | None
    size: int


def signature(source: Source, *, seed: int, rules: CaptionRules) -> Signature:
    """Of all that decides what `spill` writes: the source's section, size and time of its input files, rules, seed.

    Input files are those that the section names: a file, the entries of a folder, what a pattern finds; not what is deeper
    in a folder. And of this run of the machine: what was spilled is not forced to the disk, and a crash of the machine, unlike
    that of a process, may leave files without what was written.
    """
    dump = getattr(source, "model_dump", None)
    if dump is None:
        return Signature(None, 0)
    section: dict[str, Any] = dump(mode="json")
    stamps = [stamp for text in sorted(_texts(section)) for stamp in _stamps(text)]
    told = [_FORMAT, _since_boot(), type(source).__name__, section, stamps, rules.model_dump(mode="json"), seed]
    digest = hashlib.blake2s(json.dumps(told, sort_keys=True).encode(), digest_size=8).hexdigest()
    return Signature(digest, sum(size for _, size, _ in stamps if isinstance(size, int)))


def _since_boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _texts(value: object) -> set[str]:
    if isinstance(value, str):
        return {value}
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return set().union(*map(_texts, items))


def _stamps(text: str) -> list[tuple[str, int | str, int]]:
    """Name, size and time of change of what ``text`` names, where it names something that is there."""
    local = local_path(text) if "\0" not in text and len(text) < 4096 else None
    if local is None:
        return [(text, _remote_state(text), 0)] if "://" in text else []
    try:
        if local.is_dir():
            with os.scandir(local) as entries:
                first = list(islice(entries, _ENTRIES + 1))
            stamps = [_stamp(entry.path, entry.stat(follow_symlinks=False)) for entry in first]
            # Of a folder of millions of files its own time says as much, and is read at once.
            return sorted(stamps) if len(first) <= _ENTRIES else [_stamp(str(local), local.stat())]
        if local.exists():
            return [_stamp(str(local), local.stat())]
        if glob.has_magic(text):
            return [_stamp(path, os.stat(path)) for path in sorted(glob.glob(str(local), recursive=True))]  # noqa: PTH116, PTH207
    except OSError:
        pass
    return []


def _stamp(path: str, found: os.stat_result) -> tuple[str, int | str, int]:
    return path, found.st_size, found.st_mtime_ns


def _remote_state(url: str) -> str:
    """What the file system at ``url`` says of the file's state; "" where it says nothing."""
    try:
        files, path = filesystem(url)
        return str(files.ukey(path))
    except Exception:  # every store has exceptions of its own, and the source will say what is wrong
        return ""
