"""detectron2's files of weights, read without running anything that is in them.

.pkl        a pickle of {"model": {name: NumPy array}, "__author__": ...}: detectron2's model zoo; without "model" (or with
            "blobs") one of Detectron, whose names differ
.pth, .pt   a file of torch.save, the state dict alone or under "model"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expert_zoo.networks.array_pickle import read_pickle
from expert_zoo.networks.state_dict import read_state_dict

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = (".pkl", ".pth", ".pt")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """What a file of weights holds.

    values     parameters and buffers by name, on the CPU
    by_likeness  their names are another code's, to be matched by likeness; ``caffe2``: and are those of Detectron
    narrow     they are seeded ones for tests, of a network made narrow (seeds.py). No more than that: what a configuration is
               given decides which code is run, and a file of weights has no say in it
    """

    values: dict[str, Tensor]
    by_likeness: bool = False
    caffe2: bool = False
    narrow: bool = False


def read_weight_file(path: Path) -> WeightFile:
    """Raises ValueError, one line that names the file: unreadable, holding code, or no weights."""
    if path.suffix != ".pkl":
        return _of_torch(path)
    import torch

    found = read_pickle(path, expected="a checkpoint of detectron2, which has arrays and texts alone")
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected the dictionary of a checkpoint")
    caffe2 = "model" not in found or "__author__" not in found
    values = found.get("blobs", found) if caffe2 else found["model"]
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} holds no parameters by name; expected a checkpoint of detectron2")
    if caffe2:
        values = {name: value for name, value in values.items() if not str(name).endswith("_momentum")}
    arrays = {str(name): value for name, value in values.items() if isinstance(value, np.ndarray)}
    if not arrays or any(value.dtype.kind not in "fiub" for value in arrays.values()):
        raise ValueError(f"{path} holds no arrays of numbers by name; expected a checkpoint of detectron2")
    return WeightFile(
        values={name: torch.from_numpy(np.array(value)) for name, value in arrays.items()},
        by_likeness=caffe2 or bool(found.get("matching_heuristics")),
        caffe2=caffe2,
        narrow=found.get("narrow") is True,
    )


def _of_torch(path: Path) -> WeightFile:
    import torch

    try:
        outer: Any = torch.load(path, map_location="meta", weights_only=True)  # names and shapes, no values
    except Exception:  # read_state_dict says why
        outer = {}
    said = outer if isinstance(outer, Mapping) else {}
    inside = "model" if isinstance(said.get("model"), Mapping) else ""
    return WeightFile(values=read_state_dict(path, inside=inside), narrow=said.get("narrow") is True)
