"""The loop in one process: what a step is, what is logged, what becomes of steps that went wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tests.training_stand_in import ByToken, Numbers, StandIn, curve, lines, recipe, train, weights
from trainer.errors import NotFinite, RecipeError
from trainer.ledger import Ledger
from trainer.loop import Loop
from trainer.method import Method, ParameterGroup
from trainer.ranks import Ranks

CERTAIN = {"dropout": 0.0}
ALONE = Ranks(rank=0, count=1, device=torch.device("cpu"))


pytestmark = pytest.mark.usefixtures("one_thread")


def close(one: list[tuple[int, float, float, float]], other: list[tuple[int, float, float, float]], rel: float) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=rel)


def test_what_is_trained_gets_better_and_what_is_frozen_stays(tmp_path: Path) -> None:
    torch.manual_seed(3)
    frozen = StandIn().first.weight.detach().clone()
    loop, outcome = train(tmp_path, {"steps": 120})
    assert (outcome.steps, outcome.finished, outcome.signal) == (120, True, None)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert sum(losses[-10:]) < sum(losses[:10]) / 4
    assert torch.equal(loop.method.get_parameter("first.weight"), frozen)


def test_one_batch_is_learned_by_heart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    feed = Numbers(count=8, batch=8, parts=1, rank=0, ranks=1)
    changes = recipe({"steps": 400, "log": {"every": 400}, "checkpoints": {"every": 400}})
    Loop(method=StandIn(**CERTAIN), feed=feed, recipe=changes, ranks=ALONE, folder=tmp_path).run()
    with torch.no_grad():
        (batch,) = next(feed.steps(0))
        assert StandIn.loss(_loaded(tmp_path, 400), batch)[0] < 1e-3


def _loaded(folder: Path, step: int) -> StandIn:
    method = StandIn(**CERTAIN)
    method.load_state_dict(weights(folder, step))
    return method


def test_every_line_says_what_it_should(tmp_path: Path) -> None:
    train(tmp_path, {"log": {"every": 5}})
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [5, 10, 15, 20, 24]
    assert [line["epoch"] for line in found] == [0, 1, 1, 2, 2]
    assert set(found[0]) == {
        "step", "epoch", "rate", "samples_per_second", "waiting", "loss", "gradient_norm", "close",
    }  # fmt: skip
    assert all(0 <= line["waiting"] <= 1 and 0 <= line["close"] <= 1 for line in found)


def test_a_line_is_the_mean_of_its_steps(tmp_path: Path) -> None:
    train(tmp_path / "each")
    train(tmp_path / "fives", {"log": {"every": 6}})
    each = [line["loss"] for line in lines(tmp_path / "each")]
    for number, line in enumerate(lines(tmp_path / "fives")):
        assert line["loss"] == pytest.approx(sum(each[number * 6 : number * 6 + 6]) / 6)


@pytest.mark.parametrize("most", [4, 2, 1])
def test_accumulated_is_as_if_at_once(tmp_path: Path, most: int) -> None:
    train(tmp_path / "once", method=CERTAIN)
    loop, _ = train(tmp_path / "parts", {"batch": {"most_per_rank": most}}, method=CERTAIN)
    assert loop.split.accumulated == 8 // most
    close(curve(tmp_path / "once"), curve(tmp_path / "parts"), rel=1e-3)


def test_a_loss_per_token_is_accumulated_by_tokens(tmp_path: Path) -> None:
    train(tmp_path / "once", by_token=True)
    train(tmp_path / "parts", {"batch": {"most_per_rank": 2}}, by_token=True)
    close(curve(tmp_path / "once"), curve(tmp_path / "parts"), rel=1e-3)
    feed = Numbers(count=64, batch=8, parts=4, rank=0, ranks=1)
    counts = [ByToken().weight(part) for part in next(feed.steps(0))]
    assert len(set(counts)) > 1, "with equal counts this shows nothing"


def test_the_gradient_is_no_longer_than_allowed(tmp_path: Path) -> None:
    """AdamW hides a gradient's length, so what reaches it is looked at."""
    seen: list[float] = []

    class Watched(StandIn):
        def parameter_groups(self) -> list[ParameterGroup]:
            return super().parameter_groups()

    method = Watched(**CERTAIN)
    feed = Numbers(count=64, batch=8, parts=1, rank=0, ranks=1)
    chosen = recipe({"optimizer": {"clip": 0.5}})
    loop = Loop(method=method, feed=feed, recipe=chosen, ranks=ALONE, folder=tmp_path)

    def look(*_: object) -> None:
        squares = [p.grad.square().sum() for p in method.parameters() if p.grad is not None]
        seen.append(math.sqrt(float(sum(squares))))

    loop.optimizer.register_step_pre_hook(look)
    loop.run()
    told = [line["gradient_norm"] for line in lines(tmp_path)]
    assert max(told) > 1, "with short gradients this shows nothing"
    for before, after in zip(told, seen, strict=True):
        assert after == pytest.approx(min(before, 0.5), rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_comes_close(tmp_path: Path, precision: str) -> None:
    train(tmp_path / "full", {"steps": 80}, method=CERTAIN)
    loop, _ = train(tmp_path / "mixed", {"steps": 80, "precision": precision}, method=CERTAIN)
    full, mixed = ([line["loss"] for line in lines(tmp_path / name)] for name in ("full", "mixed"))
    assert full != mixed
    assert sum(mixed[-10:]) == pytest.approx(sum(full[-10:]), rel=0.5)
    assert all(parameter.dtype == torch.float32 for parameter in loop.method.parameters())
    assert ("loss_scale" in lines(tmp_path / "mixed")[-1]) == (precision == "fp16")


def test_compiled_blocks_train_as_others(tmp_path: Path) -> None:
    train(tmp_path / "plain", {"steps": 6}, method=CERTAIN)
    train(tmp_path / "compiled", {"steps": 6, "compile": True}, method=CERTAIN)
    close(curve(tmp_path / "plain"), curve(tmp_path / "compiled"), rel=1e-3)


def test_a_loss_that_is_no_number_ends_the_run_with_its_images(tmp_path: Path) -> None:
    with pytest.raises(NotFinite) as raised:
        train(tmp_path, {"checkpoints": {"every": 2}, "batch": {"most_per_rank": 2}}, method={"poison": "image-007"})
    message = str(raised.value)
    assert "\n" not in message
    assert "the loss is nan" in message and "image-007" in message and message.count("image-") == 2
    step = int(message.split("step ")[1].split(":")[0])
    saved = max((tmp_path / "checkpoints").iterdir())
    assert (
        int(saved.name[5:]) == step - 1 - (step - 1) % 2 and f"checkpoint is of step {int(saved.name[5:])}" in message
    )
    assert all(t.isfinite().all() for t in weights(tmp_path, int(saved.name[5:])).values())


def test_bad_steps_may_be_left_out(tmp_path: Path) -> None:
    """Three epochs see the image three times; neither weights nor running statistics know of it."""
    method = {"poison": "image-007", "norm": True}
    loop, outcome = train(tmp_path / "allowed", {"skip_bad_steps": 3}, method=method)
    assert outcome.finished
    assert [line["step"] for line in lines(tmp_path / "allowed")] == list(range(1, 25))
    assert sum("loss" not in line for line in lines(tmp_path / "allowed")) == 3
    assert all(t.isfinite().all() for t in weights(tmp_path / "allowed").values())
    with pytest.raises(NotFinite):
        train(tmp_path / "too few", {"skip_bad_steps": 2}, method=method)


def test_a_step_that_is_left_out_changes_nothing(tmp_path: Path) -> None:
    before: list[dict[str, torch.Tensor]] = []
    method = StandIn(poison="image-007", norm=True)
    feed = Numbers(count=64, batch=8, parts=1, rank=0, ranks=1)
    loop = Loop(method=method, feed=feed, recipe=recipe({"skip_bad_steps": 3}), ranks=ALONE, folder=tmp_path)
    kept = loop._step

    def step(parts: object, *, stop: bool) -> None:
        before.append({name: t.clone() for name, t in _everything(loop).items()})
        kept(parts, stop=stop)  # type: ignore[arg-type]

    loop._step = step  # type: ignore[method-assign]
    loop.run()
    before.append(_everything(loop))
    bad = [line["step"] for line in lines(tmp_path) if "loss" not in line]
    assert len(bad) == 3
    for number in range(1, 25):
        same = [
            torch.equal(t, before[number - 1][name]) for name, t in before[number].items() if name in before[number - 1]
        ]
        assert all(same) == (number in bad)


def _everything(loop: Loop) -> dict[str, torch.Tensor]:
    found = {name: t for name, t in loop.method.state_dict().items() if "num_batches" not in name}
    for name, parameter in loop.method.named_parameters():
        for moment, value in loop.optimizer.state.get(parameter, {}).items():
            found[f"{name}/{moment}"] = value
    return found


def test_what_tensorboard_is_told(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, {"log": {"every": 4, "tensorboard": True}})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (line["step"], pytest.approx(line["loss"])) for line in lines(tmp_path)
    ]


