"""Cc3m, Cc12m: Conceptual Captions from the lists as Google publishes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from manifests.record import Rejection
from manifests.sources.lines import columns, lines, naming, printable
from manifests.sources.web import Pairs, WebImages, web_batches

NOT_TWO_COLUMNS = "line without exactly one TAB"


class _TwoColumns(BaseModel):
    """A file without header, two columns between TABs, in which quotes are letters like any other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    order: ClassVar[tuple[str, str]]
    other: ClassVar[str]

    source: str
    name: str
    path: str = Field(min_length=1)
    fetch: bool = False
    split: str = ""
    license: str = ""

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """One record per line; rejections: lines of other columns, captions and URLs that are none, and without ``fetch``
        all of them, counted by batches.

        Raises ValueError where the file is missing, where its columns stand in the other order, and where most of its
        first lines have not two columns.
        """
        about = WebImages(
            name=self.name,
            prefix=self.source,
            fetch=self.fetch,
            order=self._order,
            where=self.path,
            split=self.split,
            license=self.license,
        )
        return web_batches(self._pairs(), about)

    @property
    def _order(self) -> str:
        return f"{' TAB '.join(self.order)} (the other way round is `source: {self.other}`)"

    def _pairs(self) -> Iterator[Pairs | Rejection]:
        checked = False
        for first, text in lines(self.path):
            numbers = pa.array(range(first, first + len(text)), pa.int64())
            (left, right), fitting = columns(text, 2)
            if len(left) < len(text):
                others = pc.and_(pc.invert(fitting), pc.not_equal(pc.binary_length(text), 0))
                wrong = text.filter(others)
                if not checked and len(wrong) > len(left):
                    raise ValueError(
                        f"{self.path}: {len(wrong)} of the first {len(text)} lines have not two columns, such as "
                        f"{printable(wrong[0])!r}; expected {self._order}"
                    )
                for number, line in zip(numbers.filter(others).to_pylist(), wrong, strict=True):
                    yield Rejection(self.name, f"{self.path}, line {number}: {printable(line)}", NOT_TWO_COLUMNS)
                numbers = numbers.filter(fitting)
            checked = True
            if (
                first == 1
                and len(left)
                and {printable(left[0]).lower(), printable(right[0]).lower()} == {"url", "caption"}
            ):
                left, right, numbers = left[1:], right[1:], numbers[1:]  # the header that img2dataset wants
            urls, captions = (left, right) if self.order[0] == "url" else (right, left)
            yield Pairs(urls, captions, naming(f"{self.path}, line ", numbers))


class Cc3m(_TwoColumns):
    """Conceptual Captions: ``path`` is Train_GCC-training.tsv or Validation_GCC-1.1.0-Validation.tsv, caption TAB url.

    fetch: photos are downloaded when they are labelled; without it every line is a rejection. split, license: of all.
    """

    order: ClassVar[tuple[str, str]] = ("caption", "url")
    other: ClassVar[str] = "cc12m"

    source: Literal["cc3m"] = "cc3m"
    name: str = Field(default="cc3m", min_length=1)


class Cc12m(_TwoColumns):
    """Conceptual 12M: ``path`` is cc12m.tsv, url TAB caption. All else as `Cc3m`."""

    order: ClassVar[tuple[str, str]] = ("url", "caption")
    other: ClassVar[str] = "cc3m"

    source: Literal["cc12m"] = "cc12m"
    name: str = Field(default="cc12m", min_length=1)
