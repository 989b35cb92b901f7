"""Labelling on Ray Data: portions of units (shard, pack) go out to pools of actors, results of cells come back unit by unit.

Ray places, restarts and holds back; pixels and label maps never leave the worker that made them. Which actor does a unit,
how often and in what order cannot change a label, so Ray's retries need no help from us: a unit that is done twice finds
its cells committed. The only endless retry, an image that kills its worker, is ended by the journal.
"""

from __future__ import annotations

import io
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import cv2
import numpy as np
import ray

from pipeline.choices import Pack, Unit
from pipeline.errors import ClusterFailure, ExpertLabelsError, Unreachable, WorkerError, in_one_line
from pipeline.events import EventLog
from pipeline.filling import CellResult
from pipeline.journal import Journal
from pipeline.loading import load_pack
from pipeline.portions import portions
from pipeline.speculation import Answers, Idle, copied
from pipeline.store import LabelStore
from pipeline.telemetry import Telemetry
from pipeline.watchdog import Watchdog

#: A worker that dies while loading its models is replaced this often before the job ends.
LOADING_DEATHS = 3
#: How often a cluster is tried to be reached; each try takes Ray a minute.
CONNECTING_TRIES = 2
#: Seconds that Ray Data's threads get to end before the connection is closed under them.
ENDING = 60.0
#: How their names begin. There is one more, which prefetches; it asks for nothing when nobody reads.
RAY_DATA_THREADS = ("StreamingExecutor", "iter_threaded", "ray-data-")


class PackActor:
    """A worker process: loads the experts of its pack once, then labels unit after unit.

    What stops it (an expert that does not load, a full disk) is sent to the driver as a row, which says it in one line and
    ends the job; raised here, it would reach the user as a page of Ray's own frames.
    """

    def __init__(self, store_url: str, pack: str, run: str, retry: bool) -> None:
        self._pack = Pack.model_validate_json(pack)
        self._run = run
        self._retry = retry
        self._trouble = ""
        self._passing = False  # whether the trouble is a place's, not the job's: the same may work in a while
        # Ray keeps a worker's standard error in a file of its own.
        self._log = EventLog(sys.stderr, store=store_url, run=run, pack=self._pack.name)
        self._telemetry = Telemetry(store_url)
        self._watchdog = Watchdog(self._pack.effort.patience, tell=lambda what: self._log.tell("hung", what=what))
        cv2.setNumThreads(max(1, int(self._pack.cpus)))  # unlike torch, it does not look at what Ray grants
        try:
            self._store = LabelStore.open(store_url)
            self._idle = Idle(self._store, run, self._pack.effort.patience.late)
            self._watchdog.begin(None)
            self._labeller = load_pack(self._pack, self._store, golden=True, watchdog=self._watchdog)
        except Exception as error:
            self._trouble = in_one_line(error)
        finally:
            self._watchdog.end()

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[Any]]]:
        (units,) = batch["units"]
        (copy,) = batch["copy"]
        for unit in json.loads(str(units)):
            yield self._do(Unit.model_validate(unit), bool(copy))

    def _do(self, unit: Unit, copy: bool) -> dict[str, list[Any]]:
        results: list[CellResult] = []
        if not self._trouble:
            try:
                name = f"{unit.shard.name}.{self._pack.name}"
                if copy:
                    results = self._idle.do(unit, name, lambda journal: self._label(unit, journal))
                else:
                    begun = time.monotonic()
                    results = self._label(unit, Journal(self._store.storage, self._run, name))
                    self._idle.did(time.monotonic() - begun)
            except (OSError, ExpertLabelsError) as error:
                self._trouble = f"{unit.shard.name}: {in_one_line(error)}"
                self._passing = isinstance(error, OSError | Unreachable)
            except Exception:  # a bug of ours: all of it is wanted
                self._trouble = f"{unit.shard.name}: {traceback.format_exc()}"
        if self._trouble:
            self._log.tell("cannot go on", why=self._trouble)
        rows = json.dumps([result.model_dump(mode="json") for result in results])
        return {
            "results": [rows],
            "trouble": [self._trouble],
            "passing": [self._passing],
            "pack": [self._pack.name],
            "copy": [copy],
        }

    def _label(self, unit: Unit, journal: Journal) -> list[CellResult]:
        cells = [f"{column}/{unit.shard.name}" for column in unit.columns]
        self._log.tell("unit begun", cells=cells, deaths=journal.deaths)
        results = self._labeller.label(unit.shard, unit.columns, journal, retry=self._retry)
        self._telemetry.unit(results, self._labeller.batch_sizes)
        self._log.tell("unit done", cells=cells, outcomes=[result.outcome for result in results])
        return results


