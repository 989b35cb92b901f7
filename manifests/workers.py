"""Processes that share a build's work, and how they tell how far they are. With one worker all is done in this process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

#: Seconds between two looks at how far the workers are.
_LOOK = 0.3


class Workers:
    """``count`` processes. Made by `started`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._done: Any = None
        self._stop: Any = None
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            context = multiprocessing.get_context("spawn")
            self._done, self._stop = context.Value("q", 0), context.Event()
            self._pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(self._done, self._stop))

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        *,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> Iterator[tuple[int, Result]]:
        """``function`` of each task with the task's number, as they are done. ``on_progress``: the sum of what `advance` was told in them.

        The function stands in a module. Raises what it raises, after the other workers have stopped.
        """
        if self._pool is None:
            _here.start(on_progress)
            for number, task in enumerate(tasks):
                yield number, function(task)
            return
        self._done.value = 0
        futures: dict[Future[Result], int] = {}
        waiting = iter(enumerate(tasks))
        try:
            while True:
                # Few at a time: what is done in order by the caller does not pile up.
                while len(futures) < 2 * self.count and (due := next(waiting, None)) is not None:
                    futures[self._pool.submit(function, due[1])] = due[0]
                if not futures:
                    break
                finished, _ = wait(futures, timeout=_LOOK, return_when=FIRST_COMPLETED)
                on_progress(self._done.value)
                for future in finished:
                    yield futures.pop(future), future.result()
        except BrokenProcessPool as error:
            raise ValueError(
                "a worker process was killed, most likely for want of memory; start again, with fewer workers: what is finished is kept"
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def in_order(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The results of `map` in the order of the tasks."""
        early: dict[int, Result] = {}
        due = 0
        for number, result in self.map(function, tasks):
            early[number] = result
            while due in early:
                yield early.pop(due)
                due += 1

    def stop(self) -> None:
        """End the processes in the middle of what they do; what they have not finished is as if it was never begun."""
        if self._pool is not None:
            self._stop.set()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def started(count: int) -> Iterator[Workers]:
    """Workers that end with the block."""
    workers = Workers(count)
    try:
        yield workers
    except BaseException:
        workers.stop()
        raise
    finally:
        workers.close()


class _Here:
    """What a process knows of the build that it works for."""

    def __init__(self) -> None:
        self._done: Any = None
        self._sum = 0
        self._on_progress: Callable[[int], None] = lambda done: None

    def start(self, on_progress: Callable[[int], None]) -> None:
        self._sum, self._on_progress = 0, on_progress

    def join(self, done: Any) -> None:
        self._done = done

    def advance(self, by: int) -> None:
        if self._done is None:
            self._sum += by
            self._on_progress(self._sum)
            return
        with self._done.get_lock():
            self._done.value += by


_here = _Here()


def advance(by: int) -> None:
    """Told by a task: so much more is done."""
    _here.advance(by)


def _begin(done: Any, stop: Any) -> None:
    """In a new worker process: interrupts are the parent's to deal with, and a worker does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _here.join(done)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_when_not_needed() -> None:
        while not stop.is_set() and not connection.wait([parent.sentinel], timeout=_LOOK):
            pass
        os._exit(1)

    threading.Thread(target=end_when_not_needed, daemon=True).start()
