"""What a submitted job takes along: the job file, the user's own experts, and the code that is installed here.

The labels of an expert belong to its version, and a version to the code; so the cluster runs the very code that was submitted,
and needs of its own only what that code imports. It is a few megabytes, and unchanged it is uploaded once.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.job import Job
from jobs.yaml_file import read_yaml
from pipeline.errors import JobError

PACKAGES = ("manifests", "expert_zoo", "pipeline", "trainer", "jobs")
#: Ray refuses a larger upload; so does good sense.
MOST_BYTES = 100_000_000
#: Texts of sources and guards that are no places.
_NO_PLACES = {"source", "name", "split", "splits", "license"}
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".git", ".*_cache")


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A folder that is ready for the cluster. ``digest``: of the job file alone, by which a job is known again."""

    folder: Path
    job_file: str
    digest: str
    bytes: int


@contextmanager
def packed(path: str, job: Job, *, code: bool) -> Iterator[Parcel]:
    """The job at ``path`` as a folder, for the time of the block. ``code``: with this installation's packages.

    Raises JobError for a job that means another thing where the cluster runs it.
    """
    check_places(path, job)
    with tempfile.TemporaryDirectory(prefix="expert-labels-") as scratch:
        folder = Path(scratch) / "job"
        folder.mkdir()
        shutil.copyfile(path, folder / Path(path).name)
        if code:
            installed = Path(__file__).parents[1]
            for package in PACKAGES:
                shutil.copytree(installed / package, folder / package, ignore=_IGNORED)
        for own in _own_modules(job):
            _copy(own, folder / own.name)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if size > MOST_BYTES:
            raise JobError(
                f"{path}: {size} bytes to upload with {', '.join(own.name for own in _own_modules(job)) or 'the code'}; "
                f"expected at most {MOST_BYTES}: keep weights and data where the cluster reads them"
            )
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
        yield Parcel(folder=folder, job_file=Path(path).name, digest=digest, bytes=size)


def check_places(path: str, job: Job) -> None:
    """Raises JobError for a place that is relative to this folder: on the cluster, the job runs in another one."""
    for key in ("store", "manifest", "weights"):
        place = getattr(job, key)
        if place is not None and _is_relative(place):
            raise _relative(path, key, place)
    found = read_yaml(path)
    for section in ("images", "guard"):
        for number, entry in enumerate(found.get(section) or []):
            for key, place in _texts(entry):
                if key not in _NO_PLACES and _is_relative(place) and Path(place).exists():
                    raise _relative(path, f"{section}.{number}.{key}", place)


def _relative(path: str, key: str, place: str) -> JobError:
    return JobError(
        f"{path}: `{key}`: {place} is relative to the folder of this machine that the command runs in; expected an absolute path "
        "that all machines of the cluster see, or a URL (s3://...); `root:` and ${root} say the part in front once"
    )


def _is_relative(place: str) -> bool:
    return not place.startswith(("/", "~")) and "://" not in place


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str):
        yield key, value


def _own_modules(job: Job) -> list[Path]:
    """Files and packages of this folder that hold the experts named by `use`; what is installed is not among them."""
    tops = dict.fromkeys(choice.use.partition(":")[0].split(".")[0] for choice in job.experts if choice.use)
    places = [Path(f"{top}.py") if Path(f"{top}.py").is_file() else Path(top) for top in tops if top not in PACKAGES]
    return [place for place in places if place.exists()]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=_IGNORED)
    else:
        shutil.copyfile(source, target)
