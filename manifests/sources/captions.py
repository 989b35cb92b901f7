"""Caption files: a .jsonl or .csv that gives captions to the photos of a folder, kept on disk while it is used."""

from __future__ import annotations

import csv
import json
import os
import posixpath
import sqlite3
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Self

from manifests.location import open_binary
from manifests.record import fold

#: (line of the file, path of the photo relative to its folder, caption with white space folded)
Row = tuple[int, str, str]


class CaptionFile:
    """The captions of a file by photo. They lie in a temporary database on disk, so memory does not grow with them.

    ``where``: a local path or URL of a .jsonl file, one object {"file": relative path, "caption": text or list of text}
    a line, or of a .csv file with a header that has the columns file and caption, several rows a photo allowed. UTF-8.

    Raises ValueError, naming file and line, where the file is missing, is not UTF-8, or does not have that form.
    """

    def __init__(self, where: str) -> None:
        read_rows = _rows_of_csv if where.lower().endswith(".csv") else _rows_of_jsonl
        self._database = sqlite3.connect("")
        try:
            self._database.execute("PRAGMA journal_mode = OFF")
            self._database.execute("CREATE TABLE captions (line INTEGER, file BLOB, caption TEXT)")
            with open_binary(where) as stream:
                rows = read_rows(stream, where)
                self._database.executemany("INSERT INTO captions VALUES (?, ?, ?)", _keyed(rows, where))
            self._database.execute("CREATE INDEX by_file ON captions (file)")
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def take(self, path: str) -> tuple[str, ...]:
        """The captions of one photo in the file's order; they are then no longer in `left`."""
        key = (os.fsencode(path),)
        rows = self._database.execute("SELECT caption FROM captions WHERE file = ? ORDER BY rowid", key).fetchall()
        if rows:
            self._database.execute("DELETE FROM captions WHERE file = ?", key)
        return tuple(caption for (caption,) in rows)

    def left(self) -> Iterator[tuple[int, str]]:
        """Line and photo of every caption that was not taken, in the file's order."""
        for line, file in self._database.execute("SELECT line, file FROM captions ORDER BY rowid"):
            yield line, os.fsdecode(file)


def _keyed(rows: Iterable[Row], where: str) -> Iterator[tuple[int, bytes, str]]:
    for line, file, caption in rows:
        try:
            key = os.fsencode(posixpath.normpath(file))
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}, line {line}: {file!r} cannot be a file name ({error.reason})") from error
        if caption:
            yield line, key, caption


def _lines(stream: BinaryIO, where: str) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{where}, line {number}: byte {error.start + 1} is not UTF-8; save the file as UTF-8"
            ) from error


def _rows_of_jsonl(stream: BinaryIO, where: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(stream, where), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}, line {number}, column {error.colno}: broken JSON ({error.msg}); expected one object a line"
            ) from error
        file = row.get("file") if isinstance(row, dict) else None
        captions = row.get("caption") if isinstance(row, dict) else None
        if isinstance(captions, str):
            captions = [captions]
        if not (
            isinstance(file, str)
            and isinstance(captions, list)
            and all(isinstance(caption, str) for caption in captions)
        ):
            raise ValueError(
                f'{where}, line {number}: expected {{"file": "relative/path.jpg", "caption": "text" or ["text", ...]}}, '
                f"got {line.strip()[:80]}"
            )
        for caption in captions:
            yield number, file, fold(caption)


def _rows_of_csv(stream: BinaryIO, where: str) -> Iterator[Row]:
    reader = csv.reader(_lines(stream, where), strict=True)
    number = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        absent = [name for name in ("file", "caption") if name not in header]
        if absent:
            raise ValueError(
                f"{where}, line 1: no column {' and no column '.join(absent)} in the header {','.join(header)[:80]!r}; "
                "expected a header with file,caption"
            )
        file_at, caption_at = header.index("file"), header.index("caption")
        number = reader.line_num + 1
        for row in reader:
            if row:
                if len(row) <= max(file_at, caption_at):
                    raise ValueError(
                        f"{where}, line {number}: {len(row)} columns where the header has {len(header)}; a caption with "
                        "a comma needs double quotes"
                    )
                yield number, row[file_at], fold(row[caption_at])
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{where}: the CSV row that begins in line {number} is broken ({error}); a double quote inside a caption is "
            "written twice"
        ) from error
