"""The main job: plan, find the missing cells, label them on Ray, say what became of them."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from expert_zoo.expert import Expert
from expert_zoo.weights.needed import without_weights
from jobs.job import Job
from jobs.planning import Work, check_same_plan, open_or_plan, packs_of, shared_out
from jobs.progress import Progress
from jobs.run_log import RunLog
from jobs.summary import ColumnSummary, Summary
from pipeline.choices import Pack
from pipeline.errors import DamagedCell, JobError
from pipeline.lacking import failed_cells, missing_cells
from pipeline.plan import Shard
from pipeline.store import LabelStore

Say = Callable[[str], None]


def label(job: Job, say: Say, *, log: str | None = None) -> Summary:
    """Fills the missing cells of the job's store. What is committed stays, whatever ends the run; the next run goes on.

    ``say``: for lines to the user; ``log``: file that gets a line of JSON for every cell. Raises ExpertLabelsError for what the user can mend.
    """
    with _termination_as_interrupt():
        experts = job.create_experts()
        _say_of_weights(experts, say)
        store = prepare(job, experts, say)
        columns = [expert.card.column for expert in experts]
        return _run(job, store, experts, list(missing_cells(store, columns)), say, retry=False, log=log)


def retry(job: Job, say: Say, *, log: str | None = None) -> Summary:
    """Asks again for the failed rows of the job's committed cells; each cell is replaced whole, or stays as it was."""
    experts = job.create_experts()
    _say_of_weights(experts, say)
    store = LabelStore.open(job.store)
    check_same_plan(job, store, say)
    known = store.columns()
    columns = []
    for expert in experts:
        if expert.card.column in known:
            columns.append(expert.card.column)
        else:
            say(f"not in the store: {expert.card.column}; `expert-labels label` makes that column")
    with _termination_as_interrupt():
        return _run(job, store, experts, list(failed_cells(store, columns)), say, retry=True, log=log)


def prepare(job: Job, experts: Iterable[Expert], say: Say) -> LabelStore:
    """The job's store with a plan and a card for every expert. Everything cheap that can be wrong is found here."""
    planned = open_or_plan(job, say=say)
    for rejection in planned.rejections:
        examples = ", ".join(rejection.examples[:2])
        say(f"left out: {rejection.count} x {rejection.reason} ({rejection.source}; {examples})")
    if not planned.store.storage.shared:
        raise JobError(
            f"store {job.store}: only this process sees it; expected a folder or an object store that workers see too"
        )
    for expert in experts:
        planned.store.add_column(expert.card)
        _check_first_receipt(planned.store, expert.card.column)
    return planned.store


def _say_of_weights(experts: Iterable[Expert], say: Say) -> None:
    random = ", ".join(expert.card.name for expert in experts if expert.card.random_weights)
    if random:
        say(f"random weights: {random}: `expert-labels weights seed` wrote them, the labels will be noise")
    for expert in experts:
        if not expert.card.commercial_use:
            say(f"licence: {expert.card.name} is for non-commercial use ({expert.card.licence})")


def _check_weights(job: Job, experts: Iterable[Expert]) -> None:
    """Before Ray starts, where its workers see this machine's folders; those of a cluster may see others."""
    experts = list(experts)
    missing = without_weights(experts) if job.ray.address is None else {}
    if missing:
        raise JobError(
            f"the weights of {', '.join(missing)} are not at hand; run `expert-labels weights fetch` with --job and this job file, "
            "or name a folder that has them by `weights:` or EXPERT_LABELS_WEIGHTS "
            f"({'; '.join(missing.values())})"
        )


def _check_first_receipt(store: LabelStore, column: str) -> None:
    """A column that was copied in from another store is noticed, at the price of one receipt."""
    committed = store.committed(column)
    if committed:
        with suppress(DamagedCell):  # an audit's business: the other cells are none the worse for it
            store.receipt(column, store.plan.shard(min(committed)))


def _run(
    job: Job,
    store: LabelStore,
    experts: list[Expert],
    cells: list[tuple[Shard, list[str]]],
    say: Say,
    *,
    retry: bool,
    log: str | None,
) -> Summary:
    summary = Summary({expert.card.column: ColumnSummary() for expert in experts})
    for _, columns in cells:
        for column in columns:
            summary.columns[column].asked += 1
    grid = f"{job.store}: {store.plan.images} images in {len(store.plan)} shard(s)"
    asked = sum(column.asked for column in summary.columns.values())
    if not cells:
        missing = "no row of these experts failed" if retry else "no cell of these experts is missing"
        say(f"{grid}; nothing to do: {missing} (`expert-labels grow JOB.yaml` looks for new images and takes them in)")
        return summary
    _check_weights(job, experts)
    say(f"{grid}; {asked} cell(s) {'with failed rows' if retry else 'missing'}; starting Ray and loading the experts")
    from pipeline import cluster  # imports ray, which takes seconds: only when there is work

    start = time.time()
    run = uuid.uuid4().hex[:12]
    with RunLog(log, store.storage.url, run, summary) as run_log:
        try:
            with cluster.connected(job.ray.address, cpus=job.ray.cpus):
                cpus, gpus = cluster.cluster_size()
                packs = packs_of(job, cpus=cpus, gpus=gpus)
                _check_room(packs, cpus, gpus, may_grow=job.ray.address is not None, say=say)
                _follow(store, shared_out(cells, packs, experts), summary, run_log, start, run, retry)
        finally:
            store.forget_attempts(run)  # after the workers are gone: they write there
    return summary


def _check_room(packs: list[Pack], cpus: float, gpus: float, *, may_grow: bool, say: Say) -> None:
    """Ray would wait for ever, without a word, for a worker that fits nowhere."""
    for pack in packs:
        if pack.cpus > cpus or pack.gpus > gpus:
            experts = ", ".join(choice.name for choice in pack.experts)
            lacking = (
                f"the pack of {experts} wants {pack.cpus:g} CPUs and {pack.gpus:g} GPUs a worker; "
                f"there are {cpus:g} CPUs and {gpus:g} GPUs"
            )
            if not may_grow:
                raise JobError(f"{lacking}; ask for less, or give the address of a larger cluster (ray.address)")
            say(f"waiting for the cluster to grow: {lacking}")


def _follow(
    store: LabelStore, work: Work, summary: Summary, run_log: RunLog, start: float, run: str, retry: bool
) -> None:
    from pipeline.cluster import label_on_ray

    began = float("inf")
    with Progress(work) as progress:
        try:
            for results in label_on_ray(store.storage.url, work, run=run, retry=retry):
                for result in results:
                    began = min(began, result.started)
                    summary.add(result)
                run_log.add(results)
                progress.add(results)
        except KeyboardInterrupt:
            summary.interrupted = True
    end = time.time()
    summary.start_up = max(0.0, min(began, end) - start)
    summary.working = end - start - summary.start_up


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """A polite SIGTERM (a scheduler's, `timeout`'s) ends the run as Ctrl-C does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
