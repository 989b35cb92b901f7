"""Checkpoints of seeded random weights, in the real formats: what tests and benchmarks load where the real ones are not at hand.

Their labels are noise. They carry other digests than any real weights, so they fill columns of their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from expert_zoo.catalog import accepts, create
from expert_zoo.weights.checkpoint import Checkpoint
from expert_zoo.weights.folder import WeightsFolder
from expert_zoo.weights.lock import SEEDED


@runtime_checkable
class Seedable(Protocol):
    """What an expert with a checkpoint in the weights folder has, whether it is a NetworkExpert or not."""

    checkpoint: Checkpoint
    folder: WeightsFolder

    def seed(self, folder: Path, *, small: bool) -> None: ...


def seed(
    names: Sequence[str],
    *,
    root: str | Path,
    small: bool = True,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes the checkpoints of the experts ``names`` into the weights folder ``root`` and records them in its lock.

    ``options`` by expert name: those of a job file that decide which checkpoint it is. A checkpoint that two experts share is
    written once. Experts that carry their weights in a package, or none, are passed over. Raises ValueError as `create` does,
    and where the folder holds another checkpoint of that name already: real weights are never written over.
    """
    for name in names:
        where = {"weights_folder": str(root)} if accepts(name, "weights_folder") else {}
        expert = create(name, options={**(options or {}).get(name, {}), **where})
        if not isinstance(expert, Seedable):
            continue
        folder = expert.folder.path(expert.checkpoint)
        if folder.exists():
            entry = expert.folder.entry(expert.checkpoint)
            if entry is not None and entry.source == SEEDED:
                continue
            raise ValueError(
                f"{folder} exists; expected a weights folder without {expert.checkpoint.name}, name another"
            )
        # Under its name only when it is whole: what an interruption leaves must not be taken for real weights.
        beside = folder.with_name(f".{folder.name}.seeding")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            expert.seed(beside, small=small)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        expert.folder.record(expert.checkpoint, source=SEEDED)
