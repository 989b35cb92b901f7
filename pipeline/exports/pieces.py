"""The pieces of an export: what each would be made of, whether it is, and the way from one to the other.

What was made says so by its receipt, which is written last: a piece without one is not finished.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from expert_zoo.card import ExpertCard
from pipeline.exports.files import Compared, Files, Written
from pipeline.exports.layout import Layout, Piece
from pipeline.exports.record import WHOLE, PieceReceipt, read_receipt, receipt_name
from pipeline.plan import Shard
from pipeline.reader import LabelReader
from pipeline.receipt import installed_packages
from pipeline.storage import Storage
from pipeline.store import LabelStore


def origin_of(store: LabelStore) -> str:
    """Fingerprint of what the store was planned with: it stays the same while the store grows and shrinks."""
    return store.plan.parts[0].fingerprint


class Made(NamedTuple):
    """What a piece is made of: the attempt of each column's cell, None where there is none; a digest of its records."""

    cells: dict[str, str | None]
    images: str


class Pieces:
    """The shards of a store as an export has them: what they would be made of, and what they were made of."""

    def __init__(
        self, store: LabelStore, out: Storage, layout: Layout, reader: LabelReader, cards: Mapping[str, ExpertCard]
    ) -> None:
        self.store, self.out, self.layout, self.reader, self.cards = store, out, layout, reader, cards
        self._swept: set[str] = set()

    def made_of(self, shard: Shard) -> Made:
        """Cells are {} where no column has any: then there is nothing to export."""
        here = {name for name in self.cards if shard.index in self.reader.committed[name]}
        if not here:
            return Made({}, "")
        cells = {
            card.column: self.store.receipt(card.column, shard).attempt if name in here else None
            for name, card in self.cards.items()
        }
        images = hashlib.sha256(repr(self.store.records(shard)).encode("utf-8", "surrogatepass"))
        return Made(cells, images.hexdigest()[:16])

    def receipt(self, piece: int | str, made: Made) -> PieceReceipt | None:
        """Of a piece that is finished and made of just that."""
        found = read_receipt(self.out, piece)
        if found is None or (found.cells, found.images) != made:
            return None
        return found if all(self.out.exists(entry.name) for entry in found.files) else None

    def write(self, shard: Shard, made: Made) -> PieceReceipt:
        """The files of one shard, anew."""
        self.out.delete(receipt_name(shard.index))
        files = Written(self.out, self._swept)
        piece = self._piece(shard)
        self.layout.write(piece, files)
        return self._settled(shard.index, made, files, piece.labels, len(shard), piece.unread)

    def compare(self, shard: Shard, receipt: PieceReceipt) -> list[str]:
        """What is wrong with the files of one shard."""
        files = Compared(self.out)
        self.layout.write(self._piece(shard), files)
        return _told(files.problems, receipt)

    def _piece(self, shard: Shard) -> Piece:
        everyone = self.store.records(shard, dropped=True) if shard.dropped else []
        gone = [everyone[row] for row in shard.dropped]
        return Piece(shard, self.reader.open(shard), self.cards, photos=self.layout.photos, gone=gone)

    def finish(self, receipts: Mapping[int, PieceReceipt]) -> PieceReceipt | None:
        """The files that are made of all shards; None where no shard changed since they were."""
        made = Made({f"{index:06d}": _digest(receipt) for index, receipt in receipts.items()}, "")
        if self.receipt(WHOLE, made) is not None:
            return None
        self.out.delete(receipt_name(WHOLE))
        files = Written(self.out, self._swept)
        self.layout.finish(self.cards, sorted(receipts), files)
        return self._settled(WHOLE, made, files, Counter(), 0, {})

    def _settled(
        self, piece: int | str, made: Made, files: Files, labels: Counter[str], samples: int, unread: dict[str, str]
    ) -> PieceReceipt:
        files.settle()
        receipt = PieceReceipt(
            plan=origin_of(self.store),
            cells=made.cells,
            images=made.images,
            samples=samples,
            files=files.large,
            small=files.small,
            bytes=files.bytes,
            labels=dict(labels),
            unread=unread,
            packages=installed_packages(),
        )
        self.out.publish(receipt_name(piece), receipt.model_dump_json(indent=1).encode())
        return receipt


def _digest(receipt: PieceReceipt) -> str:
    return "-".join([*map(str, receipt.cells.values()), receipt.images])


def _told(problems: list[str], receipt: PieceReceipt) -> list[str]:
    """Other versions of a library may write the same pixels in other bytes: then that is said too."""
    now = installed_packages()
    others = [
        f"{name} {was} then, {now.get(name)} now" for name, was in receipt.packages.items() if was != now.get(name)
    ]
    why = f" (it was made with other versions: {', '.join(others)})" if problems and others else ""
    return [f"{problem}{why}" for problem in problems]
