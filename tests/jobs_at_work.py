"""Labelling as a user runs it: a process of its own, with its own local Ray, that may be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import yaml

from pipeline.errors import StoreError
from pipeline.store import LabelStore

ROOT = Path(__file__).parents[1]


def make_photos(folder: Path, count: int, *, seed: int = 0) -> Path:
    """``count`` small photos of coloured noise and gradients, every third one dark."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        ramp = np.linspace(0, 60 if number % 3 == 0 else 255, 48, dtype=np.float32)
        photo = ramp[None, :, None] * random.uniform(0.6, 1.0, (32, 48, 3))
        cv2.imwrite(str(folder / f"photo{number:04d}.png"), photo.astype(np.uint8))
    return folder


def write_job(path: Path, *, store: Path, photos: Path, experts: Sequence[object], **more: object) -> Path:
    job: dict[str, object] = {"store": str(store), "images": [{"source": "folder", "path": str(photos)}]}
    job |= {"experts": list(experts), "ray": {"cpus": 2}}  # the same number of workers on any machine
    path.write_text(yaml.safe_dump(job | more), encoding="utf-8")
    return path


def stand_in(name: str, **options: object) -> dict[str, object]:
    """An entry of a job file's ``experts`` for a class of tests/stand_ins.py: grey -> Grey."""
    use = f"tests.stand_ins:{name.capitalize()}"
    return {name: {"use": use, **options}}


def start(command: str, job: Path, *more: str) -> subprocess.Popen[str]:
    """`expert-labels COMMAND JOB` as the leader of a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", command, str(job), *more],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts tests in the background has them ignore SIGINT, and so their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(command: str, job: Path, *more: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = start(command, job, *more)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_group(process)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the driver, its Ray and its workers (which have groups of their own) as nearly at once as can be."""
    for pid in psutil.pids():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == process.pid and pid != process.pid:
                os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def committed_cells(store: Path) -> int:
    """Committed cells of all columns; 0 while there is no store."""
    try:
        found = LabelStore.open(str(store))
    except StoreError:
        return 0
    return sum(len(found.committed(column)) for column in found.columns())


def wait_for(condition: object, seconds: float, process: subprocess.Popen[str]) -> bool:
    """Whether ``condition()`` came true within ``seconds`` while the process lived."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def labels_of(store: Path | str) -> dict[str, list[dict[str, Any]]]:
    """Everything that labels mean, without what may differ between runs: rows and members of every column, in order."""
    opened = LabelStore.open(str(store))
    found: dict[str, list[dict[str, Any]]] = {}
    for column in opened.columns():
        rows = found[column] = []
        for shard in opened.plan.shards():
            with opened.read(column, shard) as cell:
                for row in cell.rows:
                    rows.append({**row, "offset": None, "length": None, "member": cell.member(row)})
    return found
