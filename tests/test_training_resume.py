"""Killed, asked to stop, gone on with: the curve must not tell."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training_stand_in import curve, ended, kill_after, lines, start, train, weights
from trainer.errors import CheckpointError, TrainingError

SLOW = {"seconds": 0.05}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder)
    return folder


def same(one: Path, other: Path) -> None:
    """The same curve and weights, to the last bit."""
    assert curve(one) == curve(other)
    assert len(curve(one)) == 24
    theirs = weights(other)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(one).items())


def test_a_killed_run_goes_on_as_if_nothing_had_been(undisturbed: Path, tmp_path: Path) -> None:
    processes = start(1, [{"folder": str(tmp_path), **SLOW}])
    kill_after(processes, tmp_path, step=15, number=signal.SIGKILL)
    assert [code for code, _ in ended(processes)] == [-signal.SIGKILL]
    assert lines(tmp_path)[-1]["step"] >= 15, "it had gone beyond the checkpoint that it goes on from"
    loop, outcome = train(tmp_path)
    assert outcome.finished
    same(tmp_path, undisturbed)


def test_dropout_makes_the_random_state_matter(undisturbed: Path, tmp_path: Path) -> None:
    """Else the test above would pass without it."""
    train(tmp_path, method={"dropout": 0.0})
    assert curve(tmp_path) != curve(undisturbed)


def test_asked_to_stop_it_keeps_everything_and_says_so(undisturbed: Path, tmp_path: Path) -> None:
    processes = start(1, [{"folder": str(tmp_path), **SLOW}])
    kill_after(processes, tmp_path, step=8, number=signal.SIGTERM)
    assert [code for code, _ in ended(processes)] == [128 + signal.SIGTERM]
    stopped = lines(tmp_path)[-1]["step"]
    assert 8 <= stopped < 24
    assert (tmp_path / "checkpoints" / f"step-{stopped:08d}" / "checkpoint.json").exists()
    train(tmp_path)
    same(tmp_path, undisturbed)


def test_a_line_of_several_steps_survives_a_stop_between_them(tmp_path: Path) -> None:
    coarse = {"log": {"every": 7}}
    train(tmp_path / "undisturbed", coarse)
    folder = tmp_path / "stopped"
    processes = start(1, [{"folder": str(folder), "changes": coarse, **SLOW}])
    kill_after(processes, folder, step=7, number=signal.SIGTERM)
    ended(processes)
    train(folder, coarse)
    assert curve(folder) == curve(tmp_path / "undisturbed")


def test_two_ranks_killed_go_on_exactly_and_one_can_take_over(undisturbed: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    processes = start(2, [{"folder": str(whole)}, {"folder": str(killed), **SLOW}])
    kill_after(processes, killed, step=15, number=signal.SIGKILL)
    assert {code for code, _ in ended(processes)} == {-signal.SIGKILL}
    resumed = start(2, [{"folder": str(killed)}])
    assert [code for code, _ in ended(resumed)] == [0, 0]
    same(killed, whole)
    assert curve(whole) != curve(undisturbed), "each rank draws its own dropout"


@pytest.mark.long
def test_two_ranks_asked_to_stop_stop_at_the_same_step(tmp_path: Path) -> None:
    """Only one of them is asked."""
    processes = start(2, [{"folder": str(tmp_path), "changes": {"sharding": "zero3"}, **SLOW}])
    kill_after(processes[1:], tmp_path, step=8, number=signal.SIGTERM)
    codes = [code for code, _ in ended(processes)]
    assert codes == [128 + signal.SIGTERM] * 2
    stopped = lines(tmp_path)[-1]["step"]
    assert 8 <= stopped < 24
    assert (tmp_path / "checkpoints" / f"step-{stopped:08d}" / "checkpoint.json").exists()


def test_another_number_of_ranks_reads_the_same_batches(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without dropout the curve is the same but for rounding."""
    certain: dict[str, Any] = {"method": {"dropout": 0.0}}
    train(tmp_path / "one", **certain)
    folder = tmp_path / "two then one"
    first = {"folder": str(folder), "changes": {"sharding": "zero2"}, **certain, **SLOW}
    processes = start(2, [first])
    kill_after(processes, folder, step=8, number=signal.SIGKILL)
    ended(processes)
    capfd.readouterr()
    train(folder, {"batch": {"most_per_rank": 4}}, **certain)
    said = capfd.readouterr().err
    assert "1 rank(s) instead of 2" in said and "`sharding` is 'ddp'" in said and "batch.most_per_rank" in said
    for a, b in zip(curve(folder), curve(tmp_path / "one"), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


def test_a_finished_run_has_nothing_to_do(undisturbed: Path) -> None:
    before = curve(undisturbed)
    _, outcome = train(undisturbed)
    assert outcome.finished and curve(undisturbed) == before


@pytest.mark.parametrize(
    ("changes", "method", "what"),
    [
        ({"optimizer": {"weight_decay": 0.1}}, {}, "`optimizer.weight_decay` is 0.1; .* was trained with 0.05"),
        ({"batch": {"size": 16}}, {}, "`batch.size` is 16"),
        ({}, {"width": 16}, "of another model: .* there 12, here 16"),
        ({}, {"norm": True}, "of another model: .* there not there"),
    ],
)
def test_what_does_not_go_on_with_it_is_said_and_changes_nothing(
    undisturbed: Path, changes: dict[str, Any], method: dict[str, Any], what: str
) -> None:
    files = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    with pytest.raises(CheckpointError, match=what) as raised:
        train(undisturbed, changes, method=method)
    assert "\n" not in str(raised.value)
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == files


def test_frozen_weights_may_be_left_out_and_must_then_be_the_same(tmp_path: Path) -> None:
    without = {"checkpoints": {"frozen": False}}
    train(tmp_path, without | {"steps": 12})
    assert not any(name.startswith("first.") for name in weights(tmp_path, 12))
    _, outcome = train(tmp_path, without | {"steps": 12})
    assert outcome.finished
    with pytest.raises(CheckpointError, match="other frozen weights"):
        _train_with_other_frozen(tmp_path, without | {"steps": 12})


def _train_with_other_frozen(folder: Path, changes: dict[str, Any]) -> None:
    from tests.training_stand_in import Numbers, StandIn, recipe
    from trainer.loop import Loop
    from trainer.ranks import Ranks

    torch.manual_seed(77)
    feed = Numbers(count=64, batch=8, parts=1, rank=0, ranks=1)
    alone = Ranks(rank=0, count=1, device=torch.device("cpu"))
    Loop(method=StandIn(), feed=feed, recipe=recipe(changes), ranks=alone, folder=folder).run()


def test_a_run_can_begin_with_the_weights_of_another(undisturbed: Path, tmp_path: Path) -> None:
    loop, _ = train(tmp_path, {"start_from": str(undisturbed), "steps": 30, "schedule": {"peak": 1e-9, "least": 0.0}})
    theirs = weights(undisturbed)
    for name, tensor in loop.method.state_dict().items():
        assert torch.allclose(tensor, theirs[name], atol=1e-6)
    with pytest.raises(TrainingError, match="start_from.*12.*expected 16"):
        train(tmp_path / "wider", {"start_from": str(undisturbed)}, method={"width": 16})


def test_what_a_run_was_begun_with_may_be_gone_when_it_goes_on(
    undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Unless frozen weights come from there, which its own checkpoints leave out."""
    for frozen in (True, False):
        first, folder = tmp_path / f"first {frozen}", tmp_path / f"run {frozen}"
        shutil.copytree(undisturbed, first)
        changes = {"start_from": str(first), "steps": 12, "checkpoints": {"frozen": frozen}}
        train(folder, changes)
        shutil.rmtree(first)
        capfd.readouterr()
        if frozen:
            assert train(folder, changes)[1].finished
            said = capfd.readouterr().err
            assert "going on from step 12" in said and "beginning with" not in said
        else:
            with pytest.raises(CheckpointError, match="no checkpoint at"):
                train(folder, changes)
