"""Weights from other people's files: read without unpickling code, renamed, and put in with nothing left over.

Every error is a ValueError of one line that names the file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from expert_zoo.networks.state_dict import fill, read_state_dict

Tensors = Mapping[str, Tensor]


class Origin(NamedTuple):
    """Where a parameter of ours is in theirs: under ``name``, all of it, or that ``third`` of its rows.

    Query, key and value are three parameters here, and one in a torch.nn.MultiheadAttention.
    """

    name: str
    third: int | None = None


class Place(NamedTuple):
    """One module of ours in theirs.

    ours: how its names begin, a regular expression. theirs: how they begin there. parts: the modules in it by their names here
    and there, where these differ; with a number, that third of a packed one.
    """

    ours: str
    theirs: str
    parts: Mapping[str, str | tuple[str, int]] = {}


def origin(ours: str, places: Iterable[Place]) -> Origin | None:
    """Of one name, by the first of ``places`` that it begins like; None where it begins like none."""
    for place in places:
        if (found := re.match(place.ours, ours)) is None:
            continue
        start, (part, _, leaf) = found.expand(place.theirs), ours[found.end() :].rpartition(".")
        there = place.parts.get(part, part)
        if isinstance(there, tuple):
            return Origin(f"{start}{there[0]}_{leaf}", there[1])
        return Origin(start + ".".join(filter(None, (there, leaf))))
    return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """By name, on the CPU, from a .safetensors file or one of torch.save. Raises ValueError."""
    if path.suffix != ".safetensors":
        return read_state_dict(path)
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no file of weights: {str(error).strip().partition(chr(10))[0]}") from error


def taken(
    origins: Mapping[str, Origin], theirs: Tensors, *, path: Path, no_role: Collection[str] = ()
) -> dict[str, Tensor]:
    """``theirs`` by our names. Raises ValueError where one is missing, or where one of theirs is neither used nor in ``no_role``."""
    used = list(dict.fromkeys(place.name for place in origins.values()))
    faults = {
        "missing": [name for name in used if name not in theirs],
        "unknown": [name for name in theirs if name not in {*used, *no_role}],
    }
    found = [f"{len(names)} {what}, the first is {names[0]}" for what, names in faults.items() if names]
    if found:
        raise ValueError(f"{path} holds another model's weights: {'; '.join(found)}")
    return {ours: _part(theirs[name], third) for ours, (name, third) in origins.items()}


def put_beside(network: nn.Module, values: Tensors, *, path: Path) -> None:
    """Some parameters and buffers of ``network`` become ``values``; the others stay. Raises ValueError as `fill` does."""
    fill(network, {**network.state_dict(), **values}, path=path)


def _part(value: Tensor, third: int | None) -> Tensor:
    # A copy, so that no two parameters lie in one tensor.
    return value if third is None else value.chunk(3)[third].clone()
