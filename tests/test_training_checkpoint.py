"""Checkpoints as files: whole or not there, kept or removed, readable by others, and what is damaged is said."""

from __future__ import annotations

import errno
import json
import math
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pipeline.storage import DataFile, LocalStorage, open_storage
from tests.training_stand_in import train, weights
from trainer import tensor_file
from trainer.checkpoint import MARKER, About, Checkpoint, Checkpoints
from trainer.errors import CheckpointError
from trainer.tensor_file import read_slots, read_tensors, write_tensors
from trainer.training import Best

pytestmark = pytest.mark.usefixtures("one_thread")


def about(step: int, **metrics: float) -> About:
    return About(
        step=step, recipe={}, store=None, ranks=1, random=[{}], metrics=metrics, progress={}, frozen=None, packages={}
    )


TENSORS = {
    "weights": [("a", torch.arange(6.0).reshape(2, 3)), ("b", torch.tensor(7))],
    "optimizer": [("a/step", torch.ones(()))],
}


def save(checkpoints: Checkpoints, step: int, **metrics: float) -> str:
    return checkpoints.save(about(step, **metrics), TENSORS, writes=True)


# ---- tensors in files


EVERY = [
    ("half", torch.randn(3, 5).to(torch.bfloat16)),
    ("flag", torch.tensor([True, False, True])),
    ("scalar", torch.tensor(2.5, dtype=torch.float64)),
    ("nothing", torch.empty(0, 4)),
    ("byte", torch.arange(7, dtype=torch.uint8)),
    ("long", torch.arange(3)),
    ("across", torch.randn(4, 6).T),
    ("fp16", torch.randn(2).half()),
]


@pytest.mark.parametrize("place", ["local", "memory"])
def test_what_is_written_is_what_safetensors_reads(tmp_path: Path, place: str) -> None:
    storage = open_storage(str(tmp_path) if place == "local" else f"memory://{uuid.uuid4().hex}")
    with storage.create("tensors.safetensors") as file:
        write_tensors(file, EVERY)
    theirs = safetensors.torch.load(storage.read("tensors.safetensors"))
    ours = dict(read_tensors(storage, "tensors.safetensors", sha256=file.sha256))
    assert set(theirs) == set(ours) == {name for name, _ in EVERY}
    for name, tensor in EVERY:
        for found in (theirs[name], ours[name]):
            assert found.dtype == tensor.dtype and torch.equal(found, tensor)
    slots = {slot.name: (slot.dtype, slot.shape) for slot in read_slots(storage, "tensors.safetensors")}
    assert slots == {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in EVERY}


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    import hashlib

    safetensors.torch.save_file(
        {name: t.contiguous() for name, t in EVERY}, tmp_path / "x.safetensors", {"note": "theirs"}
    )
    digest = hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()
    found = dict(read_tensors(LocalStorage(tmp_path), "x.safetensors", sha256=digest))
    assert all(torch.equal(found[name], tensor) for name, tensor in EVERY)


@pytest.mark.parametrize("damage", ["cut", "changed", "longer header", "no header"])
def test_a_damaged_file_is_said(tmp_path: Path, damage: str) -> None:
    storage = LocalStorage(tmp_path)
    with storage.create("x.safetensors") as file:
        write_tensors(file, EVERY)
    data = (tmp_path / "x.safetensors").read_bytes()
    damaged = {
        "cut": data[:-3],
        "changed": data[:-1] + bytes([data[-1] ^ 1]),
        "longer header": b"\xff" + data[1:],
        "no header": b"",
    }[damage]
    (tmp_path / "x.safetensors").write_bytes(damaged)
    with pytest.raises(CheckpointError, match="x.safetensors") as raised:
        list(read_tensors(storage, "x.safetensors", sha256=file.sha256))
    assert "\n" not in str(raised.value) and "older one" in str(raised.value)


# ---- folders


