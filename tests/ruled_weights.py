"""Weights that follow a rule, so that two implementations of a network can be given the same ones and none are stored.

A parameter's values depend on its official name and shape alone: the SHA-256 of both seeds PCG64, whose raw stream numpy keeps
the same for ever. A golden output in tests/data was made by running the authors' own network on such weights; the test of that
network says how.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def ruled_state_dict(shapes: Mapping[str, tuple[int, ...]], *, gain: float = 6.0) -> dict[str, Tensor]:
    """A state dict of float32 CPU tensors (num_batches_tracked: int64 zero) with these names and shapes.

    Uniform values between two ends: running_var and the gains of norms (weights of one axis) 0.5 to 1.5, running_mean and
    biases -0.1 to 0.1, all other weights +-sqrt(gain / fan_in). A gain of 6 keeps a plain ReLU network's activations at one
    size (He et al., arXiv:1502.01852, section 2.2); many residual blocks want less.
    """
    import torch

    return {name: torch.from_numpy(_values(name, tuple(shape), gain)) for name, shape in shapes.items()}


def ruled_array(name: str, shape: tuple[int, ...], low: float, high: float) -> NDArray[np.float32]:
    """Uniform float32 values from ``low`` to ``high`` that depend on name and shape: weights, or a network's input."""
    seed = int.from_bytes(hashlib.sha256(f"{name} {'x'.join(map(str, shape))}".encode()).digest()[:16], "big")
    raw = np.random.PCG64(seed).random_raw(math.prod(shape))
    share = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return (np.float32(low) + np.float32(high - low) * share).reshape(shape)


def _values(name: str, shape: tuple[int, ...], gain: float) -> NDArray[np.generic]:
    kind = name.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var" or (kind == "weight" and len(shape) == 1):
        return ruled_array(name, shape, 0.5, 1.5)
    if len(shape) < 2:
        return ruled_array(name, shape, -0.1, 0.1)
    end = math.sqrt(gain / math.prod(shape[1:]))
    return ruled_array(name, shape, -end, end)
