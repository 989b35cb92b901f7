"""Checkpoints that are one torch file: read without unpickling code, and put into a network with nothing left over.

Every error is a ValueError of one line that names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def read_state_dict(path: Path, *, inside: str = "") -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU, from a file of torch.save; the prefix of DataParallel is taken off.

    ``inside``: the entry that holds them, where the file holds other things too. Raises ValueError.
    """
    import torch

    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises four kinds, most with a page of text
        raise ValueError(f"{path} is no file of weights: {str(error).partition(chr(10))[0]}") from error
    if inside:
        found = found.get(inside) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        where = f" under {inside!r}" if inside else ""
        raise ValueError(f"{path} holds no parameters by name{where}; expected a state dict")
    return {name.removeprefix("module."): value for name, value in found.items()}


def fill(
    network: nn.Module,
    values: Mapping[str, Tensor],
    *,
    path: Path,
    official: Callable[[str], str] = str,
    no_role: Collection[str] = (),
) -> None:
    """Every parameter and buffer of ``network`` from ``values``, every one of ``values`` used but those named in ``no_role``.

    ``official``: from a name in ``network`` to the one in ``values``. ``network`` may have been made on the meta device.
    Raises ValueError where names or shapes do not match.
    """
    wanted = {official(name): (name, slot) for name, slot in network.state_dict().items()}
    differing = [
        f"{name} ({_shape(values[name])}, expected {_shape(slot)})"
        for name, (_, slot) in wanted.items()
        if name in values and values[name].shape != slot.shape
    ]
    faults = {
        "missing": [name for name in wanted if name not in values],
        "unknown": [name for name in values if name not in wanted and name not in no_role],
        "of another shape": differing,
    }
    found = [f"{len(names)} {what}, the first is {names[0]}" for what, names in faults.items() if names]
    if found:
        raise ValueError(f"{path} holds another network's weights: {'; '.join(found)}")
    filled = {ours: values[name].to(slot.dtype) for name, (ours, slot) in wanted.items()}
    network.load_state_dict(filled, assign=True)


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"
