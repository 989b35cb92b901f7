"""A training's whole state into a checkpoint, and back so that nobody could tell that it was interrupted.

It is kept whole, however it was shared out, and so comes back on any number of ranks in any way of sharing. Only the random
generators are each rank's own: another number of ranks draws anew from the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from pipeline.receipt import installed_packages
from trainer import generators
from trainer.checkpoint import About, Checkpoint, Checkpoints
from trainer.errors import CheckpointError
from trainer.fingerprint import StoreFingerprint
from trainer.method import Method
from trainer.ranks import Ranks
from trainer.sharding import cut_like, named_tensors
from trainer.tensor_file import Slot, read_slots, read_tensors

Named = Sequence[tuple[str, Tensor]]
#: Of AdamW, for every parameter: the first two have its shape, the last is one number.
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save(
    checkpoints: Checkpoints,
    *,
    method: Method,
    optimizer: AdamW,
    ranks: Ranks,
    recipe: dict[str, Any],
    store: StoreFingerprint | None,
    step: int,
    metrics: dict[str, float],
    progress: dict[str, Any],
    frozen: str | None,
) -> str:
    """Writes it; all ranks call it. frozen: digest of the frozen parameters, which are then left out; None takes them in."""
    per_rank = ranks.gathered(generators.states(ranks.device))
    about = About(
        step=step,
        recipe=recipe,
        store=store,
        ranks=ranks.count,
        random=[rest for _, rest in per_rank],
        metrics=metrics,
        progress=progress,
        frozen=frozen,
        packages=installed_packages(),
    )
    tensors: dict[str, Named] = {
        "weights": list(named_tensors(method, frozen=frozen is None)),
        "optimizer": moments(method, optimizer),
        "random": [(f"{rank}/{name}", t) for rank, (kept, _) in enumerate(per_rank) for name, t in kept.items()],
    }
    return checkpoints.save(about, tensors, writes=ranks.first)


def check_fits(checkpoint: Checkpoint, *, method: Method, frozen: str) -> None:
    """Raises CheckpointError where it is of another model, or was trained beside other frozen parameters than those of the digest
    ``frozen``."""
    wanted = {name: tuple(t.shape) for name, t in named_tensors(method, frozen=checkpoint.about.frozen is None)}
    slots = read_slots(checkpoint.storage, checkpoint.file("weights")[0])
    there = {slot.name: slot.shape for slot in slots}
    other = sorted(name for name in {**wanted, **there} if wanted.get(name) != there.get(name))
    if other:
        name = other[0]
        raise CheckpointError(
            f"{checkpoint.url} is of another model: {len(other)} tensors differ, such as {name}, there {_size(there.get(name))}, "
            f"here {_size(wanted.get(name))}; expected the recipe that it was trained with"
        )
    if checkpoint.about.frozen not in (None, frozen):
        raise CheckpointError(
            f"{checkpoint.url} was trained beside other frozen weights than those that were loaded; expected the files that the run "
            "was begun with"
        )


def restore(checkpoint: Checkpoint | None, *, method: Method, optimizer: AdamW, ranks: Ranks, seed: int) -> str:
    """Puts it back; all ranks call it, and the first one has the checkpoint. Returns what is not as it was, "" if nothing is."""
    with torch.no_grad():
        slots = dict(method.state_dict())
        for name, tensor in _from_first(checkpoint, "weights", ranks):
            slots[name].copy_(cut_like(tensor, slots[name]))
        parameters = dict(method.named_parameters())
        for path, tensor in _from_first(checkpoint, "optimizer", ranks):
            name, _, moment = path.rpartition("/")
            parameter = parameters[name]
            like = parameter if moment != "step" else torch.empty((), device=parameter.device)
            optimizer.state[parameter][moment] = cut_like(tensor, like)
    about, kept = ranks.from_first((checkpoint.about, _tensors(checkpoint, "random")) if checkpoint else (None, {}))
    assert about is not None
    if about.ranks != ranks.count:
        generators.seed_all(generators.mixed(seed, about.step, ranks.rank))
        return f"{ranks.count} rank(s) instead of {about.ranks}: the same samples in every step, other random numbers inside the model"
    own = {name.partition("/")[2]: t for name, t in kept.items() if name.startswith(f"{ranks.rank}/")}
    generators.restore(own, about.random[ranks.rank], ranks.device)
    return ""


def moments(method: Method, optimizer: AdamW) -> Named:
    """What AdamW remembers, as <parameter>/<moment>; nothing before its first step."""
    found = []
    for name, parameter in method.named_parameters():
        found += [
            (f"{name}/{moment}", optimizer.state[parameter][moment])
            for moment in MOMENTS
            if optimizer.state.get(parameter)
        ]
    return found


def frozen_digest(method: Method) -> str:
    """Of frozen parameters, from some of their values: enough to tell one file of weights from another. Before sharding."""
    digest = hashlib.sha256()
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            flat = parameter.detach().flatten()
            some = flat[:: max(1, len(flat) // 256)].float().cpu()
            digest.update(f"{name} {tuple(parameter.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """By name, on the CPU: for `start_from`, or an evaluation. Raises CheckpointError for a damaged file."""
    return _tensors(checkpoint, "weights")


def _tensors(checkpoint: Checkpoint, kind: str) -> dict[str, Tensor]:
    name, sha256 = checkpoint.file(kind)
    return dict(read_tensors(checkpoint.storage, name, sha256=sha256))


def _from_first(checkpoint: Checkpoint | None, kind: str, ranks: Ranks) -> Iterator[tuple[str, Tensor]]:
    """Tensors of one file, one after the other: the first rank reads them, on the others they are as large and hold nothing."""
    if checkpoint is not None:
        file, sha256 = checkpoint.file(kind)
        ranks.from_first(read_slots(checkpoint.storage, file))
        yield from read_tensors(checkpoint.storage, file, sha256=sha256)
    else:
        for slot in ranks.from_first(list[Slot]()):
            yield slot.name, torch.empty(slot.shape, dtype=slot.dtype)


def _size(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else "x".join(map(str, shape)) or "one number"
