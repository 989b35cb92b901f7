"""Which texts of which images are worth learning: web captions filtered, and generated ones in their place where these are better.

Source: BLIP's CapFilt (arXiv:2201.12086, section 4), with which the web images of BLIP and Prismer were captioned anew: a captioner
writes a text for each image, a matcher gives every text a score, and texts with low scores go. Here captioner and matcher are
columns of a store, and nothing in it is changed: the rule is applied when texts are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from manifests.record import ImageRecord
from pipeline.errors import StoreError
from pipeline.plan import Shard

if TYPE_CHECKING:
    from pipeline.reader import LabelReader
    from pipeline.store import LabelStore

Row = Mapping[str, Any]


class TextRule(BaseModel):
    """What is kept of an image's texts, its own and the generated one.

    keep       better: the one with the highest score, its own where they are equal; all: every one
    at_least   texts with a lower score are dropped, and those without a score; null: none is
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    keep: Literal["better", "all"] = "better"
    at_least: float | None = None


class TextRules(BaseModel):
    """Which texts are kept, by source. An image of a source that is not named keeps its own texts, all of them.

    generated  column of kind text: what the captioner said; null: there is none
    scores     column of kind score: of each of the image's own texts and, where the matcher was told to (its option ``also``), of
               the generated one
    sources    source -> rule
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    generated: str | None = Field("caption", min_length=1)
    scores: str = Field("match", min_length=1)
    sources: dict[str, TextRule] = Field(min_length=1)

    @property
    def columns(self) -> list[str]:
        return [self.scores] if self.generated is None else [self.generated, self.scores]

    def kept(self, record: ImageRecord, generated: Row | None, scores: Row | None) -> Kept:
        """The image's texts that are kept. generated, scores: its rows in these columns, as they are stored.

        Raises StoreError where there are scores of other captions than the record has.
        """
        own = [KeptText(text, None, False) for text in record.captions]
        rule = self.sources.get(record.source)
        if rule is None:
            return Kept(tuple(own))
        found = _scored(record, generated, scores)
        if rule.at_least is not None:
            unscored = sum(text.score is None for text in found)
            passing = [text for text in found if text.score is not None and text.score >= rule.at_least]
            below = len(found) - unscored - len(passing)
        else:
            unscored, below, passing = 0, 0, found
        if rule.keep == "better" and passing:
            passing = [max(passing, key=lambda text: float("-inf") if text.score is None else text.score)]
        return Kept(tuple(passing), below, unscored)

    def applied(self, record: ImageRecord, generated: Row | None, scores: Row | None) -> ImageRecord:
        """The record with the texts that are kept in place of its own."""
        return replace(record, captions=tuple(text.text for text in self.kept(record, generated, scores).texts))


class KeptText(NamedTuple):
    """``score``: None where there is none; ``generated``: by the captioner."""

    text: str
    score: float | None
    generated: bool


class Kept(NamedTuple):
    """``below``, ``unscored``: texts that were dropped, with a lower score than asked for and without any."""

    texts: tuple[KeptText, ...]
    below: int = 0
    unscored: int = 0


def _scored(record: ImageRecord, generated: Row | None, scores: Row | None) -> list[KeptText]:
    """All texts, the image's own first. A generated text that it has already is left out."""
    values = list(scores["scores"]) if scores is not None and scores["status"] == "ok" else []
    count = len(record.captions)
    if values and len(values) not in (count, count + 1):
        raise StoreError(
            f"{record.image_id} has {count} captions and {len(values)} scores; its captions are others now: label the column of "
            "scores again"
        )
    # Where the photo could not be read, nothing is scored.
    values += [None] * (count + 1 - len(values))
    found = [KeptText(text, score, False) for text, score in zip(record.captions, values, strict=False)]
    said = generated["text"] if generated is not None and generated["status"] == "ok" else ""
    if said and said.casefold() not in {text.casefold() for text in record.captions}:
        found.append(KeptText(said, values[count], True))
    return found


def kept_texts(store: LabelStore, rules: TextRules) -> Iterator[tuple[Shard, list[tuple[ImageRecord, Kept]]]]:
    """Every shard's images with the texts that are kept of each, in manifest order. Of the labels only texts are read.

    Raises StoreError for columns that are not there or of another kind, for a source that the store has no image of, where the columns
    are missing in a shard that has images of these sources, and as `TextRules.kept`.
    """
    from pipeline.reader import LabelReader  # loads OpenCV, which those who only write rules down need not wait for

    unseen = set(rules.sources)
    with closing(LabelReader(store, rules.columns)) as reader:
        names = _names(reader, rules)
        for shard in store.plan.shards():
            records = store.records(shard)
            ruled = {record.source for record in records} & rules.sources.keys()
            unseen -= ruled
            if not ruled:
                yield shard, [(record, rules.kept(record, None, None)) for record in records]
                continue
            cells = reader.open(shard).cells
            lacking = [name for name in names.values() if name not in cells]
            if lacking:
                raise StoreError(
                    f"{', '.join(lacking)} of {shard.name} is missing, and with it the scores of images of {', '.join(sorted(ruled))}; "
                    "run `expert-labels label` first"
                )
            columns = {what: cells[name].rows for what, name in names.items()}
            nothing = [None] * len(records)
            pairs = zip(records, columns.get("generated", nothing), columns["scores"], strict=True)
            yield shard, [(record, rules.kept(record, said, scores)) for record, said, scores in pairs]
    if unseen:
        raise StoreError(
            f"{store.storage.url} has no image of {', '.join(sorted(unseen))}; `expert-labels manifest stats` names its sources"
        )


def records_of(store: LabelStore, rules: TextRules | None) -> Iterator[tuple[Shard, list[ImageRecord]]]:
    """Every shard's records, with the texts that ``rules`` keep of each in place of its own. Raises StoreError as `kept_texts`."""
    if rules is None:
        yield from ((shard, store.records(shard)) for shard in store.plan.shards())
        return
    for shard, images in kept_texts(store, rules):
        yield shard, [replace(record, captions=tuple(text.text for text in kept.texts)) for record, kept in images]


def _names(reader: LabelReader, rules: TextRules) -> dict[str, str]:
    """What of a rule -> the column's name among the reader's. Raises StoreError for a column of another kind."""
    found = {}
    for what, column, kind in (("generated", rules.generated, "text"), ("scores", rules.scores, "score")):
        if column is not None:
            card_name = next(name for name, card in reader.cards.items() if column in (card.name, card.column))
            if reader.cards[card_name].spec.kind != kind:
                raise StoreError(
                    f"{column} holds {reader.cards[card_name].spec.kind}; expected a column of kind {kind} for `{what}`"
                )
            found[what] = card_name
    return found