def test_a_checkpoint_is_there_and_says_what_it_was_told(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path))
    assert checkpoints.latest() is None and checkpoints.steps() == []
    url = save(checkpoints, 5, loss=float("nan"), score=0.5)
    found = checkpoints.latest()
    assert found is not None and found.url == url and found.about.step == 5 and found.about.metrics["score"] == 0.5
    assert math.isnan(found.about.metrics["loss"])
    theirs = safetensors.torch.load_file(Path(url) / "weights.safetensors")
    assert torch.equal(theirs["a"], TENSORS["weights"][0][1])
    name, sha256 = Checkpoint.open(url).file("weights")
    assert name == "weights.safetensors" and len(sha256) == 64


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_killed_while_writing_there_is_only_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    """After that many files, before the marker; the next save sweeps what is left."""
    checkpoints = Checkpoints(str(tmp_path))
    save(checkpoints, 1)
    written = 0

    class Killed(BaseException):
        pass

    def write(file: DataFile | None, tensors: Sequence[tuple[str, Tensor]]) -> None:
        nonlocal written
        if written == killed_after:
            raise Killed
        written += 1
        tensor_file.write_tensors(file, tensors)

    monkeypatch.setattr("trainer.checkpoint.write_tensors", write)
    if killed_after == 2:
        monkeypatch.setattr(LocalStorage, "publish", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        save(checkpoints, 2)
    monkeypatch.undo()
    again = Checkpoints(str(tmp_path))
    latest = again.latest()
    assert latest is not None and latest.about.step == 1
    save(again, 2)
    assert again.steps() == [1, 2]
    assert sorted(path.name for path in (tmp_path / "step-00000002").iterdir()) == sorted(
        [MARKER, "weights.safetensors", "optimizer.safetensors"]
    )


def test_what_an_earlier_run_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "step-00000003"
    left.mkdir()
    (left / "weights.safetensors").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    checkpoints = Checkpoints(str(tmp_path))
    assert checkpoints.latest() is None
    save(checkpoints, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-00000004"]


def test_the_latest_are_kept_and_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), keep=2, best=Best(metric="score"))
    for step, score in enumerate([0.1, 0.9, 0.9, 0.3, 0.2, float("nan")], 1):
        save(checkpoints, step, score=score)
    assert checkpoints.best() == 3 and checkpoints.steps() == [3, 5, 6]
    least = Checkpoints(str(tmp_path), keep=1, best=Best(metric="score", higher=False))
    save(least, 7)
    assert least.best() == 5 and least.steps() == [5, 7]


def test_a_full_disk_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(str(tmp_path))
    save(checkpoints, 1)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainer.checkpoint.write_tensors", full)
    with pytest.raises(CheckpointError, match="No space left on device") as raised:
        save(checkpoints, 2)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{}", "format None"),
        ('{"format": 2}', "format 2"),
        ("{", "no checkpoint's marker"),
        ('{"format": 1}', "marker"),
    ],
)
def test_a_marker_that_is_none(tmp_path: Path, text: str, what: str) -> None:
    checkpoints = Checkpoints(str(tmp_path))
    url = save(checkpoints, 1)
    (Path(url) / MARKER).write_text(text)
    with pytest.raises(CheckpointError, match=what) as raised:
        checkpoints.latest()
    assert "\n" not in str(raised.value)


def test_a_damaged_checkpoint_is_not_gone_on_with(tmp_path: Path) -> None:
    train(tmp_path, {"steps": 12})
    file = tmp_path / "checkpoints" / "step-00000012" / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="optimizer.safetensors is not what was written there; remove its folder"):
        train(tmp_path, {"steps": 12})
    for path in sorted(file.parent.iterdir()):
        path.unlink()
    file.parent.rmdir()
    _, outcome = train(tmp_path, {"steps": 12})
    assert outcome.finished and weights(tmp_path, 12)


def test_there_is_no_pickle_in_it(tmp_path: Path) -> None:
    train(tmp_path, {"steps": 6})
    for path in (tmp_path / "checkpoints").rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.is_file():
            assert path.suffix == ".safetensors" and safetensors.torch.load_file(path)
