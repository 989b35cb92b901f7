"""What only a GPU can show of the loop: that a step waits for nothing, and that what is read later is the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training_stand_in import Numbers, Rows, StandIn, curve, lines, recipe, train
from trainer.errors import NotFinite
from trainer.ledger import LAG
from trainer.loop import Loop
from trainer.ranks import joined

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")

CERTAIN = {"dropout": 0.0}
ON_GPU = {"device": "cuda"}


def loop_on_gpu(folder: Path, changes: dict[str, Any], **method: Any) -> Loop:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    feed = Numbers(count=64, batch=8, parts=2, rank=0, ranks=1)
    with joined("cuda") as ranks:
        chosen = recipe(ON_GPU | {"batch": {"most_per_rank": 4}} | changes)
        return Loop(method=StandIn(**method), feed=feed, recipe=chosen, ranks=ranks, folder=folder)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("allowed", [0, 1])
def test_a_step_waits_for_nothing(tmp_path: Path, precision: str, allowed: int) -> None:
    changes = {"precision": precision, "skip_bad_steps": allowed, "optimizer": {"clip": 1.0}, "log": {"every": 24}}
    loop = loop_on_gpu(tmp_path, changes)
    step, done = loop._step, 0

    def watched(parts: Sequence[Rows], *, stop: bool) -> None:
        nonlocal done
        done += 1
        torch.cuda.set_sync_debug_mode("error" if done > 3 else "default")  # the first ones set things up
        try:
            step(parts, stop=stop)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    loop._step = watched  # type: ignore[method-assign]
    assert loop.run().finished and done == 24


def test_the_curve_is_the_one_of_a_cpu(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    train(tmp_path / "cpu", method=CERTAIN)
    loop = loop_on_gpu(tmp_path / "gpu", {}, **CERTAIN)
    assert loop._ledger.lag == LAG
    loop.run()
    for one, other in zip(curve(tmp_path / "gpu"), curve(tmp_path / "cpu"), strict=True):
        assert one == pytest.approx(other, rel=1e-2)


def test_a_run_goes_on_exactly(tmp_path: Path) -> None:
    loop_on_gpu(tmp_path / "whole", {"deterministic": True}).run()
    loop = loop_on_gpu(tmp_path / "parts", {"deterministic": True})
    step = loop._step

    def stopped(parts: Sequence[Rows], *, stop: bool) -> None:
        if loop.done == 15:
            raise KeyboardInterrupt
        step(parts, stop=stop)

    loop._step = stopped  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert loop_on_gpu(tmp_path / "parts", {"deterministic": True}).run().finished
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


def test_a_bad_step_is_left_out_and_then_told(tmp_path: Path) -> None:
    loop = loop_on_gpu(tmp_path / "left out", {"skip_bad_steps": 3}, poison="image-007")
    assert loop.run().finished
    assert sum("loss" not in line for line in lines(tmp_path / "left out")) == 3
    with pytest.raises(NotFinite, match="image-007"):
        loop_on_gpu(tmp_path / "told", {}, poison="image-007").run()
