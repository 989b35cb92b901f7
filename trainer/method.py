"""Method: what the loop trains, a model with a loss and the little that the loop cannot know of it; and Feed: what it is fed with.

The loop knows no method, and a method knows no loop: no optimizer, no ranks, no files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

#: By name, a sum and what it is a sum over, both of one number and without gradient: added up over micro-batches, ranks and
#: steps, then shown as their ratio. A method gives the same names at every step and on every rank.
Stats = Mapping[str, tuple[Tensor, Tensor]]


class Batch(Protocol):
    """Some samples side by side. ``ids``: of their images, for messages."""

    @property
    def ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``, copied without waiting where that can be."""
        ...


class Feed(Protocol):
    """Where batches come from. It draws nothing from the global random generators."""

    @property
    def per_epoch(self) -> int:
        """Global batches of an epoch."""
        ...

    def steps(self, first: int) -> Iterator[Sequence[Batch]]:
        """This rank's micro-batches of global batch ``first`` (from 0, over all epochs), of the next one, and so on for ever.

        Which samples are in a global batch does not depend on the number of ranks.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a learning rate: ``rate`` times the schedule's."""

    name: str
    parameters: Sequence[nn.Parameter]
    rate: float = 1.0


class Method(nn.Module, ABC):
    """A model with a loss. Everything but `loss` has a default that serves where nothing is special."""

    #: Whether a step may leave trainable parameters without a gradient. DDP then looks for them at every step, which costs time.
    skips_parameters = False

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, Stats]:
        """The mean loss over what `weight` counts, of a batch that is on the device; and what else is worth watching."""

    def weight(self, batch: Any) -> float | Tensor:
        """How many things `loss` is the mean of: samples, or for a loss per token the batch's tokens.

        Batches of one step are weighed by it, so that any split of it over micro-batches and ranks has the same gradient.
        """
        return float(len(batch))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trainable parameter, once. Asked for after sharding, which replaces parameters."""
        return [ParameterGroup(name="all", parameters=[p for p in self.parameters() if p.requires_grad])]

    def blocks(self) -> list[nn.Module]:
        """What repeats, in the order of its use: the units that are sharded over ranks, and compiled."""
        return []

    def checkpoint_gradients(self, on: bool) -> None:
        """Keep only the blocks' inputs for the backward pass and compute the rest again. Raises ValueError if it cannot."""
        if on:
            raise ValueError(
                f"{type(self).__name__} cannot checkpoint its gradients; set gradient_checkpointing: false"
            )

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Takes over the weights of an earlier training, by the names of `state_dict`; frozen ones may be left out of them.

        Raises ValueError of one line.
        """
        wanted = self.state_dict()
        spared = {name for name, p in self.named_parameters() if not p.requires_grad} - set(weights)
        other = [n for n in {**wanted, **weights} if n not in spared and _shape(wanted, n) != _shape(weights, n)]
        if other:
            name = min(other)
            raise ValueError(
                f"another model's weights: {len(other)} tensors differ, such as {name}, which is {_shape(weights, name)}; "
                f"expected {_shape(wanted, name)}"
            )
        self.load_state_dict(weights, strict=False)

    def forward(self, batch: Any) -> tuple[Tensor, Stats]:
        """`loss`: what DDP and FSDP hook on to."""
        return self.loss(batch)


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return "x".join(map(str, tensors[name].shape)) or "one number" if name in tensors else "not there"
