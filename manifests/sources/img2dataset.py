"""Img2dataset: pictures that img2dataset has downloaded, the usual way in which those of the web arrive."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Literal, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from manifests.location import cell_uri
from manifests.record import ID_PATTERN, ImageRecord, Rejection, batched, path_id
from manifests.sources.caption_text import EMPTY, caption_of
from manifests.sources.shard_rows import Row, ShardTable, Sidecar, caption_beside, failures_of_stats, row_beside
from manifests.sources.shards import LeftOut, Pictures, Shard, pictures_of_folder, pictures_of_tar, shards
from manifests.sources.tree import Tree, open_tree
from manifests.sources.url_keys import keys_of_url

#: Shards that are read at one time: disks and stores answer several faster than one after the other.
SHARDS_AT_ONCE = 4

ABSENT = "picture that was downloaded is not in its shard"
NO_PICTURES = "rows without pictures: neither a tar nor a folder of that name beside the Parquet, nor a column of them"
BROKEN_TABLE = "unreadable Parquet; the texts beside the pictures are used"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class Img2dataset(BaseModel):
    """What img2dataset wrote to ``path``, a local folder (~ allowed) or fsspec URL, in any of its output formats but
    TFRecord; or other tars in WebDataset's form (a picture, and key.txt or key.json with its caption).

    captions   columns of the Parquet beside each shard (or keys of key.json) that hold captions; where there are none,
               key.txt is the caption
    picture    ending of pictures, or name of their column, where it is unusual or a sample has several
    name       the records' ``source``, and the beginning of their image ids; of two downloads in one job each needs its own
    license, split  of all pictures

    Tars are not unpacked: only headers are read, and a record's address says from which byte to which its picture is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["img2dataset"] = "img2dataset"
    path: str = Field(min_length=1)
    captions: tuple[str, ...] = ("caption",)
    picture: str | None = Field(None, min_length=1)
    name: str = Field(default="img2dataset", min_length=1)
    license: str = ""
    split: str = ""

    @field_validator("picture")
    @classmethod
    def _without_dot(cls, picture: str | None) -> str | None:
        return picture.removeprefix(".").lower() if picture else picture

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """One record per picture, shard by shard; rejections: what was not downloaded, and what of a shard cannot be read,
        counted by shard and reason. Memory: a few shards.

        Raises ValueError where there is no such folder, or no shard in it.
        """
        tree = open_tree(self.path)
        any_shard = False
        for found in _ahead(lambda shard: self._read(tree, shard), shards(tree)):
            any_shard = True
            yield from found
        if not any_shard:
            raise ValueError(
                f"{self.path}: no shard of img2dataset in this folder; expected 00000.tar, or folders 00000 with pictures, "
                "or 00000.parquet"
            )

    def _read(self, tree: Tree, shard: Shard | LeftOut) -> list[pa.RecordBatch | Rejection]:
        """All of a shard, as threads bring it."""
        if isinstance(shard, LeftOut):
            return [Rejection(self.name, shard.what, shard.reason, shard.count)]
        tally = _Tally(self.name, shard.tar or shard.folder or shard.parquet)
        found = list(batched(_OneShard(self, tree, shard, tally).records()))
        return [*found, *tally.counts()]


class _Tally:
    """What of a shard is left out: one rejection a reason, because there are millions."""

    def __init__(self, source: str, place: str) -> None:
        self._source, self._place = source, place
        self._found: dict[str, Rejection] = {}

    def add(self, what: str, reason: str, count: int = 1) -> None:
        before = self._found.get(reason)
        name = before.what if before else f"{self._place}: {what}" if what else self._place
        self._found[reason] = Rejection(self._source, name, reason, count + (before.count if before else 0))

    def counts(self) -> Iterable[Rejection]:
        return self._found.values()


