"""The random generators of a process: Python's, numpy's, and torch's on the CPU and on the device."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int) -> None:
    """All of them, from one number."""
    random.seed(seed)
    np.random.seed(np.random.SeedSequence(seed).generate_state(1))
    torch.manual_seed(seed)


def mixed(*numbers: int) -> int:
    """A seed from several numbers: no two lists of them share one but by accident."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def states(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Where they stand: tensors by name, and what is no tensor."""
    version, words, gauss = random.getstate()
    of_numpy = np.random.get_state(legacy=False)
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(of_numpy["state"]["key"].astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    rest = {
        "python": [version, gauss],
        "numpy": [of_numpy["state"]["pos"], of_numpy["has_gauss"], of_numpy["gauss"]],
    }
    return tensors, rest


def restore(tensors: Mapping[str, Tensor], rest: Mapping[str, Any], device: torch.device) -> None:
    """Goes on where `states` was asked. A generator of the device that was not there then stays as it is."""
    version, gauss = rest["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    position, has_gauss, cached = rest["numpy"]
    key = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, position, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)


@contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """What is drawn inside, an evaluation for instance, changes nothing outside."""
    kept = states(device)
    try:
        yield
    finally:
        restore(*kept, device)
