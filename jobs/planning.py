"""From a job to its store: the manifest built and cut once, or the store of an earlier run opened again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from expert_zoo.expert import Expert
from jobs.building import BuildProgress, build_manifest
from jobs.job import Job, PackChoice
from jobs.sources_file import ImageChoices
from manifests.build import Progress, RejectionCount
from manifests.manifest import Manifest
from pipeline.choices import Pack, Unit
from pipeline.difference import difference
from pipeline.errors import JobError, StoreError
from pipeline.labeller import Effort
from pipeline.plan import Shard
from pipeline.store import LabelStore

Work = list[tuple[Pack, list[Unit]]]
#: Seconds of a build before it is shown how far it is.
PATIENCE = 5.0
#: Keys of a job beside `images` that decide which images there are and with which captions.
RULES = ("captions", "guard", "duplicates")
_NOTHING: tuple[RejectionCount, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """The job's store. ``rejections``: what the sources left out, if the manifest was built just now."""

    store: LabelStore
    rejections: tuple[RejectionCount, ...] = ()


def open_or_plan(job: Job, *, aside: str | None = None, say: Callable[[str], None] | None = None) -> Planned:
    """The job's store: opened if there is one, planned from the job's images if there is none (then ``aside``, if given).

    A resume does not scan the sources again: the store itself says which images there are. Raises JobError for images that
    cannot be found, StoreError where the job asks for other ones than the store has.
    """
    try:
        store = LabelStore.open(job.store)
    except StoreError as error:
        if "no store at" not in str(error):
            raise
        if say is not None:
            say(f"{job.store}: a new store; reading {job.manifest or f'{len(job.images)} source(s)'}")
        return _plan(job, aside or job.store)
    check_same_plan(job, store, say)
    return Planned(store)


def sources_of(choices: ImageChoices) -> list[dict[str, Any]]:
    """The job's images as a store remembers them: its sources and, last, the rules by which they become a manifest."""
    sources = [dict(source.model_dump(mode="json")) for source in choices.images]
    rules = choices.model_dump(mode="json", include=set(RULES), exclude_defaults=True)
    return [*sources, {"rules": rules}] if rules else sources


def _completed(described: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What an older version stored, with the defaults of keys that came since."""
    sources = [entry for entry in described if "rules" not in entry]
    rules: dict[str, Any] = next((entry["rules"] for entry in described if "rules" in entry), {})
    try:
        return sources_of(ImageChoices.model_validate({"images": sources, **rules}))
    except (ValidationError, TypeError):
        return described


def _plan(job: Job, url: str) -> Planned:
    with asked_for(job) as (manifest, rejections):
        store = LabelStore.create(url, manifest, shard_size=job.shard_size, sources=sources_of(job))
    return Planned(store, rejections)


@contextmanager
def asked_for(job: Job) -> Iterator[tuple[Manifest, tuple[RejectionCount, ...]]]:
    """The manifest of the job's images, for the time of the block, and what its sources left out. Raises JobError."""
    with tempfile.TemporaryDirectory(prefix="expert-labels-") as folder:
        try:
            if job.manifest is not None:
                manifest, rejections = Manifest.open(job.manifest), _NOTHING
            else:
                with BuildProgress() as shown:
                    report = build_manifest(
                        job, str(Path(folder) / "manifest.parquet"), limits=job.limits, progress=_patient(shown)
                    )
                manifest, rejections = report.manifest, report.rejections
        except ValueError as error:
            raise JobError(str(error)) from error
        yield manifest, rejections


def _patient(progress: Progress) -> Progress:
    """Silent at first: a build of a few seconds needs no bars."""
    start = time.monotonic()

    def tell(what: str, done: int, total: int | None) -> None:
        if time.monotonic() - start > PATIENCE:
            progress(what, done, total)

    return tell


def check_cut(job: Job, store: LabelStore) -> None:
    """Raises StoreError where the job wants what is fixed for the life of a store otherwise."""
    differences = []
    if store.plan.shard_size != job.shard_size:
        differences.append(f"shard_size {store.plan.shard_size} there, {job.shard_size} in the job")
    if job.manifest is None and store.plan.seed != job.seed:
        differences.append(f"seed {store.plan.seed} there, {job.seed} in the job")
    if differences:
        raise StoreError(
            f"{job.store} was planned otherwise: {'; '.join(differences)}; a store is never re-cut: "
            "name another store, or restore the job file that made this one"
        )


def asks_for_the_same(job: Job, store: LabelStore) -> bool:
    """Whether the job's images are written as those that the store has; files that came into a folder since do not show."""
    if job.manifest is None:
        return _completed(store.plan.sources) == sources_of(job)
    try:
        return Manifest.open(job.manifest).fingerprint == store.plan.input
    except ValueError as error:
        raise JobError(str(error)) from error


def check_same_plan(job: Job, store: LabelStore, say: Callable[[str], None] | None = None) -> None:
    """Raises StoreError, naming the differences, where ``store`` has other images than ``job`` asks for, or is cut otherwise.

    Only where the images are written otherwise in the job are its sources read.
    """
    check_cut(job, store)
    if asks_for_the_same(job, store):
        return
    if say is not None:
        say(
            f"{job.store}: the job's images are written otherwise than when the store was made; reading them to compare"
        )
    with asked_for(job) as (manifest, _):
        found = difference(store, manifest)
    if not found.nothing:
        raise StoreError(
            f"{job.store} has {store.plan.images} images, and the job asks for others: {found}; nothing was changed: "
            "`expert-labels grow JOB.yaml` takes this over (--dry-run shows it), or restore the job file that made this store"
        )
    if say is not None:
        say(
            f"{job.store}: the same {store.plan.images} images; `expert-labels grow JOB.yaml` remembers how they are written now"
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
                    patience=job.patience,
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