class _OneShard:
    """One shard on its way to records."""

    def __init__(self, source: Img2dataset, tree: Tree, shard: Shard, tally: _Tally) -> None:
        self._source, self._tree, self._shard, self._tally = source, tree, shard, tally
        stem = shard.stem.replace("/", "_")
        # A key of img2dataset begins with the number of its shard; those of others are unique in their tar at most.
        self._numbered = stem.rpartition("_")[2]
        self._above = f"{source.name}_{stem[: len(stem) - len(self._numbered)]}"

    def records(self) -> Iterator[ImageRecord | Rejection]:
        shard = self._shard
        table = self._table()
        try:
            pictures = self._pictures(texts=table is None)
        except OSError as error:
            self._tally.add("", f"unreadable shard ({error.strerror or type(error).__name__})")
            return
        for left_out in pictures.left_out if pictures else ():
            self._tally.add(left_out.what, left_out.reason, left_out.count)
        known: set[str] = set()
        if table is not None:
            try:
                yield from self._of_table(table, pictures, known)
            except (OSError, pa.ArrowException):
                self._tally.add("", BROKEN_TABLE)
            finally:
                table.close()
        elif shard.stats and pictures is not None:
            with suppress(OSError):
                for message, reason, count in failures_of_stats(self._tree.read(shard.stats, 1 << 20)):
                    self._tally.add(message[:100], reason, count)
        if pictures is not None:
            sidecar = self._texts_of(pictures)
            for key, uri in pictures.uris.items():
                if key not in known:
                    yield self._record(row_beside(key, sidecar, captions=self._source.captions), uri)

    def _texts_of(self, pictures: Pictures) -> Sidecar:
        def sidecar(key: str, ending: str) -> bytes | None:
            try:
                return pictures.sidecar(key, ending)
            except OSError as error:
                self._tally.add(
                    f"{key}.{ending}", f"unreadable text beside a picture ({error.strerror or type(error).__name__})"
                )
                return None

        return sidecar

    def _table(self) -> ShardTable | None:
        if not self._shard.parquet:
            return None
        uri = self._tree.uri(self._shard.parquet)
        try:
            return ShardTable(uri, captions=self._source.captions, picture=self._source.picture)
        except (OSError, ValueError):
            self._tally.add("", BROKEN_TABLE if self._shard.tar or self._shard.folder else "unreadable Parquet")
            return None

    def _pictures(self, *, texts: bool) -> Pictures | None:
        """None where the pictures are in the Parquet, or there are none."""
        ending = self._source.picture
        if self._shard.tar:
            return pictures_of_tar(self._tree.uri(self._shard.tar), ending=ending, texts=texts)
        return pictures_of_folder(self._tree, self._shard.folder, ending=ending) if self._shard.folder else None

    def _of_table(self, table: ShardTable, pictures: Pictures | None, known: set[str]) -> Iterator[ImageRecord]:
        uri_of_table = self._tree.uri(self._shard.parquet)
        sidecar = self._texts_of(pictures) if pictures is not None else None
        if pictures is None and table.picture is None:
            self._tally.add("", NO_PICTURES, table.count)
            return
        for row in table.rows():
            known.add(row.key)
            if row.failure:
                self._tally.add(row.url or row.key, row.failure)
                continue
            if pictures is None:
                uri: str | None = cell_uri(uri_of_table, row.number, str(table.picture))
            else:
                uri = pictures.uris.get(row.key)
                if not table.has_captions and sidecar is not None:
                    row = row._replace(captions=caption_beside(row.key, sidecar))
            if uri is None:
                self._tally.add(row.key, ABSENT)
            else:
                yield self._record(row, uri)

    def _record(self, row: Row, uri: str) -> ImageRecord:
        captions: dict[str, None] = {}
        for text in row.captions:
            caption, refused = caption_of(text)
            if not refused:
                captions[caption] = None
            elif refused != EMPTY:
                self._tally.add(row.key, refused)
        return ImageRecord(
            image_id=self._id(row.key),
            source=self._source.name,
            uri=uri,
            width=row.width,
            height=row.height,
            captions=tuple(captions),
            split=self._source.split,
            license=self._source.license,
            keys=_keys(row),
        )

    def _id(self, key: str) -> str:
        own = key if key.isdigit() and key.startswith(self._numbered) else f"{self._numbered}_{key}"
        name = self._above + own
        return name if ID_PATTERN.fullmatch(name) else path_id(f"{self._source.name}/{self._shard.stem}/{key}")


def _keys(row: Row) -> tuple[str, ...]:
    """Other names of the picture: what its URL says, and the hash of what was downloaded."""
    keys = keys_of_url(row.url) if row.url else ()
    return (*keys, f"sha256:{row.sha256}") if _SHA256.fullmatch(row.sha256) else keys


def _ahead(make: Callable[[_Item], _Made], items: Iterable[_Item]) -> Iterator[_Made]:
    """``make`` of each item, in order, made by threads a few items ahead."""
    with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="shard") as pool:
        in_work: deque[Future[_Made]] = deque()
        try:
            for item in items:
                in_work.append(pool.submit(make, item))
                if len(in_work) > SHARDS_AT_ONCE:
                    yield in_work.popleft().result()
            while in_work:
                yield in_work.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
