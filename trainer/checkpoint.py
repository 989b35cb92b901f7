"""Checkpoints: a folder per step, real once its marker is there. What goes in, and how it comes out, is in snapshot.py.

<run>/checkpoints/step-00001000/weights.safetensors     what is trained, whole, however it was shared out over ranks
                                optimizer.safetensors   AdamW's moments, as <parameter>/<moment>
                                random.safetensors      the random generators of every rank
                                checkpoint.json         written last: names the files with bytes and sha256, and says the rest

As with a cell of a store, a folder without its marker is no checkpoint, whatever is in it, and the next run removes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from pipeline.receipt import FileEntry
from pipeline.storage import Storage, open_storage
from trainer.errors import CheckpointError
from trainer.fingerprint import StoreFingerprint
from trainer.tensor_file import write_tensors
from trainer.training import Best

FORMAT = 1
MARKER = "checkpoint.json"
_FOLDER = re.compile(r"step-(\d{8,})")


class About(BaseModel):
    """All of a checkpoint that is not a tensor.

    step      optimizer steps done, which is also how many global batches were read: the reader's whole position
    recipe    as it was validated, in full
    store     what was read; None where a method reads none
    ranks     how many there were, and ``random``: what of their generators is no tensor
    metrics   of the evaluation at this step
    progress  the loop's counters
    frozen    digest of the frozen parameters, where the checkpoint holds none of them
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    format: int = FORMAT
    step: int = Field(ge=0)
    recipe: dict[str, Any]
    store: StoreFingerprint | None
    ranks: int = Field(gt=0)
    random: list[dict[str, Any]]
    metrics: dict[str, float]
    progress: dict[str, Any]
    frozen: str | None
    packages: dict[str, str]
    files: dict[str, FileEntry] = Field(default_factory=dict)


class Checkpoint:
    """One that is there. Its files are read by tensor_file.py."""

    def __init__(self, storage: Storage, folder: str, about: About) -> None:
        self.storage = storage
        self.about = about
        self.url = f"{storage.url}/{folder}" if folder else storage.url
        self._folder = folder

    @classmethod
    def open(cls, url: str) -> Checkpoint:
        """The one at ``url``, or the latest one of the run at ``url``. Raises CheckpointError where there is none."""
        storage = open_storage(url)
        if storage.exists(MARKER):
            return cls(storage, "", _read_marker(storage, MARKER))
        found = Checkpoints(f"{url.rstrip('/')}/checkpoints").latest()
        if found is None:
            raise CheckpointError(
                f"no checkpoint at {url}; expected the folder of a run, or of one checkpoint with its {MARKER}"
            )
        return found

    def file(self, kind: str) -> tuple[str, str]:
        """Name inside the storage, and sha256, of the file for ``kind``: weights, optimizer or random."""
        entry = self.about.files[kind]
        return f"{self._folder}/{entry.name}" if self._folder else entry.name, entry.sha256


class Checkpoints:
    """Those of one run. keep: how many of the latest to keep, and beside them the best by ``best``."""

    def __init__(self, url: str, *, keep: int = 2, best: Best | None = None) -> None:
        self.storage = open_storage(url)
        self._keep = keep
        self._best = best

    def save(self, about: About, tensors: Mapping[str, Sequence[tuple[str, Tensor]]], *, writes: bool) -> str:
        """Where it is then. All ranks call it, and one of them ``writes``; older ones that need not be kept are removed.

        Raises CheckpointError where it cannot be written, and where the step has one already.
        """
        folder = f"step-{about.step:08d}"
        url = f"{self.storage.url}/{folder}"
        if not writes:
            for named in tensors.values():
                write_tensors(None, named)
            return url
        self._sweep()
        files = {}
        try:
            for kind, named in tensors.items():
                with self.storage.create(f"{folder}/{kind}.safetensors") as file:
                    write_tensors(file, named)
                files[kind] = FileEntry(name=f"{kind}.safetensors", bytes=file.bytes, sha256=file.sha256)
        except OSError as error:
            self._sweep()
            raise CheckpointError(
                f"cannot write {url}: {error.strerror or error}; older checkpoints are as they were"
            ) from error
        marker = about.model_copy(update={"files": files}).model_dump_json(indent=1)
        self.storage.publish(f"{folder}/{MARKER}", marker.encode())
        self._thin_out()
        return url

    def steps(self) -> list[int]:
        """Of the checkpoints that are there, ascending."""
        found = [int(match[1]) for match in map(_FOLDER.fullmatch, self.storage.names("")) if match]
        return sorted(step for step in found if self.storage.exists(f"step-{step:08d}/{MARKER}"))

    def latest(self) -> Checkpoint | None:
        """Raises CheckpointError if it cannot be read: an older one is taken by who removes it, not in silence."""
        steps = self.steps()
        return self.at(steps[-1]) if steps else None

    def at(self, step: int) -> Checkpoint:
        folder = f"step-{step:08d}"
        return Checkpoint(self.storage, folder, _read_marker(self.storage, f"{folder}/{MARKER}"))

    def best(self) -> int | None:
        """Step of the best one by the metric that was asked for, the latest of equals; None if none was, or none has it."""
        if self._best is None:
            return None
        sign = 1.0 if self._best.higher else -1.0
        scored = []
        for step in self.steps():
            with suppress(CheckpointError):
                metrics = self.at(step).about.metrics
                if self._best.metric in metrics:
                    scored.append((sign * metrics[self._best.metric], step))
        return max(scored)[1] if scored else None

    def _thin_out(self) -> None:
        kept = {*self.steps()[-self._keep :], self.best()}
        for step in self.steps():
            if step not in kept:
                self._remove(f"step-{step:08d}")

    def _sweep(self) -> None:
        """Removes what an earlier run was killed over."""
        for name in self.storage.names(""):
            if _FOLDER.fullmatch(name) and not self.storage.exists(f"{name}/{MARKER}"):
                self._remove(name)

    def _remove(self, folder: str) -> None:
        self.storage.delete(f"{folder}/{MARKER}")  # first, so that there is never a checkpoint with a part missing
        for name in self.storage.names(folder):
            self.storage.delete(f"{folder}/{name}")
        self.storage.prune(folder)


class _Stated(BaseModel):
    """What a marker of any format says first."""

    format: object = None


def _read_marker(storage: Storage, name: str) -> About:
    place, text = f"{storage.url}/{name}", storage.read(name)
    try:
        found = _Stated.model_validate_json(text).format
        if found == FORMAT:
            return About.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise CheckpointError(
            f"{place} is no checkpoint's marker: {problem}; remove its folder to go on from an older one"
        ) from error
    raise CheckpointError(f"{place} has format {found!r}; this version reads format {FORMAT}")
