"""Labels one shard with a pack of loaded experts: what happens inside a worker, with or without a cluster around it.

    decode threads -> photos -> [one expert after the other, in micro-batches] -> encode threads -> one writer -> commit

The model's thread only ever waits for photos (counted as ``wait``) or for room among the labels on their way to the disk;
it never decodes a photo, encodes a PNG or writes a file.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing

from pydantic import BaseModel, ConfigDict

from expert_zoo.expert import Expert
from expert_zoo.labels import Label
from manifests.record import ImageRecord
from pipeline.batching import BatchRunner
from pipeline.errors import WorkerError
from pipeline.filling import CellInWork, CellResult, EncodeThreads
from pipeline.golden import GoldenSamples
from pipeline.journal import Journal
from pipeline.photos import Limits
from pipeline.plan import Shard
from pipeline.reading import Reading, read_ahead, read_warily
from pipeline.said import Said, unreadable
from pipeline.store import LabelStore
from pipeline.watchdog import Patience, Watchdog


class Effort(BaseModel):
    """How a worker spends its machine, and what it puts up with.

    ``read_threads``, ``encode_threads`` run beside the model's own thread; ``ahead`` photos are decoded beyond the batch in
    work. ``failure_limit``: share of the readable photos of a shard on which an expert may fail before its cell is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    read_threads: int = 1
    encode_threads: int = 1
    ahead: int = 32
    failure_limit: float = 0.5
    limits: Limits = Limits()
    patience: Patience = Patience()


