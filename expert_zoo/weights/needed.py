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


def without_weights(experts: Iterable[Expert]) -> dict[str, str]:
    """Experts whose checkpoint does not lie whole in its folder, as far as can be told without reading it, and why, by name."""
    return {
        expert.card.name: expert.folder.look(expert.checkpoint)[1]
        for expert in experts
        if isinstance(expert, NeedsCheckpoint) and not expert.folder.at_hand(expert.checkpoint)
    }


def not_locked(experts: Iterable[Expert]) -> dict[str, str]:
    """Experts whose files lie there while no lock says which they are, and what is wrong with the lock, by name."""
    looked = {e.card.name: e.folder.look(e.checkpoint) for e in experts if isinstance(e, NeedsCheckpoint)}
    return {name: why for name, (state, why) in looked.items() if state == "not locked"}
