"""Labelling on Ray Data: units of (shard, pack) go out to pools of actors, results of cells come back.

Ray places, restarts and holds back; pixels and label maps never leave the worker that made them. Which actor does a unit,
how often and in what order cannot change a label, so Ray's retries need no help from us: a unit that is done twice finds
its cells committed. The only endless retry, an image that kills its worker, is ended by the journal.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray

from pipeline.choices import Pack, Unit
from pipeline.filling import CellResult
from pipeline.journal import Journal
from pipeline.labeller import Labeller
from pipeline.store import LabelStore

#: A worker that dies while loading its models is replaced this often before the job ends.
LOADING_DEATHS = 3


class PackActor:
    """A worker process: loads the experts of its pack once, then labels unit after unit."""

    def __init__(self, store_url: str, pack: str, run: str, retry: bool) -> None:
        self._pack = Pack.model_validate_json(pack)
        self._run = run
        self._retry = retry
        self._store = LabelStore.open(store_url)
        experts = [choice.create() for choice in self._pack.experts]
        device = "cuda:0" if self._pack.gpus else "cpu"
        for expert in experts:
            expert.load(device)
        sizes = {choice.name: choice.batch_size for choice in self._pack.experts if choice.batch_size}
        self._labeller = Labeller(self._store, experts, effort=self._pack.effort, batch_sizes=sizes)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        (text,) = batch["unit"]
        unit = Unit.model_validate_json(str(text))
        journal = Journal(self._store.storage, self._run, f"{unit.shard.name}.{self._pack.name}")
        results = self._labeller.label(unit.shard, unit.columns, journal, retry=self._retry)
        return {"results": [json.dumps([result.model_dump(mode="json") for result in results])]}


def start_ray(address: str | None, *, cpus: int | None = None) -> None:
    """Connects to the cluster at ``address`` ("auto", "ray://..."), or starts one on this machine."""
    if ray.is_initialized():
        return
    # Ray's own chatter (token notes, core-worker hints) would drown our progress; its log files keep all of it.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    local: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    with _hushed():
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)


def stop_ray() -> None:
    """Ends our connection, and the cluster with it if it was started by `start_ray`."""
    ray.shutdown()


def cluster_size() -> tuple[float, float]:
    """(CPUs, GPUs) of the cluster that we are connected to."""
    found = ray.cluster_resources()
    return float(found.get("CPU", 1)), float(found.get("GPU", 0))


def label_on_ray(
    store_url: str, work: Sequence[tuple[Pack, Sequence[Unit]]], *, run: str, retry: bool = False
) -> Iterator[list[CellResult]]:
    """Labels all units of all packs; yields the results of one unit at a time, as they are committed.

    Every pack has its own pool; the pools work at the same time. Raises what Ray raises when a worker cannot go on at all
    (experts that do not load, a store that cannot be written).
    """
    _quieten()
    streams = [_stream(store_url, pack, units, run, retry) for pack, units in work if units]
    if not streams:
        return
    for row in streams[0].union(*streams[1:]).iter_rows() if len(streams) > 1 else streams[0].iter_rows():
        yield [CellResult.model_validate(found) for found in json.loads(row["results"])]


def _stream(store_url: str, pack: Pack, units: Sequence[Unit], run: str, retry: bool) -> ray.data.Dataset:
    # Two jobs on one store that began at the same shard would label everything twice: each begins somewhere else.
    first = random.randrange(len(units))  # noqa: S311
    rows = [{"unit": unit.model_dump_json()} for unit in (*units[first:], *units[:first])]
    smallest, largest = pack.actors
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
            min_size=min(smallest, len(rows)), max_size=min(largest, len(rows)), max_tasks_in_flight_per_actor=2
        ),
        num_cpus=pack.cpus,
        num_gpus=pack.gpus or None,
    )


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
    logging.getLogger("ray.data").setLevel(logging.ERROR)
