"""Ahead: shards of a remote store come to the cache before a batch needs them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from trainer.data.dataset import LabelDataset

#: Shards that are downloaded at a time.
_THREADS = 4


class Ahead:
    """Fetches the window of shards that is being read and the one after it, in threads of this process.

    Workers that come to a shard first wait for its download instead of beginning another. What goes wrong here goes wrong again
    where the shard is read, and is told there. Without a cache there is nothing to do.
    """

    def __init__(self, dataset: LabelDataset) -> None:
        self._dataset = dataset
        self._pool: ThreadPoolExecutor | None = None
        self._seen: set[tuple[int, int]] = set()
        self._waiting: list[int] = []

    def reached(self, epoch: int, position: int) -> None:
        """Batches from there on are about to be read."""
        if self._dataset.reader.cache is None:
            return
        order = self._dataset.order(epoch)
        window = order.window_of(position)
        for wanted in (window, window + 1):
            if (epoch, wanted) not in self._seen:
                self._seen.add((epoch, wanted))
                # The epoch after this one begins in another order; its first window is fetched when it is reached.
                self._waiting += order.shards_of(wanted)
        if self._pool is not None:
            self._submit(self._pool)

    def start(self) -> None:
        """Threads may begin to work: from now on no process is forked."""
        if self._pool is None and self._dataset.reader.cache is not None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="ahead")
            self._submit(self._pool)

    def close(self) -> None:
        """Waits for downloads that are under way and gives up the others."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _submit(self, pool: ThreadPoolExecutor) -> None:
        reader = self._dataset.reader
        for shard in self._waiting:
            pool.submit(reader.fetch, reader.plan.shard(shard))
        self._waiting = []
