"""The optimizer's side of a step: the learning rate of each step, AdamW, loss scaling, clipping, and steps that must not be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW

from trainer.method import Method
from trainer.sharding import whole
from trainer.training import OptimizerChoice


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A straight line from ``start`` to ``peak`` over ``warm_up`` steps, then a cosine down to ``least`` at the end of ``steps``.

    A function of the step's number and nothing else, so there is nothing of it to keep.
    """

    peak: float
    least: float
    warm_up: int
    start: float
    steps: int

    def rate(self, step: int) -> float:
        """Of the step after ``step`` others. The first at the peak is number ``warm_up``."""
        if step < self.warm_up:
            return self.start + (self.peak - self.start) * step / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.least + (self.peak - self.least) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_adamw(method: Method, choice: OptimizerChoice) -> AdamW:
    """AdamW over the method's groups. Raises ValueError unless they hold every trainable parameter once."""
    groups = method.parameter_groups()
    given = [id(parameter) for group in groups for parameter in group.parameters]
    wanted = {id(p): name for name, p in method.named_parameters() if p.requires_grad}
    if not wanted:
        raise ValueError(f"{type(method).__name__} has nothing to train; expected parameters that are not frozen")
    if sorted(given) != sorted(wanted):
        lacking = [name for key, name in wanted.items() if key not in given] or ["one of them twice"]
        raise ValueError(
            f"parameter groups of {type(method).__name__}: {len(given)} parameters, trainable are {len(wanted)}; look at {lacking[0]}"
        )
    split: list[dict[str, object]] = []
    for group in groups:
        for decay, parameters in _by_decay(group.parameters, choice).items():
            split.append({"params": parameters, "weight_decay": decay, "times": group.rate, "name": group.name})
    # Fused, for one reason besides speed: told by a tensor that a step must not be, it leaves all as it was, and nobody has
    # to wait for the device to hear of it.
    return AdamW(split, lr=0.0, betas=choice.betas, eps=choice.eps, fused=True)


def _by_decay(parameters: Sequence[nn.Parameter], choice: OptimizerChoice) -> dict[float, list[nn.Parameter]]:
    found: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        spared = choice.decay == "matrices" and parameter.ndim < 2
        found.setdefault(0.0 if spared else choice.weight_decay, []).append(parameter)
    return found


class Updates:
    """From a loss to changed parameters.

    clip: longest gradient, over all parameters together; None leaves it as long as it is. scaled: for fp16, the loss is
    multiplied so that small gradients are not lost, by a factor that is halved when large ones are.
    """

    def __init__(self, optimizer: AdamW, *, clip: float | None, scaled: bool, device: torch.device) -> None:
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self._clip = clip
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def apply(self, rate: float, loss: Tensor) -> Tensor:
        """One step of the optimizer, unless ``loss`` (of all ranks) or the gradients are not finite. Forgets the gradients.

        Returns the gradients' length before clipping, on the device; a rank that does not step is not alone in it.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["times"]
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = whole(get_total_norm(gradients, foreach=True))
        if self._clip is not None:
            clip_grads_with_norm_([p for p in self._parameters if p.grad is not None], self._clip, norm, foreach=True)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # it found out itself, while unscaling
            self.scaler.update()
        else:
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.found_inf = (~(loss.isfinite() & norm.isfinite())).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def state(self) -> dict[str, float]:
        """What is kept in a checkpoint besides the optimizer's moments."""
        return self.scaler.state_dict()

    def load_state(self, state: dict[str, float]) -> None:
        if self.scaler.is_enabled() and state:
            self.scaler.load_state_dict(state)