class Labeller:
    """Loaded experts of one store, ready for shards.

    ``batch_sizes``: micro-batches other than the experts' own, by name. ``golden``: these experts' answers to the golden sample, which
    must be those that their columns began with before the first commit. ``watchdog``: is told of every sign of life.
    """

    def __init__(
        self,
        store: LabelStore,
        experts: Sequence[Expert],
        *,
        effort: Effort,
        batch_sizes: dict[str, int] | None = None,
        golden: GoldenSamples | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        sizes = batch_sizes or {}
        self._store = store
        self._effort = effort
        self._golden = golden
        self._watchdog = watchdog
        self._runners = {expert.card.column: BatchRunner(expert, sizes.get(expert.card.name)) for expert in experts}

    @property
    def experts(self) -> list[Expert]:
        """The loaded experts, in the pack's order."""
        return [runner.expert for runner in self._runners.values()]

    @property
    def batch_sizes(self) -> dict[str, int]:
        """The micro-batch in force, by expert: smaller than asked for where the device's memory ran out."""
        return {runner.expert.card.name: runner.batch_size for runner in self._runners.values()}

    def label(self, shard: Shard, columns: Sequence[str], journal: Journal, *, retry: bool = False) -> list[CellResult]:
        """Fills those cells of ``columns`` that are not committed; with ``retry``, asks again for failed rows of those that are.

        Raises OSError where the store cannot be written (a full disk); nothing half-made becomes visible. Raises WorkerError
        for a column that none of this worker's experts fills, or whose golden sample it labels otherwise.
        """
        if self._watchdog is None:
            return self._label(shard, columns, journal, retry)
        self._watchdog.begin(journal)
        try:
            return self._label(shard, columns, journal, retry)
        finally:
            self._watchdog.end()

    def _label(self, shard: Shard, columns: Sequence[str], journal: Journal, retry: bool) -> list[CellResult]:
        started = time.time()
        self._check_versions(columns)
        wanted = [column for column in columns if self._store.is_committed(column, shard) == retry]
        left = [column for column in columns if column not in wanted]
        results = [CellResult(column=column, shard=shard.index, images=len(shard)) for column in left]
        if wanted and journal.given_up:
            reason = f"{shard.name} killed {journal.deaths} workers and the last deaths have no single photo in common"
            results += [CellResult(column=c, shard=shard.index, images=len(shard), refused=reason) for c in wanted]
        elif wanted:
            results += self._fill(shard, wanted, journal, retry)
        journal.done()
        return [result.model_copy(update={"started": started}) for result in results]

    def _check_versions(self, columns: Sequence[str]) -> None:
        for column in columns:
            if column not in self._runners:
                name = column.partition("@")[0]
                mine = [own for own in self._runners if own.startswith(f"{name}@")]
                raise WorkerError(
                    f"the job wants {column}, this worker has {mine[0] if mine else 'no such expert'}: its weights (weights.lock) "
                    "or its version of this package differ from the driver's; make them the same on all machines"
                )

    def _fill(self, shard: Shard, columns: list[str], journal: Journal, retry: bool) -> list[CellResult]:
        unread = {c: why for c in columns if (why := unreadable(self._store, shard, self._runners[c].expert, columns))}
        results = [CellResult(column=c, shard=shard.index, images=len(shard), refused=unread[c]) for c in unread]
        columns = [column for column in columns if column not in unread]
        return results + (self._fill_these(shard, columns, journal, retry) if columns else [])

    def _fill_these(self, shard: Shard, columns: list[str], journal: Journal, retry: bool) -> list[CellResult]:
        # Who reads what another one says comes after it.
        runners = sorted((self._runners[column] for column in columns), key=lambda runner: len(runner.expert.reads))
        said = Said(self._store, shard, {column for runner in runners for column in runner.expert.reads})
        batch = max(runner.batch_size for runner in runners)
        cells: list[CellInWork] = []
        with ExitStack() as stack:
            room = max(64, 4 * batch * len(runners))
            threads = EncodeThreads(self._effort.encode_threads, room, self._beat)
            everyone = self._store.records(shard, dropped=True)
            image_ids = [record.image_id for record in everyone]
            for runner in runners:
                column = runner.expert.card.column
                old = stack.enter_context(self._store.read(column, shard, dropped=True)) if retry else None
                cells.append(CellInWork(self._store, runner.expert.card, shard, threads, image_ids, old))
                stack.callback(cells[-1].close)
            stack.callback(threads.close)  # comes before the cells are closed: then nothing writes into them any more
            records = [everyone[row] for row in shard.kept]
            records = [record for record in records if any(cell.wants(record.image_id) for cell in cells)]
            batches = stack.enter_context(closing(self._readings(records, runners, batch, journal)))
            waiting_since = time.perf_counter()
            for readings in batches:
                waited = time.perf_counter() - waiting_since
                for cell, runner in zip(cells, runners, strict=True):
                    cell.seconds.wait += waited / len(cells)
                    cell.seconds.read += sum(reading.seconds for reading in readings) / len(cells)
                    spent = cell.seconds.compute
                    _label_batch(cell, runner, readings, journal, said)
                    journal.leave()
                    if self._watchdog:
                        self._watchdog.answered(cell.seconds.compute - spent)
                waiting_since = time.perf_counter()
            before_commit = self._golden.settle if self._golden else None
            return [cell.finish(self._effort.failure_limit, before_commit) for cell in cells]

    def _readings(
        self, records: list[ImageRecord], runners: list[BatchRunner], batch: int, journal: Journal
    ) -> Generator[list[Reading]]:
        effort = self._effort
        if journal.talkative:
            return read_warily(records, effort.limits, batch=batch, journal=journal, beat=self._beat)
        return read_ahead(
            records,
            effort.limits,
            batch=batch,
            threads=effort.read_threads,
            ahead=effort.ahead,
            prefetch=[runner.expert.prefetch for runner in runners],
            beat=self._beat,
        )

    def _beat(self) -> None:
        if self._watchdog:
            self._watchdog.beat()


def _label_batch(cell: CellInWork, runner: BatchRunner, readings: list[Reading], journal: Journal, said: Said) -> None:
    name = cell.card.name
    guilty = journal.convicted(name)
    mine = [reading for reading in readings if cell.wants(reading.record.image_id)]
    photos = [reading.photo for reading in mine if reading.photo and reading.record.image_id not in guilty]
    unread = {photo.image_id: label for photo in photos if (label := said.tell(photo, runner.expert))}
    photos = [photo for photo in photos if photo.image_id not in unread]
    if photos:
        journal.enter(name, [photo.image_id for photo in photos])
    before = runner.seconds
    labels = iter(runner.label(photos))
    cell.seconds.compute += runner.seconds - before
    for reading in mine:
        if reading.photo is None:
            label = Label.failed(reading.reason)
        elif reading.record.image_id in guilty:
            label = Label.failed(journal.verdict(name, reading.record.image_id))
        elif reading.record.image_id in unread:
            label = unread[reading.record.image_id]
        else:
            label = next(labels)
        said.note(cell.card.column, reading.record.image_id, label)
        cell.put(reading, label)
