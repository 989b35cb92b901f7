"""A method that is nothing but what the loop must cope with, numbers to feed it with, and a program that trains it.

`python -m tests.training_stand_in '{"folder": ...}'` is one rank; `ranks_at_work` starts several.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.conftest import ROOT
from trainer.loop import Loop, Outcome
from trainer.method import Method, Stats
from trainer.ranks import joined
from trainer.training import Training

WIDTH = 12


@dataclass(frozen=True)
class Rows:
    """Some rows: inputs, what to say of them, how much each counts."""

    ids: tuple[str, ...]
    x_BD: Tensor
    y_B: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Rows:
        x_BD, y_B = (tensor.to(device, non_blocking=True) for tensor in (self.x_BD, self.y_B))
        return replace(self, x_BD=x_BD, y_B=y_B)


class StandIn(Method):
    """Two blocks and a head; the first layer is frozen, and dropout draws random numbers. ``poison``: an id whose loss is NaN."""

    def __init__(self, *, width: int = WIDTH, dropout: float = 0.1, norm: bool = False, poison: str = "") -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, width).requires_grad_(False)
        self.middle = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width)) for _ in range(2))
        self.statistics = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 1)
        self.poison = poison

    def blocks(self) -> list[nn.Module]:
        return list(self.middle)

    def checkpoint_gradients(self, on: bool) -> None:
        pass

    def loss(self, batch: Rows) -> tuple[Tensor, Stats]:
        x_BD = self.statistics(self.first(batch.x_BD))
        for block in self.middle:
            x_BD = x_BD + self.dropout(torch.relu(block(x_BD)))
        said_B = self.head(x_BD)[:, 0].float()
        errors_B = (said_B - batch.y_B) ** 2
        if self.poison in batch.ids:
            errors_B = errors_B * math.nan
        sure = (errors_B.detach() < 1).sum()
        return errors_B.mean(), {"close": (sure, torch.tensor(float(len(batch))))}


class ByToken(StandIn):
    """Its loss is a mean over unequal counts, as one per token is."""

    def weight(self, batch: Rows) -> float:
        return float(batch.y_B.abs().ceil().sum())

    def loss(self, batch: Rows) -> tuple[Tensor, Stats]:
        x_BD = self.first(batch.x_BD)
        for block in self.middle:
            x_BD = x_BD + torch.relu(block(x_BD))
        counts_B = batch.y_B.abs().ceil()
        errors_B = (self.head(x_BD)[:, 0] - batch.y_B) ** 2
        return (errors_B * counts_B).sum() / counts_B.sum(), {}


class Numbers:
    """``count`` samples in shuffled order, shared among ranks; slow on demand, so that a signal comes in time."""

    def __init__(self, *, count: int, batch: int, parts: int, rank: int, ranks: int, seconds: float = 0.0) -> None:
        generator = np.random.default_rng(5)
        self._x_ND = generator.normal(size=(count, WIDTH)).astype(np.float32)
        self._y_N = (self._x_ND[:, :3].sum(axis=1) * 1.5).astype(np.float32)
        self._batch, self._parts, self._rank, self._ranks, self._seconds = batch, parts, rank, ranks, seconds

    @property
    def per_epoch(self) -> int:
        return len(self._y_N) // self._batch

    def steps(self, first: int) -> Iterator[Sequence[Rows]]:
        while True:
            epoch, number = divmod(first, self.per_epoch)
            order = np.random.default_rng([9, epoch]).permutation(len(self._y_N))
            whole = order[number * self._batch : (number + 1) * self._batch]
            own = np.array_split(whole, self._ranks)[self._rank]
            time.sleep(self._seconds)
            yield [self._rows(part) for part in np.array_split(own, self._parts)]
            first += 1

    def _rows(self, numbers: np.ndarray) -> Rows:
        ids = tuple(f"image-{number:03d}" for number in numbers)
        return Rows(ids, torch.from_numpy(self._x_ND[numbers]), torch.from_numpy(self._y_N[numbers]))


def recipe(changes: Mapping[str, Any] | None = None) -> Training:
    """24 steps in batches of 8, everything logged, a checkpoint every 6 steps; ``changes`` by section."""
    sections: dict[str, Any] = {
        "seed": 3,
        "steps": 24,
        "batch": {"size": 8, "most_per_rank": 8},
        "schedule": {"peak": 1e-2, "warm_up": 4, "least": 1e-4},
        "device": "cpu",
        "checkpoints": {"every": 6},
        "log": {"every": 1, "tensorboard": False},
    }
    for name, change in (changes or {}).items():
        sections[name] = sections[name] | change if isinstance(change, dict) and name in sections else change
    return Training.model_validate(sections)


def train(
    folder: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    method: Mapping[str, Any] | None = None,
    by_token: bool = False,
    seconds: float = 0.0,
) -> tuple[Loop, Outcome]:
    """Trains a stand-in as this process's rank."""
    from trainer.training import Split

    chosen = recipe(changes)
    folder.mkdir(parents=True, exist_ok=True)
    with joined(chosen.device) as ranks:
        torch.manual_seed(chosen.seed)
        kind = ByToken if by_token else StandIn
        split = Split.of(chosen.batch, ranks=ranks.count)
        feed = Numbers(
            count=64,
            batch=chosen.batch.size,
            parts=split.accumulated,
            rank=ranks.rank,
            ranks=ranks.count,
            seconds=seconds,
        )
        loop = Loop(method=kind(**method or {}), feed=feed, recipe=chosen, ranks=ranks, folder=folder)
        return loop, loop.run()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def curve(folder: Path) -> list[tuple[int, float, float, float]]:
    """Step, loss, learning rate and gradient norm of every line."""
    return [(line["step"], line["loss"], line["rate"], line["gradient_norm"]) for line in lines(folder)]


def weights(folder: Path, step: int = 24) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "checkpoints" / f"step-{step:08d}" / "weights.safetensors")


def start(count: int, runs: Sequence[Mapping[str, Any]]) -> list[subprocess.Popen[str]]:
    """``count`` ranks that do ``runs``, keyword arguments of `train`, one after the other."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training_stand_in", json.dumps(runs)],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    try:
        found = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, error) for process, (_, error) in zip(processes, found, strict=True)]


def kill_after(processes: Sequence[subprocess.Popen[str]], folder: Path, *, step: int, number: int) -> None:
    """Sends every process a signal as soon as the log tells that ``step`` is done."""
    deadline = time.monotonic() + 120
    while not (folder / "log.jsonl").exists() or not any(line["step"] >= step for line in _whole_lines(folder)):
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes), "ended too early"
        time.sleep(0.01)
    for process in processes:
        process.send_signal(number)


def _whole_lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "log.jsonl").read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    from trainer.errors import TrainingError

    with joined("cpu"):
        for run in json.loads(sys.argv[1]):
            try:
                _, outcome = train(Path(run.pop("folder")), run.pop("changes", None), **run)
            except TrainingError as error:
                sys.exit(f"error: {error}")
            if outcome.signal is not None:
                sys.exit(128 + signal.Signals(outcome.signal))