@contextmanager
def connected(address: str | None, *, cpus: int | None = None) -> Iterator[None]:
    """In its block we are connected to the cluster at ``address`` ("auto", "ray://..."), or to one that is started on this machine
    for as long. Standard output is for results: what Ray prints there meanwhile goes to standard error. Raises WorkerError."""
    # Ray's own chatter (token notes, core-worker hints) would drown our progress; its log files keep all of it.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    local: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    if address:  # Ray's own 20 tries at an address where nobody answers are 20 minutes without a word
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", str(CONNECTING_TRIES))
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        with _hushed():
            # "local" and not None, which would join a cluster that happens to run here or that RAY_ADDRESS names.
            ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)
    except SystemExit:  # Ray's own answer to SIGTERM, which it takes over with its first step
        raise KeyboardInterrupt from None
    except Exception as error:  # a machine too busy to start it in time is told by a plain Exception
        where = f"the cluster at {address}" if address else "a local Ray"
        raise (WorkerError if address else ClusterFailure)(
            f"cannot reach {where}: {' '.join(str(error).split())[:300]}; look at `ray` in the job file"
        ) from error
    with redirect_stdout(_RaysWords()):  # over the shutdown too, at which Ray prints what it held back
        try:
            signal.signal(signal.SIGTERM, on_termination)
            yield
        finally:
            ray.shutdown()


class _RaysWords(io.TextIOBase):
    """What Ray says of workers that died; that we ended some ourselves, when nobody needed their answers any more, is no news."""

    def write(self, text: str) -> int:
        if text.strip() and "`ray.kill`" not in text:
            sys.stderr.write(f"{text.rstrip()}\n")
        return len(text)


def cluster_size() -> tuple[float, float]:
    """(CPUs, GPUs) of the cluster that we are connected to."""
    found = ray.cluster_resources()
    return float(found.get("CPU", 1)), float(found.get("GPU", 0))


def label_on_ray(
    store_url: str, work: Sequence[tuple[Pack, Sequence[Unit]]], *, run: str, retry: bool = False
) -> Iterator[list[CellResult]]:
    """Labels all units of all packs; yields the results of one unit at a time, as they are committed.

    Every pack has its own pool; the pools work at the same time. Raises WorkerError when a worker cannot go on at all: an
    expert that does not load, a store that cannot be written, a cluster that is gone.
    """
    _quieten()
    streams = [_stream(store_url, pack, units, run, retry) for pack, units in work if units]
    if not streams:
        return
    answers = Answers(sum(len(units) for _, units in work))
    stream = streams[0].union(*streams[1:]) if len(streams) > 1 else streams[0]
    try:
        with _ended(stream):
            for row in stream.iter_rows():
                if row["trouble"]:
                    kind = ClusterFailure if row["passing"] else WorkerError
                    raise kind(f"a worker cannot go on: {row['trouble']}; what is committed stays, run the job again")
                results = [CellResult.model_validate(found) for found in json.loads(row["results"])]
                if answers.counts(row["pack"], results, row["copy"]):
                    yield results
                if answers.complete:  # whoever still works at a unit that has an answer is not waited for
                    return
    except ray.exceptions.RayError as error:
        last = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
        raise ClusterFailure(
            f"Ray gave up: {type(error).__name__}: {last}; what is committed stays, run the job again"
        ) from error


@contextmanager
def _ended(stream: ray.data.Dataset) -> Iterator[None]:
    """Leaves no thread of the stream's execution behind, however the block is left.

    Ray Data goes on in threads of this process when nobody reads its rows any more. One of them that asks Ray for something after
    `ray.shutdown` ends the whole process, silently and with exit code 1. Ray Data has no public way to say that it is enough.
    """
    before = set(threading.enumerate())
    try:
        yield
    finally:
        executor = stream._current_executor
        if executor is not None:
            executor.shutdown(force=True)
        end = time.monotonic() + ENDING
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith(RAY_DATA_THREADS):
                thread.join(max(0.0, end - time.monotonic()))


def _stream(store_url: str, pack: Pack, units: Sequence[Unit], run: str, retry: bool) -> ray.data.Dataset:
    # Two jobs on one store that began at the same shard would label everything twice: each begins somewhere else.
    first = random.randrange(len(units))  # noqa: S311
    in_turn = (*units[first:], *units[:first])
    smallest, largest = pack.actors
    # A retry replaces cells that are committed: of these nobody could tell whether they are late.
    again = [] if retry else copied(in_turn, largest)
    rows = [_row(portion, copy=False) for portion in portions(in_turn, largest)]
    rows += [_row([unit], copy=True) for unit in again]
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        PackActor,
        fn_constructor_kwargs={
            "store_url": store_url,
            "pack": pack.model_dump_json(),
            "run": run,
            "retry": retry,
        },
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(
            min_size=min(smallest, len(units)),
            max_size=min(largest, len(units)),
            # An actor takes up its tasks in any order: a copy could wait for the very unit that is queued behind it.
            max_tasks_in_flight_per_actor=1,
        ),
        num_cpus=pack.cpus,
        num_gpus=pack.gpus or None,
    )


def _row(units: Sequence[Unit], *, copy: bool) -> dict[str, Any]:
    return {"units": f"[{','.join(unit.model_dump_json() for unit in units)}]", "copy": copy}


@contextmanager
def _hushed() -> Iterator[None]:
    """Keeps what Ray's C++ side writes to descriptor 2 while it starts off the terminal; errors still raise."""
    sys.stderr.flush()
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def _quieten() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = LOADING_DEATHS
    # A single slow unit (a large model's first compilation, a huge shard) is not a stuck job.
    context.execution_no_progress_timeout_s = -1
    # In bytes: each unit's results come when it is done, not those of a whole portion when its last one is.
    context.target_max_block_size = 1
    logging.getLogger("ray.data").setLevel(logging.ERROR)
