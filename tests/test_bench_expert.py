"""`expert-labels bench-expert` measures what it says it measures. How fast anything is, is no matter of a test."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from jobs.bench_command import _lines
from jobs.bench_expert import _network_clock, bench_expert
from jobs.cli import app
from pipeline.errors import JobError


class Slow(nn.Module):
    """Waits for a moment, and its child for another one."""

    def __init__(self, child: nn.Module | None = None) -> None:
        super().__init__()
        self.child = child

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return self.child(x) if self.child else x


def test_the_clock_counts_outermost_modules_once_and_nothing_between_them() -> None:
    network = Slow(Slow())
    with _network_clock("cpu") as spans:
        network(torch.zeros(1))
        time.sleep(0.5)
        network(torch.zeros(1))
    seconds = [span() for span in spans]
    assert len(seconds) == 2 and all(0.1 <= each < 0.4 for each in seconds)
    with _network_clock("cpu") as later:
        pass
    network(torch.zeros(1))
    assert later == []  # the hooks are gone


def test_an_expert_with_a_network_and_one_without() -> None:
    speed = bench_expert("pocket_edge", options={}, device="cpu", photos=2, turns=1)
    assert speed.network and speed.photos == 2 and speed.parameters and speed.peak_bytes > 1e8
    assert speed.kept == speed.actor / speed.network
    assert 0 < speed.expert_rate <= speed.network  # the network is part of the expert
    plain = bench_expert("image", options={"long_side": 64}, device="cpu", photos=2, turns=1)
    assert plain.network is None and plain.kept is None and plain.actor > 0


def test_seeded_weights_serve_where_there_are_none() -> None:
    speed = bench_expert("edge", options={"side": 64}, device="cpu", photos=1, turns=1, seeded="small")
    assert speed.network and speed.input == (64, 64)
    assert speed.seeded == "small" and speed.parameters is None  # the card's are those of the full network
    head, _, row = _lines([speed.to_json()])
    assert "random weights" in head and "small" in row.split()


def test_an_expert_that_fails_is_not_a_fast_one() -> None:
    with pytest.raises(JobError, match="2 of 2 photos failed: no ground truth"):
        bench_expert("truth_seg", options={}, device="cpu", photos=2, turns=1)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("pocket_dept", {}, "did you mean 'pocket_depth'"),
        ("pocket_depth", {"side": 3}, "has no option 'side'"),
        ("edge", {"weights_folder": "/nowhere"}, "weights fetch --experts edge"),
    ],
)
def test_what_cannot_be_measured_is_one_line(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(JobError, match=said):
        bench_expert(name, options=options, device="cpu", photos=1, turns=1)


def test_the_command_measures_several_each_in_its_own_process() -> None:
    done = CliRunner().invoke(
        app, ["bench-expert", "image", "pocket_edge", "--photos=1", "--turns=1", "--device=cpu", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [speed["expert"] for speed in found] == ["image", "pocket_edge"]
    head, titles, *rows = _lines(found)
    assert (
        "CPU" in head and titles.split()[0] == "expert" and [row.split()[0] for row in rows] == ["image", "pocket_edge"]
    )


@pytest.mark.parametrize("device", ["gpu", "cuda:1", "mps", ""])
def test_a_device_that_no_worker_has_is_one_line(device: str) -> None:
    with pytest.raises(JobError, match=f"device is '{device}'; expected cpu or cuda:0"):
        bench_expert("pocket_edge", options={}, device=device, photos=1, turns=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
def test_a_gpu_that_is_not_there_is_one_line() -> None:
    with pytest.raises(JobError, match="torch finds no GPU here"):
        bench_expert("pocket_edge", options={}, device="cuda:0", photos=1, turns=1)


def test_what_cannot_be_measured_beside_others_is_left_out_and_told_by_the_exit_code() -> None:
    done = CliRunner().invoke(
        app, ["bench-expert", "image", "pocket_dept", "--photos=1", "--turns=1", "--device=cpu", "--json"]
    )
    assert done.exit_code == 1 and [speed["expert"] for speed in json.loads(done.stdout)] == ["image"]


def test_an_option_wants_a_key_and_a_value() -> None:
    done = CliRunner().invoke(app, ["bench-expert", "image", "--option", "long_side"])
    assert isinstance(done.exception, JobError) and "KEY=VALUE" in str(done.exception)
