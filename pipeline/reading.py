"""Brings the photos of a shard to the experts: decoded ahead by threads or, where a photo may kill, one step at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from expert_zoo.expert import Photo
from manifests.record import ImageRecord
from pipeline.journal import READ, Journal
from pipeline.photos import Limits, PhotoError, read_photo

#: Decoded photos that one worker holds, as far as the largest photo so far tells. Phone photos of 12 megapixels: 14.
AHEAD_BYTES = 512_000_000
#: What a photo is taken for before one was seen: 12 megapixels.
USUAL_BYTES = 36_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """A record with its photo, or with the reason why there is none, and the seconds that reading took."""

    record: ImageRecord
    photo: Photo | None
    reason: str
    seconds: float


def read(record: ImageRecord, limits: Limits) -> Reading:
    """Reads and decodes one photo. Raises nothing that a file could cause."""
    start = time.perf_counter()
    try:
        photo, reason = read_photo(record, limits), ""
    except PhotoError as error:
        photo, reason = None, error.reason
    return Reading(record, photo, reason, time.perf_counter() - start)


def read_ahead(
    records: Sequence[ImageRecord],
    limits: Limits,
    *,
    batch: int,
    threads: int,
    ahead: int,
    prefetch: Sequence[Callable[[Photo], None]] = (),
    beat: Callable[[], object] = lambda: None,
) -> Generator[list[Reading]]:
    """Batches of readings in order, with up to ``ahead`` photos decoded or in work beyond the batch that is asked for.

    Fewer, and smaller batches, where the photos are so large that they would fill AHEAD_BYTES of memory. Every photo is
    shown to each of ``prefetch`` by the thread that read it, which calls ``beat``.
    """

    def read_and_show(record: ImageRecord) -> Reading:
        reading = read(record, limits)
        beat()
        if reading.photo is not None:
            for show in prefetch:
                # Only a head start: what goes wrong here goes wrong again in `label`, where it is told.
                with suppress(Exception):
                    show(reading.photo)
        return reading

    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        to_come = iter(records)
        in_work: deque[Future[Reading]] = deque()
        largest, seen = USUAL_BYTES, 0

        def fill() -> None:
            room = max(1, min(batch + ahead, AHEAD_BYTES // largest))
            for record in islice(to_come, max(0, room - len(in_work))):
                in_work.append(pool.submit(read_and_show, record))

        try:
            fill()
            while in_work:
                readings = [in_work.popleft().result() for _ in range(min(batch, len(in_work)))]
                sizes = (reading.photo.pixels_HW3.nbytes for reading in readings if reading.photo)
                seen = max([seen, *sizes])
                largest = seen or USUAL_BYTES
                fill()
                yield readings
        finally:
            pool.shutdown(cancel_futures=True)


def read_warily(
    records: Sequence[ImageRecord],
    limits: Limits,
    *,
    batch: int,
    journal: Journal,
    beat: Callable[[], object] = lambda: None,
) -> Generator[list[Reading]]:
    """Batches of readings in order, each announced to ``journal`` first; suspects come alone, convicts are not read."""
    guilty = journal.convicted(READ)
    for group in _groups(records, batch, lambda record: record.image_id in journal.suspects):
        innocent = [record for record in group if record.image_id not in guilty]
        if innocent:
            journal.enter(READ, [record.image_id for record in innocent])
            beat()
        yield [
            Reading(record, None, journal.verdict(READ, record.image_id), 0.0)
            if record.image_id in guilty
            else read(record, limits)
            for record in group
        ]


def _groups(
    records: Sequence[ImageRecord], size: int, alone: Callable[[ImageRecord], bool]
) -> Iterator[list[ImageRecord]]:
    group: list[ImageRecord] = []
    for record in records:
        if group and (len(group) == size or alone(record)):
            yield group
            group = []
        group.append(record)
        if alone(record):
            yield group
            group = []
    if group:
        yield group
