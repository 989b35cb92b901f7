"""Our own files: a Prismer's tensors in safetensors, and in the same file what it takes to build it again.

A file holds all tensors, or only those that training changed: then it is a fraction of the size, and says which frozen ones it
belongs to. It appears whole or not at all. Every error is a ValueError of one line that names the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from expert_zoo.networks.state_dict import fill
from manifests.location import replacing
from trainer.prismer.config import PrismerConfig
from trainer.prismer.model import Prismer
from trainer.prismer.stems import resized_positions
from trainer.prismer.weights import put_beside

FORMAT: Final = "expert-labels prismer 1"
POSITIONS: Final = "encoder.positions"


class Stored(NamedTuple):
    """What a file says of itself. frozen: digest of the tensors that it leaves out, "" where it holds all. notes: the trainer's."""

    config: PrismerConfig
    frozen: str
    notes: dict[str, Any]


def save_prismer(
    model: Prismer,
    path: Path,
    *,
    only_trained: bool = False,
    state: Mapping[str, Tensor] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write ``path``, replacing what was there.

    only_trained: leave out the parameters that are frozen now. state: the whole state dict, gathered, where ``model`` itself is
    sharded over ranks. notes: anything that JSON can say, such as the step and the store's fingerprint.
    """
    tensors = dict(model.state_dict() if state is None else state)
    left_out = _frozen(model) if only_trained else []
    frozen = _digest({name: tensors[name] for name in left_out}) if left_out else ""
    metadata = {
        "format": FORMAT,
        "config": model.config.model_dump_json(),
        "frozen": frozen,
        "notes": json.dumps(dict(notes or {})),
    }
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items() if name not in set(left_out)}
    with replacing(str(path)) as stream:
        stream.write(save(kept, metadata))


def stored(path: Path) -> Stored:
    """What ``path`` says of itself; its tensors are not read. Raises ValueError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"format {metadata.get('format', 'not told')!r}")
        config = PrismerConfig.model_validate_json(metadata["config"])
        return Stored(config, metadata["frozen"], json.loads(metadata["notes"]))
    except (OSError, SafetensorError, KeyError, ValidationError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} is no checkpoint of a Prismer: {why}; expected {FORMAT!r}") from error


def load_prismer(path: Path, *, resolution: int | None = None) -> Prismer:
    """The model of a file that holds all tensors, in eval, on the CPU. Raises ValueError.

    resolution: of the photos to come, by default the file's; the position table is resized to it.
    """
    told = stored(path)
    if told.frozen:
        raise ValueError(f"{path} holds trained tensors only; load it into a model that has the frozen ones")
    with torch.device("meta"):
        model = Prismer(told.config if resolution is None else told.config.at(resolution))
    fill(model, _tensors(path, model), path=path)
    return model.eval()


def load_into(model: Prismer, path: Path) -> None:
    """Put a file's tensors into ``model``: all of them, or those that were trained beside the same frozen ones.

    Parameters are replaced, so do it before an optimizer is made. Raises ValueError where ``model`` is another than the file's in
    more than the photos' resolution, or has other frozen tensors; then nothing is changed.
    """
    told = stored(path)
    if told.config.at(model.config.vision.resolution) != model.config:
        raise ValueError(f"{path} is of another Prismer: {_first_difference(told.config, model.config)}")
    tensors = _tensors(path, model)
    if told.frozen:
        others = {name: value for name, value in model.state_dict().items() if name not in tensors}
        if _digest(others) != told.frozen:
            raise ValueError(
                f"{path} was trained beside other frozen weights than this model's; load the same backbones first"
            )
    device = model.encoder.positions.device
    put = put_beside if told.frozen else fill
    put(model, {name: value.to(device) for name, value in tensors.items()}, path=path)


def _tensors(path: Path, model: Prismer) -> dict[str, Tensor]:
    tensors = load_file(path)
    if POSITIONS in tensors and tensors[POSITIONS].ndim == 2:
        tensors[POSITIONS] = resized_positions(tensors[POSITIONS], model.config.grid)
    return tensors


def _frozen(model: Prismer) -> list[str]:
    """Names of the parameters that are not trained. Buffers, which are the norms' statistics, change in training."""
    return sorted(name for name, parameter in model.named_parameters() if not parameter.requires_grad)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _first_difference(there: PrismerConfig, here: PrismerConfig) -> str:
    """For example: text.words is 80 there and 512 here."""
    ours, theirs = _flat(here.model_dump()), _flat(there.model_dump())
    name = next(name for name in ours if ours[name] != theirs.get(name) and name != "vision.resolution")
    return f"{name} is {theirs.get(name)} there and {ours[name]} here"


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return flat
