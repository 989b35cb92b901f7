"""Checkpoints of the library transformers: a folder of config.json and model.safetensors, loaded with nothing left over.

No file outside the folder is looked at and nothing is downloaded. Every error is a ValueError of one line.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

CONFIG, SAFETENSORS, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"

_SEED = 20230304

#: Buffers that older versions of transformers stored and newer ones compute.
NO_ROLE = (".position_ids", ".relative_position_index", ".num_batches_tracked")


def load_pretrained(network_class: Any, folder: Path, *, unread: Collection[str] = ()) -> Any:
    """``network_class`` (a PreTrainedModel) in float32 on the CPU, as ``folder`` says. Raises ValueError.

    unread: parameters that this version of transformers has and never reads, so that a checkpoint need not have them.
    """
    import torch

    try:
        with _quietly():
            network, told = network_class.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are told below, in one line, with the others
            )
    except Exception as error:  # transformers raises many kinds, most with a page of text
        raise ValueError(
            f"{folder} is no {network_class.__name__} checkpoint: {str(error).strip().partition(chr(10))[0]}"
        ) from error
    kinds = {
        "missing": sorted(told["missing_keys"]),
        "unknown": sorted(told["unexpected_keys"]),
        "of another shape": sorted(name for name, *_ in told["mismatched_keys"]),
        "unreadable": sorted(told["error_msgs"]),
    }
    faults = [
        f"{len(names)} {kind}, the first is {names[0]}"
        for kind, found in kinds.items()
        if (names := [name for name in found if not name.endswith(NO_ROLE) and name not in unread])
    ]
    if faults:
        raise ValueError(f"{folder} holds another network's weights than {network_class.__name__}: {'; '.join(faults)}")
    return network


def check_size(network: nn.Module, parameters: Mapping[str, int], size: str, *, where: Path) -> None:
    """Raises ValueError where ``network``, loaded from ``where``, is another of the published sizes than ``size``.

    ``parameters``: of each size. config.json says how large a network is, so a folder with another size's files loads without
    a fault, and its labels would stand under the card and the licence of this one.
    """
    found = sum(parameter.numel() for parameter in network.parameters())
    other = next((name for name, count in parameters.items() if count == found and name != size), None)
    if other is not None:
        raise ValueError(
            f"{where} holds the network of size {other}, expected {size}; put its own files there, or ask for `size: {other}`"
        )


def save_seeded(network: Any, folder: Path) -> None:
    """`randomise`, then `save_pretrained`: a checkpoint of ``network``'s architecture without knowledge in it."""
    randomise(network)
    save_pretrained(network, folder)


def randomise(network: nn.Module) -> None:
    """Give ``network`` seeded random weights that let its output depend on the photo.

    Weights of two or more axes are uniform within +-sqrt(6 / fan_in), which keeps activations at one size (arXiv:1502.01852,
    section 2.2), biases within +-0.1; gains of norms stay as they are. transformers' own initialisation is made for training,
    and so narrow that an untrained network says nearly the same of everything.
    """
    import torch

    draw = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                end = math.sqrt(6 / math.prod(parameter.shape[1:]))
                parameter.uniform_(-end, end, generator=draw)
            elif name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1, generator=draw)


def save_pretrained(network: Any, folder: Path) -> None:
    """Write ``network`` (a PreTrainedModel) as config.json and model.safetensors into ``folder``."""
    with _quietly():
        network.save_pretrained(folder)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars, and without the table of faults that `load_pretrained` puts into one line."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
