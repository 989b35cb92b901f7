"""Learning rates, parameter groups, and how a global batch is done on the ranks at hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.training_stand_in import StandIn
from trainer.errors import RecipeError
from trainer.method import ParameterGroup
from trainer.optim import Schedule, Updates, make_adamw
from trainer.training import BatchChoice, OptimizerChoice, Split


def test_the_rate_climbs_stands_at_the_peak_and_falls_to_the_least() -> None:
    schedule = Schedule(peak=3e-4, least=1e-6, warm_up=2000, start=1e-6, steps=10_000)
    assert schedule.rate(0) == 1e-6
    assert schedule.rate(1000) == pytest.approx((1e-6 + 3e-4) / 2)
    assert schedule.rate(2000) == 3e-4
    assert schedule.rate(6000) == pytest.approx((3e-4 + 1e-6) / 2)
    assert schedule.rate(4000) == pytest.approx(1e-6 + (3e-4 - 1e-6) * (1 + math.sqrt(0.5)) / 2)
    assert schedule.rate(10_000) == pytest.approx(1e-6)
    rates = [schedule.rate(step) for step in range(10_000)]
    assert rates[:2001] == sorted(rates[:2001]) and rates[2000:] == sorted(rates[2000:], reverse=True)


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert Schedule(peak=5e-5, least=0.0, warm_up=0, start=0.0, steps=7).rate(0) == 5e-5


def test_by_default_everything_decays() -> None:
    optimizer = make_adamw(StandIn(), OptimizerChoice())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05]
    assert optimizer.defaults["betas"] == (0.9, 0.999) and optimizer.defaults["eps"] == 1e-8


def test_norms_and_biases_may_be_spared() -> None:
    method = StandIn()
    optimizer = make_adamw(method, OptimizerChoice(decay="matrices", weight_decay=0.2))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert decays[id(parameter)] == (0.0 if name.endswith(("bias", ".1.weight")) else 0.2), name


class TwoRates(StandIn):
    left_out = 0

    def parameter_groups(self) -> list[ParameterGroup]:
        rest = list(self.middle.parameters())[self.left_out :]
        return [
            ParameterGroup(name="middle", parameters=rest, rate=0.5),
            ParameterGroup(name="head", parameters=list(self.head.parameters())),
        ]


def test_a_group_has_a_rate_of_its_own() -> None:
    optimizer = make_adamw(TwoRates(), OptimizerChoice())
    updates = Updates(optimizer, clip=None, scaled=False, device=torch.device("cpu"))
    updates.apply(0.1, torch.tensor(1.0))
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {"middle": 0.05, "head": 0.1}


def test_groups_must_hold_everything_once() -> None:
    method = TwoRates()
    method.left_out = 1
    with pytest.raises(ValueError, match="middle.0.0.weight"):
        make_adamw(method, OptimizerChoice())


def test_a_step_is_adamw() -> None:
    """Against the definition (arXiv:1711.05101), for one parameter and two steps."""
    parameter = nn.Parameter(torch.tensor([[1.0, -2.0]]))

    class One(StandIn):
        def __init__(self) -> None:
            super().__init__()
            del self.first, self.middle, self.statistics, self.head
            self.only = parameter

    updates = Updates(make_adamw(One(), OptimizerChoice()), clip=None, scaled=False, device=torch.device("cpu"))
    value, mean, square = torch.tensor([[1.0, -2.0]]), torch.zeros(1, 2), torch.zeros(1, 2)
    for number, (rate, gradient) in enumerate([(0.1, [[0.5, 1.0]]), (0.05, [[-1.0, 3.0]])], 1):
        parameter.grad = torch.tensor(gradient)
        norm = updates.apply(rate, torch.tensor(0.0))
        assert float(norm) == pytest.approx(math.hypot(*gradient[0]))
        mean = 0.9 * mean + 0.1 * torch.tensor(gradient)
        square = 0.999 * square + 0.001 * torch.tensor(gradient) ** 2
        direction = (mean / (1 - 0.9**number)) / ((square / (1 - 0.999**number)).sqrt() + 1e-8)
        value = value * (1 - rate * 0.05) - rate * direction
        assert torch.allclose(parameter.detach(), value, atol=1e-6)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_not_done(wrong: float, where: str) -> None:
    method = StandIn()
    updates = Updates(make_adamw(method, OptimizerChoice()), clip=1.0, scaled=False, device=torch.device("cpu"))
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    updates.apply(0.1, torch.tensor(1.0))
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, wrong if where == "gradient" else 1.0)
    updates.apply(0.1, torch.tensor(wrong if where == "loss" else 1.0))
    assert all(torch.equal(p, before[name]) for name, p in method.named_parameters())
    assert all(float(state["step"]) == 1 for state in updates.optimizer.state.values())


@pytest.mark.parametrize(
    ("size", "most", "ranks", "expected"),
    [
        (1024, 32, 32, (32, 1)),
        (1024, 32, 1, (32, 32)),
        (1024, 48, 8, (32, 4)),
        (256, 4, 64, (4, 1)),
        (96, 7, 2, (6, 8)),
        (7, 3, 1, (1, 7)),
    ],
)
def test_a_global_batch_is_the_same_on_any_ranks(size: int, most: int, ranks: int, expected: tuple[int, int]) -> None:
    split = Split.of(BatchChoice(size=size, most_per_rank=most), ranks=ranks)
    assert (split.size, split.accumulated) == expected
    assert split.size * split.ranks * split.accumulated == size and split.size <= most


@pytest.mark.parametrize(("size", "ranks"), [(1000, 3), (4, 8)])
def test_ranks_that_cannot_share_a_batch(size: int, ranks: int) -> None:
    with pytest.raises(RecipeError, match="batch.size") as raised:
        Split.of(BatchChoice(size=size, most_per_rank=4), ranks=ranks)
    assert "\n" not in str(raised.value)
