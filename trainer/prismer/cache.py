"""What the decoder need not compute twice while it writes: keys and values of the tokens so far, and of the photos.

Shapes: B photos, R rows (texts), a whole number of them per photo, one photo's after the other's; T tokens so far; H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.prismer.layers import KeysValues


@dataclass
class LayerCache:
    """One layer's: ``past``, each R x H x T x d, of the rows' tokens; ``visual``, each B x H x N x d, of the photos, once."""

    past: KeysValues | None = None
    visual: KeysValues | None = None

    def grown(self, new: KeysValues) -> KeysValues:
        """The past and the new tokens'; kept."""
        if self.past is not None:
            new = (torch.cat([self.past[0], new[0]], dim=2), torch.cat([self.past[1], new[1]], dim=2))
        self.past = new
        return new


@dataclass
class Cache:
    """keep_RT: False for the tokens so far that are padding."""

    layers: list[LayerCache] = field(default_factory=list)
    keep_RT: Tensor | None = None

    def select(self, rows_R: Tensor) -> None:
        """Go on with these rows, in this order, some of them several times; as many per photo as there are of another."""
        assert self.keep_RT is not None, "nothing was written yet"
        self.keep_RT = self.keep_RT[rows_R]
        for layer in self.layers:
            if layer.past is not None:
                layer.past = (layer.past[0][rows_R], layer.past[1][rows_R])