def test_evaluation_changes_no_number_of_training(tmp_path: Path) -> None:
    def evaluate(method: Method) -> dict[str, float]:
        torch.rand(3)
        return {"score": float(torch.rand(()))}

    train(tmp_path / "without")
    folder = tmp_path / "with"
    folder.mkdir()
    torch.manual_seed(3)
    method = StandIn()
    best = {"best": {"metric": "score"}, "every": 24}
    chosen = recipe({"evaluate_every": 5, "checkpoints": best})
    feed = Numbers(count=64, batch=8, parts=1, rank=0, ranks=1)
    loop = Loop(method=method, feed=feed, recipe=chosen, ranks=ALONE, folder=folder, evaluate=evaluate)
    loop.run()
    steps = [line for line in lines(folder) if "loss" in line]
    assert [line["loss"] for line in steps] == [line["loss"] for line in lines(tmp_path / "without")]
    told = {line["step"]: line["evaluation"]["score"] for line in lines(folder) if "evaluation" in line}
    assert list(told) == [5, 10, 15, 20, 24]
    assert loop.checkpoints.best() == max(told, key=lambda step: told[step])
    assert loop.checkpoints.best() in loop.checkpoints.steps()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"batch": {"size": 128}}, "fewer than 128 images"),
        ({"schedule": {"warm_up": 24}}, "schedule.warm_up"),
        ({"start_from": "nowhere"}, "no checkpoint at nowhere"),
        ({"evaluate_every": 5}, "nothing is evaluated"),
        ({"checkpoints": {"best": {"metric": "cider"}}}, "nothing is evaluated"),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_it_begins(
    tmp_path: Path, changes: dict[str, object], what: str
) -> None:
    with pytest.raises(Exception, match=what) as raised:
        train(tmp_path, changes)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "log.jsonl").exists()


