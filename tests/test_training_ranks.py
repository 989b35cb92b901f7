"""Two processes do what one does with twice the batch, however they share the model; and what they keep is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training_stand_in import curve, ended, lines, start, train, weights

CERTAIN: dict[str, Any] = {"method": {"dropout": 0.0}}
WAYS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp accumulated": {"batch": {"most_per_rank": 2}},
    "zero2": {"sharding": "zero2"},
    "zero3": {"sharding": "zero3", "batch": {"most_per_rank": 1}},
    "zero3 clipped": {"sharding": "zero3", "optimizer": {"clip": 0.5}},
    "zero3 fp16": {"sharding": "zero3", "precision": "fp16"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each way, trained by two ranks, and one with its number of ranks for one that trained alone."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    asked = [{"folder": str(folder / name), "changes": changes, **CERTAIN} for name, changes in WAYS.items()]
    asked.append({"folder": str(folder / "norm"), "method": {"norm": True}})
    asked.append({"folder": str(folder / "by token"), "by_token": True, "changes": {"batch": {"most_per_rank": 2}}})
    processes = start(2, asked)
    assert ended(processes)[0][0] == 0
    for name, changes in {
        "ddp": {},
        "zero3 clipped": {"optimizer": {"clip": 0.5}},
        "zero3 fp16": {"precision": "fp16"},
    }.items():
        train(folder / "alone" / name, changes, **CERTAIN)
    train(folder / "alone" / "by token", by_token=True)
    return folder


def alone(runs: Path, name: str) -> Path:
    own = runs / "alone" / name
    return own if own.exists() else runs / "alone" / "ddp"


@pytest.mark.parametrize("name", [name for name in WAYS if "fp16" not in name] + ["by token"])
def test_two_are_one_with_twice_the_batch(runs: Path, name: str) -> None:
    one, two = curve(alone(runs, name)), curve(runs / name)
    assert len(one) == len(two) == 24
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-3)
    theirs = weights(alone(runs, name))
    for tensor_name, tensor in weights(runs / name).items():
        assert torch.allclose(tensor, theirs[tensor_name], atol=1e-5)


def test_scaled_gradients_that_overflow_are_left_out_by_all(runs: Path) -> None:
    """The first scales are too large for either; a rank that stepped where the other did not would end elsewhere."""
    one, two = lines(alone(runs, "zero3 fp16")), lines(runs / "zero3 fp16")
    assert one[0]["loss_scale"] == two[0]["loss_scale"] == 32768
    assert min(line["loss_scale"] for line in two) >= 1024
    assert [line["loss"] for line in two[-4:]] == pytest.approx([line["loss"] for line in one[-4:]], rel=0.3)


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_what_was_shared_out_is_kept_whole(runs: Path, name: str) -> None:
    one, two = (weights(folder) for folder in (alone(runs, name), runs / name))
    assert {key: tensor.shape for key, tensor in one.items()} == {key: tensor.shape for key, tensor in two.items()}


def test_running_statistics_are_those_of_all_ranks(runs: Path) -> None:
    """The mean of two ranks' means is what one rank would have, had it seen all."""
    train(runs / "alone" / "norm", method={"norm": True})
    one, two = weights(runs / "alone" / "norm"), weights(runs / "norm")
    assert torch.allclose(one["statistics.running_mean"], two["statistics.running_mean"], atol=1e-5)
    assert not torch.allclose(one["statistics.running_mean"], torch.zeros(12), atol=1e-2)


@pytest.mark.long
@pytest.mark.parametrize("sharding", ["ddp", "zero3"])
def test_a_bad_batch_of_one_rank_ends_all_and_is_named(tmp_path: Path, sharding: str) -> None:
    run = {"folder": str(tmp_path / "run"), "method": {"poison": "image-007"}, "changes": {"sharding": sharding}}
    found = ended(start(2, [run]))
    assert [code for code, _ in found] == [1, 1]
    for _, said in found:
        last = said.strip().splitlines()[-1]
        assert last.startswith("error: step ") and "image-007" in last and last.count("image-") == 4
