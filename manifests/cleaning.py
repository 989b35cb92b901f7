"""CaptionRules: which captions of the sources' a manifest takes, and in which form. The section `captions:` of a job file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from manifests.lists import first_of_each, kept, owners, put_together, taken_apart
from manifests.record import SCHEMA
from manifests.report import EXAMPLES, RejectionCount

#: How much of a caption an example tells.
_SHOWN = 60


class CaptionRules(BaseModel):
    """Rules for captions, in the order in which they are applied. Sources have folded white space and left out what is empty,
    is more than 10 kB, or is not UTF-8.

    keep_all          none of the rules below but ``drop_uncaptioned``
    lower_case        off: names and text on signs are told by capitals, and a trainer can still lower them
    drop_undecodable  captions with U+FFFD, which stands for bytes that were not UTF-8: what is left is no word
    min_words, max_words, max_characters  a caption outside is dropped; 256 words is the upper end of what CC12M let in,
                      and a "caption" of 100 kB is the text of a web page; a single word is fine in Visual Genome
    long              ``cut``: too long ones are cut after their last whole word that fits, in place of dropped
    drop_repeats      of equal captions of one image the first stays
    drop_uncaptioned  pictures without any caption (left, of any of their sources) are left out; off, since an image can be
                      labelled without one
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_all: bool = False
    lower_case: bool = False
    drop_undecodable: bool = True
    min_words: int = Field(1, ge=1)
    max_words: int = Field(256, ge=1)
    max_characters: int = Field(2_000, ge=1)
    long: str = Field("drop", pattern="^(drop|cut)$")
    drop_repeats: bool = True
    drop_uncaptioned: bool = False

    @model_validator(mode="after")
    def _leave_something(self) -> CaptionRules:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is more than max_words {self.max_words}")
        return self

    def apply(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[RejectionCount]]:
        """``batch`` (of SCHEMA) with the captions that these rules leave, and what went, counted."""
        values, lengths = taken_apart(batch.column("captions"))
        if self.lower_case and not self.keep_all:
            values = pc.utf8_lower(values)
        if self.long == "cut" and not self.keep_all:
            values = self._cut(values)
        images = owners(lengths)
        counts: list[RejectionCount] = []
        stays = np.ones(len(values), bool)
        for reason, hit in self._faults(values, images):
            hit &= stays
            if hit.any():
                stays &= ~hit
                counts += _counted(batch, reason, images[hit], values.filter(pa.array(hit)))
        if not stays.all():
            values, lengths = kept(values, lengths, stays)
        batch = batch.set_column(
            SCHEMA.get_field_index("captions"), SCHEMA.field("captions"), put_together(values, lengths)
        )
        return batch, counts

    def _faults(self, values: pa.Array, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        if self.keep_all:
            return
        if self.drop_undecodable:
            yield "caption with bytes that were not UTF-8", _mask(pc.match_substring(values, "\ufffd"))
        words = pc.add(pc.count_substring(values, " "), 1)
        if self.min_words > 1:
            yield f"caption of fewer than {self.min_words} words", _mask(pc.less(words, self.min_words))
        yield f"caption of more than {self.max_words} words", _mask(pc.greater(words, self.max_words))
        long = _mask(pc.greater(pc.utf8_length(values), self.max_characters))
        yield f"caption of more than {self.max_characters} characters", long
        if self.drop_repeats:
            yield "caption repeated on its image", ~first_of_each(values, images)

    def _cut(self, values: pa.Array) -> pa.Array:
        words = pc.add(pc.count_substring(values, " "), 1)
        long = pc.or_(pc.greater(words, self.max_words), pc.greater(pc.utf8_length(values), self.max_characters))
        if not pc.any(long).as_py():
            return values
        return pc.replace_with_mask(
            values, long, pa.array([self._shortened(text) for text in values.filter(long).to_pylist()], pa.string())
        )

    def _shortened(self, text: str) -> str:
        """The first words that fit; of a single word that is too long, its beginning."""
        text = " ".join(text.split(" ")[: self.max_words])
        if len(text) <= self.max_characters:
            return text
        fitting = text[: self.max_characters + 1].rpartition(" ")[0]
        return fitting or text[: self.max_characters]


def _mask(found: pa.Array) -> np.ndarray:
    return found.to_numpy(zero_copy_only=False)


def _counted(batch: pa.RecordBatch, reason: str, rows: np.ndarray, texts: pa.Array) -> list[RejectionCount]:
    """One count for each source of the batch; what is told of an example is its image and the beginning of its text."""
    sources = batch.column("source").take(pa.array(rows)).dictionary_encode()
    counts = []
    for number, source in enumerate(sources.dictionary.to_pylist()):
        places = np.flatnonzero(np.asarray(sources.indices) == number)
        ids = batch.column("image_id").take(pa.array(rows[places])).to_pylist()
        told = (
            f"{image_id}: {text[:_SHOWN]}"
            for image_id, text in zip(ids, texts.take(pa.array(places)).to_pylist(), strict=True)
        )
        counts.append(
            RejectionCount(source=source, reason=reason, count=len(places), examples=tuple(sorted(told)[:EXAMPLES]))
        )
    return counts