def test_a_method_without_anything_to_train(tmp_path: Path) -> None:
    feed = Numbers(count=64, batch=8, parts=1, rank=0, ranks=1)
    with pytest.raises(RecipeError, match="nothing to train"):
        Loop(method=StandIn().requires_grad_(False), feed=feed, recipe=recipe(), ranks=ALONE, folder=tmp_path)


class Plain(Method):
    def loss(self, batch: object) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        raise AssertionError


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"compile": True}])
def test_what_a_method_cannot_do_is_said(tmp_path: Path, change: dict[str, bool]) -> None:
    feed = Numbers(count=64, batch=8, parts=1, rank=0, ranks=1)
    with pytest.raises(RecipeError, match="Plain"):
        Loop(method=Plain(), feed=feed, recipe=recipe(change), ranks=ALONE, folder=tmp_path)


@pytest.mark.parametrize(("lag", "known"), [(0, 3), (2, 1), (5, 0)])
def test_the_ledger_gives_back_in_order_and_late(lag: int, known: int) -> None:
    ledger: Ledger[str] = Ledger(lag=lag)
    entries = [(name, [float(number), 2.0]) for number, name in enumerate(("one", "two", "three"))]
    for name, numbers in entries:
        ledger.add(name, torch.tensor(numbers))
    assert list(ledger.settled()) == entries[:known]
    assert list(ledger.settled(all_of_them=True)) == entries[known:]


def test_a_device_that_is_behind_changes_what_is_known_when_and_nothing_else(tmp_path: Path) -> None:
    """As on a GPU: steps are read two steps later."""

    def late(folder: Path, method: StandIn, changes: dict[str, object]) -> Loop:
        folder.mkdir()
        feed = Numbers(count=64, batch=8, parts=1, rank=0, ranks=1)
        loop = Loop(method=method, feed=feed, recipe=recipe(changes), ranks=ALONE, folder=folder)
        loop._ledger.lag = 2
        return loop

    train(tmp_path / "at once", {"checkpoints": {"every": 5}})
    torch.manual_seed(3)
    assert late(tmp_path / "late", StandIn(), {"checkpoints": {"every": 5}}).run().finished
    assert curve(tmp_path / "late") == curve(tmp_path / "at once")
    with pytest.raises(NotFinite, match="image-007") as raised:
        late(tmp_path / "bad", StandIn(poison="image-007"), {"checkpoints": {"every": 1}}).run()
    step = int(str(raised.value).split("step ")[1].split(":")[0])
    assert max((tmp_path / "bad" / "checkpoints").iterdir()).name == f"step-{step - 1:08d}"


def test_lines_are_json_whatever_stands_in_them(tmp_path: Path) -> None:
    train(tmp_path, {"skip_bad_steps": 3}, method={"poison": "image-007"})
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
