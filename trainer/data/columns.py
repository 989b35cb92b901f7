"""Which columns of a store a dataset reads, and whether they are of use: said before the first batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expert_zoo.card import ExpertCard
from pipeline.errors import StoreError
from pipeline.kept_texts import TextRules
from pipeline.reader import LabelReader
from pipeline.receipt import Rows
from pipeline.storage.views import Cached
from pipeline.store import LabelStore
from trainer.data.examples import MAP_KINDS

#: The captions of the manifest, among the sources of captions.
RECORD = "record"
#: Shards whose receipts are looked at for a column that has only failures.
_LOOKED_AT = 8


@dataclass(frozen=True, slots=True)
class Columns:
    """Experts' names. ``labels``: by modality. ``photos``: None where they are not in the store. ``captions``: RECORD or names.

    ``depth``: what tells which of two objects is in front, one of ``labels``; None where there is none or nothing to tell.
    ``generated``, ``scores``: what rules for texts ask for, None where there are no rules, or they ask for none.
    """

    labels: Mapping[str, str]
    photos: str | None
    captions: tuple[str, ...]
    depth: str | None
    columns: Mapping[str, str]
    generated: str | None = None
    scores: str | None = None

    def all(self) -> list[str]:
        """The store's columns that are read."""
        return list(self.columns.values())


def columns_of(
    store: LabelStore,
    labels: Mapping[str, str],
    photos: str,
    captions: Sequence[str],
    select: TextRules | None = None,
) -> Columns:
    """Looks the names up. Raises StoreError for those that are not there or of another kind."""
    columns: dict[str, str] = {}

    def card_of(what: str, kinds: Sequence[str]) -> ExpertCard:
        card = store.card_cached(store.column_of(what))
        if card.spec.kind not in kinds:
            raise StoreError(
                f"{card.column} of {store.storage.url} has labels of kind {card.spec.kind}; expected {' or '.join(kinds)}"
            )
        if columns.setdefault(card.name, card.column) != card.column:
            raise StoreError(f"both {columns[card.name]} and {card.column} are asked for; name one of them")
        return card

    cards = {modality: card_of(what, MAP_KINDS) for modality, what in labels.items()}
    texts = tuple(what if what == RECORD else card_of(what, ("text",)).name for what in captions)
    here = any(photos in (column, card.name) for column, card in store.columns().items())
    depths = [card.name for card in cards.values() if card.spec.quantity in ("depth", "inverse_depth")]
    hidden = any(card.spec.kind == "instances" for card in cards.values())
    return Columns(
        labels={modality: card.name for modality, card in cards.items()},
        photos=card_of(photos, ("image",)).name if here else None,
        captions=texts,
        depth=depths[0] if depths and hidden else None,
        columns=columns,
        generated=card_of(select.generated, ("text",)).name if select and select.generated else None,
        scores=card_of(select.scores, ("score",)).name if select else None,
    )


def check_columns(reader: LabelReader, columns: Columns) -> None:
    """Raises StoreError where a modality's column has no committed cell, or nothing but failures in those that are looked at."""
    for modality, name in columns.labels.items():
        column, committed = columns.columns[name], sorted(reader.committed[name])
        if not committed:
            raise StoreError(
                f"{column} of {reader.store.storage.url} has no committed cell, so there is no label for {modality}; expected "
                "some: run `expert-labels label`, or leave it out"
            )
        step = -(-len(committed) // _LOOKED_AT)
        found = [reader.store.receipt(column, reader.plan.shard(index)).rows for index in committed[::step]]
        if not any(rows.ok + rows.empty for rows in found):
            raise StoreError(
                f"all {sum(map(len, found))} labels of {column} in the {len(found)} shards looked at failed ({_why(found)}), so "
                f"there is nothing to learn from for {modality}; expected labels: run `expert-labels retry`, or leave it out"
            )


def check_cache(reader: LabelReader, window: int) -> None:
    """Raises ValueError where a remote store's cache is too small for the shards being read and those to be read next."""
    if reader.cache is None or not isinstance(reader.store.storage, Cached):
        return
    first = {card.column: min(reader.committed[name]) for name, card in reader.cards.items() if reader.committed[name]}
    shard = sum(reader.store.receipt(column, reader.plan.shard(index)).stored for column, index in first.items())
    needed = shard * min(2 * window, len(reader.plan))
    if needed > reader.cache.limit_bytes:
        raise ValueError(
            f"a cache of {reader.cache.limit_bytes} bytes; two windows of {window} shards are about {needed} bytes: expected "
            "that much, or every shard comes again and again: raise the limit or take a smaller window"
        )


def _why(found: Sequence[Rows]) -> str:
    reasons = {reason: count for rows in found for reason, count in rows.reasons.items()}
    return max(reasons, key=lambda reason: reasons[reason], default="for no reason")
