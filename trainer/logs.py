"""What a run tells: a bar or lines to people, one JSON object per line to programs, TensorBoard. Written by the first rank.

A resumed run goes on with the file of the interrupted one, without what that one had said beyond its last checkpoint.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.training import LogChoice

FILE = "log.jsonl"


@dataclass
class Window:
    """Sums over the steps since the last line; what is kept in a checkpoint, so that the next line is whole."""

    steps: int = 0
    loss: float = 0.0
    norm: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, loss: float, norm: float, stats: dict[str, tuple[float, float]]) -> None:
        """norm: left out where it is not finite, as it is when fp16 tries a scale that is too large."""
        self.steps += 1
        self.loss += loss
        self.norm += norm if math.isfinite(norm) else 0.0
        for name, (total, count) in stats.items():
            self.sums[name] = self.sums.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0.0) + count

    def means(self) -> dict[str, float]:
        if not self.steps:
            return {}
        stats = {name: self.sums[name] / count for name, count in self.counts.items() if count}
        return {"loss": self.loss / self.steps, "gradient_norm": self.norm / self.steps, **stats}


class Clock:
    """Seconds since the last look, and how many of them went by waiting for data."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0

    def wait(self, seconds: float) -> None:
        self._waited += seconds

    def leave_out(self, seconds: float) -> None:
        """Seconds that were no training."""
        self._start += seconds

    def look(self) -> tuple[float, float]:
        """(seconds, share of them that was waiting); starts again."""
        now = time.perf_counter()
        seconds, waited = now - self._start, self._waited
        self._start, self._waited = now, 0.0
        return seconds, min(1.0, waited / seconds) if seconds else 0.0


class Logs:
    """Lines about steps. As a context manager.

    folder: of the run. start, steps: the run's first step and its end. writes: whether this rank does.
    """

    def __init__(self, folder: Path, choice: LogChoice, *, start: int, steps: int, writes: bool) -> None:
        self.every = choice.every
        self._steps = steps
        self._bar: tqdm | None = None
        self._board: Any = None
        self._file = None
        if not writes:
            return
        path = folder / FILE
        _cut(path, start)
        self._file = path.open("a", encoding="utf-8")
        if choice.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        if sys.stderr.isatty():
            self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True)

    def line(self, step: int, numbers: dict[str, float]) -> None:
        """Of the steps until ``step``, which is how many are done."""
        if self._file is None:
            return
        self._write({"step": step, **numbers})
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        shown = ", ".join(f"{_LABELS[name]} {numbers[name]:{_FORMATS[name]}}" for name in _LABELS if name in numbers)
        if self._bar is not None:
            self._bar.set_postfix_str(shown)
            self._bar.update(step - self._bar.n)
        else:
            self.say(f"step {step} of {self._steps}: {shown}")

    def metrics(self, step: int, numbers: dict[str, float], *, seconds: float) -> None:
        """Of an evaluation that took so long."""
        if self._file is None:
            return
        self._write({"step": step, "evaluation": numbers})
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(f"evaluation/{name}", value, step)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self.say(f"step {step}: {shown}; evaluated in {seconds:.0f} s")

    def say(self, line: str) -> None:
        """To people only."""
        if self._file is not None:
            tqdm.write(line, file=sys.stderr)
            sys.stderr.flush()

    def _write(self, entry: dict[str, Any]) -> None:
        assert self._file is not None
        plain = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in entry.items()}
        self._file.write(json.dumps(plain) + "\n")
        self._file.flush()

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *_: object) -> None:
        for open_one in (self._bar, self._board, self._file):
            if open_one is not None:
                open_one.close()


_LABELS = {"loss": "loss", "rate": "lr", "samples_per_second": "samples/s", "waiting": "waiting for data"}
_FORMATS = {"loss": ".4f", "rate": ".2e", "samples_per_second": ".1f", "waiting": ".0%"}


def _cut(path: Path, step: int) -> None:
    """Drops lines of steps that are done again: the last one may be half a line, if the run was killed in it."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break
    beside = path.with_name(f"tmp-{path.name}")
    beside.write_text("".join(kept), encoding="utf-8")
    beside.replace(path)
