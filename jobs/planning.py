"""From a job to its store: the manifest built and cut once, or the store of an earlier run opened again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from expert_zoo.expert import Expert
from jobs.job import Job, PackChoice
from manifests.build import RejectionCount, build
from manifests.manifest import Manifest
from manifests.sources import AnySource
from pipeline.choices import Pack, Unit
from pipeline.errors import JobError, StoreError
from pipeline.labeller import Effort
from pipeline.plan import Shard
from pipeline.store import LabelStore

Work = list[tuple[Pack, list[Unit]]]


@dataclass(frozen=True, slots=True)
class Planned:
    """The job's store. ``rejections``: what the sources left out, if the manifest was built just now."""

    store: LabelStore
    rejections: tuple[RejectionCount, ...] = ()


def open_or_plan(job: Job, *, aside: str | None = None, say: Callable[[str], None] | None = None) -> Planned:
    """The job's store: opened if there is one, planned from the job's images if there is none (then ``aside``, if given).

    A resume does not scan the sources again: the store's own manifest says which images there are. Raises JobError for
    images that cannot be found, StoreError where the store was planned from something else.
    """
    try:
        store = LabelStore.open(job.store)
    except StoreError as error:
        if "no store at" not in str(error):
            raise
        if say is not None:
            say(f"{aside or job.store}: a new store; reading {job.manifest or f'{len(job.images)} source(s)'}")
        return _plan(job, aside or job.store)
    check_same_plan(job, store)
    return Planned(store)


def _sources(job: Job) -> list[dict[str, Any]]:
    return [dict(source.model_dump(mode="json")) for source in job.images]


def _completed(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sources as an older version stored them, with the defaults of keys that came since."""
    try:
        return [dict(s.model_dump(mode="json")) for s in TypeAdapter(list[AnySource]).validate_python(sources)]
    except ValidationError:
        return sources


def _plan(job: Job, url: str) -> Planned:
    try:
        if job.manifest is not None:
            manifest = Manifest.open(job.manifest)
            return Planned(LabelStore.create(url, manifest, shard_size=job.shard_size))
        with tempfile.TemporaryDirectory(prefix="expert-labels-") as folder:
            report = build(job.images, str(Path(folder) / "manifest.parquet"), seed=job.seed)
            store = LabelStore.create(url, report.manifest, shard_size=job.shard_size, sources=_sources(job))
        return Planned(store, report.rejections)
    except ValueError as error:
        raise JobError(str(error)) from error


def check_same_plan(job: Job, store: LabelStore) -> None:
    """Raises StoreError, naming the differences, where ``store`` was planned from something else than ``job`` asks."""
    plan, asked = store.plan, _sources(job)
    differences = []
    if plan.shard_size != job.shard_size:
        differences.append(f"shard_size {plan.shard_size} there, {job.shard_size} in the job")
    if job.manifest is not None:
        try:
            manifest = Manifest.open(job.manifest)
        except ValueError as error:
            raise JobError(str(error)) from error
        if manifest.fingerprint != plan.manifest:
            differences.append(f"manifest {plan.manifest[:12]} there, {manifest.fingerprint[:12]} at {job.manifest}")
    else:
        if plan.seed != job.seed:
            differences.append(f"seed {plan.seed} there, {job.seed} in the job")
        if _completed(plan.sources) != asked:
            differences.append(f"images {json.dumps(plan.sources)} there, {json.dumps(asked)} in the job")
    if differences:
        raise StoreError(
            f"{job.store} was planned otherwise: {'; '.join(differences)}; a store is never re-cut: "
            "name another store, or restore the job file that made this one"
        )


def packs_of(job: Job, *, cpus: float, gpus: float) -> list[Pack]:
    """The job's packs on a cluster of that size. Default: one pack of all experts, one actor per GPU, else per CPU."""
    choices = {choice.name: choice for choice in job.experts}
    asked = job.packs or (PackChoice(experts=tuple(choices)),)
    packs = []
    for number, choice in enumerate(asked):
        actor_gpus = choice.gpus if choice.gpus is not None else (1.0 if gpus >= 1 else 0.0)
        # Beside a GPU, decoding and PNG encoding want several cores; without one, an actor is a core.
        actor_cpus = choice.cpus or (max(1.0, min(8.0, cpus // max(gpus, 1))) if actor_gpus else 1.0)
        most = max(1, int(gpus // actor_gpus if actor_gpus else cpus // (actor_cpus * len(asked))))
        threads = max(1, int(actor_cpus) // 2)
        packs.append(
            Pack(
                name=f"pack{number}",
                experts=tuple(choices[name] for name in choice.experts),
                cpus=actor_cpus,
                gpus=actor_gpus,
                actors=choice.actors or (most, most),
                effort=Effort(
                    read_threads=job.read_threads or threads,
                    encode_threads=job.encode_threads or threads,
                    ahead=job.ahead,
                    failure_limit=job.failure_limit,
                    limits=job.limits,
                ),
            )
        )
    return packs


def shared_out(cells: Iterable[tuple[Shard, list[str]]], packs: Sequence[Pack], experts: Sequence[Expert]) -> Work:
    """``cells`` (a shard and its columns to fill) as units of the packs that host the columns' experts."""
    columns = {expert.card.name: expert.card.column for expert in experts}
    hosted = [{columns[choice.name] for choice in pack.experts} for pack in packs]
    units: list[list[Unit]] = [[] for _ in packs]
    for shard, lacking in cells:
        for number, own in enumerate(hosted):
            mine = tuple(column for column in lacking if column in own)
            if mine:
                units[number].append(Unit(shard=shard, columns=mine))
    return list(zip(packs, units, strict=True))
