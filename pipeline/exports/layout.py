"""Layout: which columns of a store it has room for, and the files that it makes of a shard. Piece: what it makes them of."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, ClassVar

from PIL import Image

from expert_zoo.card import ExpertCard
from expert_zoo.labels import Picture
from manifests.record import ImageRecord
from pipeline.cell import CellReader
from pipeline.codec import DENSE
from pipeline.exports.files import Files
from pipeline.photos import Limits, PhotoError, read_photo
from pipeline.plan import Shard
from pipeline.reader import OpenShard, size_of
from pipeline.redaction import redacted
from pipeline.storage import Storage


@dataclass(frozen=True, slots=True)
class Taken:
    """``cards``: of the columns that a layout takes, by expert name. ``left``: why it takes the others not, by expert name."""

    cards: dict[str, ExpertCard]
    left: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """One image. ``rows``: of the cells that are committed, by expert name. ``height``, ``width``: upright, None if unknown.

    ``place``: its row in the shard, whatever was dropped since.
    """

    record: ImageRecord
    place: int
    rows: dict[str, dict[str, Any]]
    height: int | None
    width: int | None
    photo: Picture | None


class Piece:
    """One shard, opened: its images one after the other, and the bytes of their labels.

    ``cards``: of all columns, by expert name. ``cells``: of those whose cell is committed. ``labels``: counts the statuses of
    what was read; ``unread``: why photos could not be read, by image. ``gone``: images of the shard that were dropped from the store.
    """

    def __init__(
        self,
        shard: Shard,
        opened: OpenShard,
        cards: Mapping[str, ExpertCard],
        *,
        photos: bool,
        gone: Sequence[ImageRecord] = (),
    ) -> None:
        self.shard = shard
        self.gone = gone
        self.cards = dict(cards)
        self.cells: dict[str, CellReader] = opened.cells
        self.labels: Counter[str] = Counter()
        self.unread: dict[str, str] = {}
        self._opened = opened
        self._photos = photos
        self._photo_column = next((name for name, card in cards.items() if card.spec.kind == "image"), None)

    def __len__(self) -> int:
        return len(self.shard)

    def entries(self) -> Iterator[Entry]:
        """The images in manifest order. Raises DamagedCell where a photo's bytes are not there."""
        for index, (place, record) in enumerate(zip(self.shard.kept, self._opened.records, strict=True)):
            # In the order of the cards, whatever the order that the reader was asked for them in.
            rows = {name: self.cells[name].rows[index] for name in self.cards if name in self.cells}
            for name in self.cards:
                self.labels[rows[name]["status"] if name in rows else "missing"] += 1
            height, width = size_of(rows) or (None, None)
            yield Entry(record, place, rows, height, width, self._photo(record, rows))

    def member(self, name: str, row: Mapping[str, Any]) -> bytes:
        """The bytes of an ``ok`` row of a dense kind. Raises DamagedCell."""
        assert self.cards[name].spec.kind in DENSE and row["status"] == "ok"
        data = self.cells[name].member(dict(row))
        assert data is not None
        return data

    def _photo(self, record: ImageRecord, rows: Mapping[str, dict[str, Any]]) -> Picture | None:
        name = self._photo_column
        if name is not None and name in rows and rows[name]["status"] == "ok":
            return Picture(self.member(name, rows[name]), rows[name]["format"])
        if not self._photos:
            return None
        try:
            photo = read_photo(record, Limits())
        except PhotoError as error:
            self.unread[record.image_id] = redacted(error.reason)
            return None
        if photo.data is not None:
            return Picture(photo.data, photo.format)
        # Rendered, so that there never was a file.
        buffer = io.BytesIO()
        Image.fromarray(photo.pixels_HW3).save(buffer, "PNG")
        return Picture(buffer.getvalue(), "png")


class Layout(ABC):
    """How labels are laid out for others. ``photos``: photos that are in no column are read from their addresses.

    ``name``: in export.json and on the command line.
    """

    name: ClassVar[str]

    def __init__(self, *, photos: bool = False) -> None:
        self.photos = photos

    def settings(self) -> dict[str, Any]:
        """All that decides the files beside store and columns, as JSON."""
        return {"photos": self.photos}

    def take(self, cards: Mapping[str, ExpertCard]) -> Taken:
        """Which of the columns there is room for. Default: all."""
        return Taken(dict(cards))

    def check(self, records: Iterable[ImageRecord]) -> None:
        """Looks at all images before the first file is written. Raises StoreError where the layout cannot hold them."""

    @abstractmethod
    def write(self, piece: Piece, files: Files) -> None:
        """The files of one shard; the same cells give the same bytes. Raises DamagedCell."""

    def finish(self, cards: Mapping[str, ExpertCard], shards: list[int], files: Files) -> None:
        """The files that are made of all ``shards`` that have been written."""


def joined_lines(storage: Storage, parts: Iterable[str]) -> Iterator[bytes]:
    """The lines of files that follow each other, each but the last with a comma: what stands between [ and ] in JSON."""
    before: bytes | None = None
    for part in parts:
        with closing(storage.open(part)) as stream:
            for line in stream:
                if before is not None:
                    yield before + b",\n"
                before = line.rstrip(b"\n")
    if before is not None:
        yield before + b"\n"
