"""Looking at files for duplicates by content: bucket by bucket, what was seen before is not looked at again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.assembly import SEEN_SCHEMA, Assembly
from manifests.buckets import BUCKETS, KEYED_SCHEMA, concatenated
from manifests.duplicates import Duplicates, Look, Seen, SeenFiles
from manifests.joining import Names
from manifests.names import name_numbers
from manifests.workers import Workers

#: Files that a worker looks at before it reports, and before what it saw is kept.
_AT_ONCE = 64
#: What is not looked at: pictures that are rendered, and those that would have to be downloaded.
_NOT_FILES = "^(scenes|https?)://"


def look_at_bucket(
    assembly: Assembly,
    bucket: int,
    *,
    rules: Duplicates,
    look: Look,
    seen: SeenFiles,
    workers: Workers,
    on_rows: Callable[[int], None],
) -> None:
    """Leave what is in the files of one bucket's rows where `names_seen` and the Assembly find it. ``on_rows`` is told of so
    many rows more.
    """
    near = rules.near is not None
    places: list[np.ndarray] = []
    uris: list[str] = []
    count = 0
    for numbers, table in assembly.rows(bucket):
        rows = concatenated([table], KEYED_SCHEMA)
        wanted = ~pc.match_substring_regex(rows.column("uri"), _NOT_FILES).to_numpy(zero_copy_only=False)
        if not near:
            wanted &= ~_has_hash(rows)
        count += len(numbers)
        places.append(numbers[wanted])
        uris += rows.column("uri").filter(pa.array(wanted)).to_pylist()
    found = seen.find(uris, near=near)
    unknown = [number for number, one in enumerate(found) if one is None]
    on_rows(count - len(unknown))
    chunks = [unknown[start : start + _AT_ONCE] for start in range(0, len(unknown), _AT_ONCE)]
    tasks = [[uris[number] for number in chunk] for chunk in chunks]
    for number, looked in workers.map(partial(_look, look, near), tasks):
        seen.add(tasks[number], looked, near=near)
        on_rows(len(looked))
        for place, one in zip(chunks[number], looked, strict=True):
            found[place] = one
    where = np.concatenate([np.empty(0, np.int64), *places])
    order = np.argsort(where)
    kept = [found[number] or Seen() for number in order.tolist()]
    columns = [
        pa.array(where[order]),
        *(pa.array([getattr(one, name) for one in kept], pa.string()) for name in Seen._fields),
    ]
    assembly.write_seen(bucket, pa.RecordBatch.from_arrays(columns, schema=SEEN_SCHEMA))


def _look(look: Look, near: bool, uris: list[str]) -> list[Seen]:
    return look(uris, near)


def _has_hash(rows: pa.RecordBatch) -> np.ndarray:
    keys = rows.column("keys")
    hashes = pc.match_substring_regex(keys.flatten(), "^sha256:")
    owners = pc.list_parent_indices(keys).filter(hashes)
    return np.bincount(np.asarray(owners), minlength=rows.num_rows) > 0


@dataclass(frozen=True, slots=True)
class SeenNames:
    """What was seen, as names of rows. ``content``: SHA-256, ``near``: perceptual hashes, ``problems``: rows by reason."""

    content: Names
    near: Names
    problems: dict[str, np.ndarray]


#: Where nobody has looked.
UNSEEN = SeenNames(Names.of_all([]), Names.of_all([]), {})


def names_seen(assembly: Assembly) -> SeenNames:
    """The names that `look_at_bucket` has found in all buckets. Memory: 16 bytes for each hash."""
    content, near = [], []
    problems: dict[str, np.ndarray] = {}
    for bucket in range(BUCKETS):
        table = assembly.read_seen(bucket).combine_chunks()
        places = table.column("place").to_numpy()
        texts = {name: concatenated([table], SEEN_SCHEMA).column(name) for name in Seen._fields}
        stated = {
            name: pc.not_equal(pc.binary_length(text), 0).to_numpy(zero_copy_only=False) for name, text in texts.items()
        }
        hashes = texts["sha256"].filter(pa.array(stated["sha256"]))
        content.append(
            Names(name_numbers(pc.binary_join_element_wise("sha256:", hashes, "")), places[stated["sha256"]])
        )
        numbers = [int(text, 16) for text in texts["phash"].filter(pa.array(stated["phash"])).to_pylist()]
        near.append(Names(np.array(numbers, np.uint64), places[stated["phash"]]))
        for problem in texts["problem"].filter(pa.array(stated["problem"])).unique().to_pylist():
            of_it = pc.equal(texts["problem"], problem).to_numpy(zero_copy_only=False)
            problems[problem] = np.concatenate([problems.get(problem, np.empty(0, np.int64)), places[of_it]])
    return SeenNames(Names.of_all(content), Names.of_all(near), problems)
