"""Which checkpoint an expert needs, told by its shape: experts need no common ancestor for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from expert_zoo.expert import Expert
from expert_zoo.weights.checkpoint import Checkpoint
from expert_zoo.weights.folder import WeightsFolder


@runtime_checkable
class NeedsCheckpoint(Protocol):
    """An expert whose weights lie in a weights folder, and not in a package."""

    checkpoint: Checkpoint
    folder: WeightsFolder


def weights_folders(experts: Iterable[Expert]) -> str:
    """Where the weights of ``experts`` are looked for: one folder, as a rule."""
    return ", ".join(dict.fromkeys(str(one.folder.root) for one in experts if isinstance(one, NeedsCheckpoint)))


def without_weights(experts: Iterable[Expert]) -> list[str]:
    """Names of the experts whose checkpoint does not lie whole in its folder, as far as can be told without reading it."""
    return [
        expert.card.name
        for expert in experts
        if isinstance(expert, NeedsCheckpoint) and not expert.folder.at_hand(expert.checkpoint)
    ]
