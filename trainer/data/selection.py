"""Selection: which images of a store make up an epoch, and how often each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from manifests.record import ImageRecord
from pipeline.errors import StoreError
from pipeline.kept_texts import TextRules, records_of
from pipeline.plan import ShardPlan
from pipeline.store import LabelStore

#: An example that stands for its image as a whole, not for one of its texts.
WHOLE = -1


class Selection:
    """Examples of a store, shard by shard. An example is a row of its shard and an item: one of the image's texts, or WHOLE.

    ``counts_S``: examples of each shard. ``fingerprint``: of what was selected from which plan.
    """

    def __init__(
        self, plan: ShardPlan, ends: list[NDArray[np.int32]] | None, *, numbered: bool, rules: TextRules | None = None
    ) -> None:
        """ends: for each shard, how many examples its rows have up to and including each row; None: one for every row.
        rules: by which texts were counted."""
        self._ends = ends
        self._numbered = numbered
        if ends is None:
            self.counts_S = np.array([len(shard) for shard in plan.shards()], np.int64)
            self.fingerprint = plan.fingerprint
            return
        self.counts_S = np.array([end[-1:].sum() for end in ends], np.int64)  # of a shard whose images are gone, none
        digest = hashlib.sha256(f"{plan.fingerprint} {numbered}".encode())
        if rules is not None:
            digest.update(rules.model_dump_json().encode())
        for end in ends:
            digest.update(end.astype("<i4").tobytes())
        self.fingerprint = f"{plan.fingerprint}-{digest.hexdigest()[:16]}"

    @classmethod
    def everything(cls, plan: ShardPlan) -> Selection:
        """Every image once; nothing is read for it."""
        return cls(plan, None, numbered=False)

    @classmethod
    def images(
        cls, store: LabelStore, wanted: Callable[[ImageRecord], bool], rules: TextRules | None = None
    ) -> Selection:
        """Every wanted image once. Reads the manifest. Raises StoreError if there is none.

        rules: what is asked about is the record with the texts that they keep; columns of texts are read for that.
        """
        return cls._counted(store, lambda record: int(wanted(record)), rules, numbered=False)

    @classmethod
    def items(cls, store: LabelStore, count: Callable[[ImageRecord], int], rules: TextRules | None = None) -> Selection:
        """Every image as often as it has items (captions, questions): one example for each. As `images`."""
        return cls._counted(store, count, rules, numbered=True)

    @classmethod
    def _counted(
        cls, store: LabelStore, count: Callable[[ImageRecord], int], rules: TextRules | None, *, numbered: bool
    ) -> Selection:
        ends = [
            np.cumsum([count(record) for record in records]).astype(np.int32) for _, records in records_of(store, rules)
        ]
        if not any(len(end) and end[-1] for end in ends):
            raise StoreError(
                f"none of the {store.plan.images} images of {store.storage.url} is selected; expected one or more: look at the "
                "manifest's splits and captions, or select otherwise"
            )
        return cls(store.plan, ends, numbered=numbered, rules=rules)

    def __len__(self) -> int:
        return int(self.counts_S.sum())

    def at(self, shard: int, place: int) -> tuple[int, int]:
        """(row, item) of the shard's example number ``place``, from 0 to below its count."""
        if self._ends is None:
            return place, WHOLE
        ends_R = self._ends[shard]
        row = int(np.searchsorted(ends_R, place, side="right"))
        return row, place - (int(ends_R[row - 1]) if row else 0) if self._numbered else WHOLE
