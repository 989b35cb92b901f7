"""A cell while it is being filled: labels go in at the front, in manifest order; a whole committed cell comes out.

Encoding runs on a pool of threads, writing on one; the caller's thread only waits when too many labels are on their way,
so that a slow disk slows the model instead of filling the memory.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, Field

from expert_zoo.card import ExpertCard
from expert_zoo.labels import Label
from pipeline.cell import CellReader, EncodedRow
from pipeline.codec import decode, encode
from pipeline.plan import Shard
from pipeline.reading import Reading
from pipeline.receipt import DROPPED, Receipt, Seconds
from pipeline.redaction import redacted
from pipeline.statistics import facts_of
from pipeline.store import LabelStore

#: A refused cell names this many of the reasons it met.
SHOWN_REASONS = 3


class CellResult(BaseModel):
    """What became of one cell: committed (its receipt), left to another worker (neither), or refused (why).

    ``labelled``: rows that were asked in this run; ``failures``: those of them that failed, by reason code. ``seconds``:
    spent on them in this run; a receipt adds up all runs that its cell took. ``started``: when the worker began the unit, in
    seconds since the epoch on the worker's clock.
    """

    column: str
    shard: int
    images: int
    receipt: Receipt | None = None
    refused: str = ""
    labelled: int = 0
    failures: dict[str, int] = Field(default_factory=dict)
    seconds: Seconds = Field(default_factory=Seconds)
    started: float = 0.0

    @property
    def outcome(self) -> Literal["committed", "refused", "left"]:
        return "refused" if self.refused else "committed" if self.receipt else "left"


class EncodeThreads:
    """The threads behind the model: several that encode, one that writes, and a bound on what is between them."""

    def __init__(self, encoders: int, labels_in_flight: int, beat: Callable[[], object] = lambda: None) -> None:
        self._beat = beat
        self._encoders = ThreadPoolExecutor(encoders, thread_name_prefix="encode")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._room = threading.Semaphore(labels_in_flight)

    def submit(self, cell: CellInWork, reading: Reading, label: Label) -> Future[None]:
        self._room.acquire()
        # Sizes and not the photo: what waits for encoding must not keep a photo in memory.
        size = (reading.photo.height, reading.photo.width) if reading.photo else (None, None)
        encoded = self._encoders.submit(_encode, cell.card, reading.record.image_id, size, label)
        return self._writer.submit(self._write, cell, encoded)

    def keep(self, cell: CellInWork, row: EncodedRow) -> Future[None]:
        self._room.acquire()
        return self._writer.submit(self._write, cell, self._encoders.submit(_keep, cell.card, row))

    def _write(self, cell: CellInWork, encoded: Future[tuple[EncodedRow, float]]) -> None:
        try:
            cell.write(*encoded.result())
        finally:
            self._beat()
            self._room.release()

    def close(self) -> None:
        self._encoders.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)


class CellInWork:
    """One attempt at one cell. ``old``: the committed cell whose failed rows are asked again; its other rows are kept.

    ``image_ids``: of all rows of the shard. Nobody is asked for those that were dropped: they are failed rows, or as they were.
    """

    def __init__(
        self,
        store: LabelStore,
        card: ExpertCard,
        shard: Shard,
        threads: EncodeThreads,
        image_ids: Sequence[str],
        old: CellReader | None = None,
    ) -> None:
        self.card = card
        self.seconds = Seconds()
        self._store = store
        self._shard = shard
        self._threads = threads
        self._old = old
        gone = {image_ids[row] for row in shard.dropped}
        self._old_rows = iter(old.rows if old else _rows_of_dropped(image_ids, gone) if gone else ())
        self._asked = {row["image_id"] for row in old.rows if row["status"] == "failed"} - gone if old else None
        self._attempt, self._writer = store.writer(card, shard)
        self._on_their_way: list[Future[None]] = []
        self._readable = 0
        self._failures: dict[str, int] = {}
        self._failed_codes: Counter[str] = Counter()
        self._mended = 0
        self._asked_so_far = 0
        self._settled = False

    def wants(self, image_id: str) -> bool:
        return self._asked is None or image_id in self._asked

    def put(self, reading: Reading, label: Label) -> None:
        """The next label. Called in manifest order; rows of the old cell that come before it are copied first."""
        # Reasons are kept for ever: whatever an expert or a library quotes in them, no key may be among it.
        label = replace(label, reason=redacted(label.reason)) if label.reason else label
        self._keep_until(reading.record.image_id)
        self._asked_so_far += 1
        self._mended += label.status != "failed"
        if label.status == "failed":
            self._failed_codes[label.reason.partition(":")[0]] += 1
        if reading.photo is not None:
            self._readable += 1
            if label.status == "failed":
                self._failures[label.reason] = self._failures.get(label.reason, 0) + 1
        self._on_their_way.append(self._threads.submit(self, reading, label))

    def write(self, row: EncodedRow, encode_seconds: float) -> None:
        """Called by the writing thread, row after row."""
        start = time.perf_counter()
        self._writer.add(row)
        self.seconds.encode += encode_seconds
        self.seconds.write += time.perf_counter() - start

    def finish(self, failure_limit: float, before_commit: Callable[[ExpertCard], None] | None = None) -> CellResult:
        """Waits for all rows and commits, or refuses. Raises OSError where the store cannot be written.

        ``before_commit`` is called if it would commit, and may raise.
        """
        self._keep_until(None)
        for written in self._on_their_way:
            written.result()
        result = CellResult(
            column=self.card.column,
            shard=self._shard.index,
            images=len(self._shard),
            labelled=self._asked_so_far,
            failures=dict(self._failed_codes),
            seconds=self.seconds,
        )
        refusal = self._refusal(failure_limit)
        if refusal or (self._old and not self._mended):
            return result.model_copy(update={"refused": refusal})
        if before_commit is not None:
            before_commit(self.card)
        # From here on the files may be named by a receipt, whatever is raised: they are no longer ours to remove.
        self._settled = True
        start = time.perf_counter()
        # The receipt is part of the writing it reports on; what cannot be known yet is the time of its own few fsyncs.
        total = self.seconds.model_copy()
        if self._old is not None:
            total.add(self._old.receipt.seconds)
        receipt = self._store.commit(
            self.card,
            self._shard,
            self._attempt,
            self._writer,
            total,
            replacing=self._old.receipt if self._old else None,
        )
        self.seconds.write += time.perf_counter() - start
        return result.model_copy(update={"receipt": receipt})

    def close(self) -> None:
        """Removes what was written if it never got as far as a commit."""
        if not self._settled:
            self._writer.discard()

    def _keep_until(self, image_id: str | None) -> None:
        for row in self._old_rows:
            if row["image_id"] == image_id:
                return
            kept = self._old.encoded(row) if self._old else EncodedRow(row, None)
            self._on_their_way.append(self._threads.keep(self, kept))

    def _refusal(self, failure_limit: float) -> str:
        failed = sum(self._failures.values())
        if self._old or failed <= failure_limit * self._readable:
            return ""
        worst = sorted(self._failures.items(), key=lambda item: -item[1])[:SHOWN_REASONS]
        reasons = "; ".join(f"{times} x {reason}" for reason, times in worst)
        return (
            f"{self.card.name} failed on {failed} of {self._readable} readable photos of {self._shard.name}: {reasons}"
        )


def _rows_of_dropped(image_ids: Sequence[str], gone: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of a new cell: whole for images that were dropped; of the others only the id, at which to stop."""
    about = {
        "status": "failed",
        "reason": f"{DROPPED}: not in the store's input any more",
        "height": None,
        "width": None,
    }
    for image_id in image_ids:
        yield {"image_id": image_id} | (about if image_id in gone else {})


def _encode(
    card: ExpertCard, image_id: str, size: tuple[int | None, int | None], label: Label
) -> tuple[EncodedRow, float]:
    start = time.perf_counter()
    row: dict[str, object] = {
        "image_id": image_id,
        "status": label.status,
        "reason": label.reason,
        "height": size[0],
        "width": size[1],
    }
    columns, member = encode(card.spec, label.value) if label.value is not None else ({}, None)
    return EncodedRow(row | columns, member, facts_of(card.spec, label, size)), time.perf_counter() - start


def _keep(card: ExpertCard, row: EncodedRow) -> tuple[EncodedRow, float]:
    """A row of the old cell with its facts, which only its label tells; one that cannot be read is `audit`'s business."""
    start = time.perf_counter()
    with suppress(ValueError):
        label = decode(card.spec, row.columns, row.member)
        row = replace(row, facts=facts_of(card.spec, label, (row.columns["height"], row.columns["width"])))
    return row, time.perf_counter() - start
