"""Duplicates: pictures with the same content under different names. What was seen of a file is kept beside the manifest.

The section `duplicates:` of a job file. Looking at files is left to a function that is handed in, since how a photo is read
and decoded is not known here.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from manifests.location import local_path, split_part

#: Questions and answers of the database that go in one statement.
_AT_ONCE = 500


class Duplicates(BaseModel):
    """Which pictures are taken for one because of what is in their files. Sources' own sha256 keys count always.

    content  read every local file (or part of one, or object of a store) whose source does not say its sha256, and hash it
    near     decode every picture and join those whose perceptual hashes (pipeline.content) differ in at most so many of
             64 bits; 0 to 8, of which 2 to 4 stand for the same photo in another size or compression
    most     a content that more than so many pictures have is a site's placeholder ("image not available"): these
             pictures are left out; null: they become one
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: bool = False
    near: int | None = Field(None, ge=0, le=8)
    most: int | None = Field(20, ge=1)

    @property
    def look(self) -> bool:
        """Whether files must be read."""
        return self.content or self.near is not None


class Seen(NamedTuple):
    """What was seen of one file: 64 hexadecimal digits; 16, or "" where there is no such hash; why it was not read."""

    sha256: str = ""
    phash: str = ""
    problem: str = ""


#: Looks at files by their URIs; picklable, since it is called in other processes. The flag asks for perceptual hashes.
Look = Callable[[Sequence[str], bool], list[Seen]]


class SeenFiles:
    """What earlier builds saw of files, by URI, size and time of change, in a database on disk.

    A file that has changed since is not known. Of files of stores, whose state would cost a request, the URI says all.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        try:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS seen"
                " (uri INTEGER PRIMARY KEY, state INTEGER, sha256 BLOB, phash TEXT, near INTEGER)"
            )
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ValueError(f"{path}: {error}; what was seen of files is kept there: delete it") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.commit()
        self._database.close()

    def find(self, uris: Sequence[str], *, near: bool) -> list[Seen | None]:
        """For each URI what is known of it; None where it must be looked at."""
        numbers = [_number(uri) for uri in uris]
        found: dict[int, tuple[int, bytes, str, int]] = {}
        for start in range(0, len(numbers), _AT_ONCE):
            some = numbers[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT uri, state, sha256, phash, near FROM seen WHERE uri IN ({marks})"  # noqa: S608 - question marks only
            with closing(self._database.execute(query, some)) as rows:
                found |= {row[0]: row[1:] for row in rows}
        known: list[Seen | None] = []
        for uri, number in zip(uris, numbers, strict=True):
            state, sha256, phash, looked = found.get(number, (0, b"", "", 0))
            fits = number in found and looked >= near and state == _state(uri)
            known.append(Seen(sha256.hex(), phash if near else "") if fits else None)
        return known

    def add(self, uris: Sequence[str], seen: Sequence[Seen], *, near: bool) -> None:
        """Keep what was just seen; files that could not be read are looked at again next time."""
        rows = [
            (_number(uri), _state(uri), bytes.fromhex(one.sha256), one.phash, near)
            for uri, one in zip(uris, seen, strict=True)
            if not one.problem
        ]
        self._database.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?)", rows)
        self._database.commit()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _state(uri: str) -> int:
    """Size and time of change of a local file as one number; 0 where there is no such thing to be known."""
    path = local_path(split_part(uri)[0]) if uri.startswith("file://") else None
    try:
        found = os.stat(path) if path else None  # noqa: PTH116 - once for every photo
    except OSError:
        found = None
    return _number(f"{found.st_size} {found.st_mtime_ns}") if found else 0
