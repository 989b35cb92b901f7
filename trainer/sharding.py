"""How ranks share one model: each holds all of it (DDP), or a part of what is large (FSDP2).

ddp    gradients are averaged; everything is on every rank
zero2  gradients and optimizer state are cut among the ranks; parameters are gathered once per step
zero3  parameters too: gathered block by block, and again on the way back
Source: ZeRO, arXiv:1910.02054.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.method import Method
from trainer.ranks import Ranks
from trainer.training import Sharding


def shared_out(method: Method, sharding: Sharding, ranks: Ranks) -> nn.Module:
    """What to call instead of ``method``, whose parameters may be other ones afterwards."""
    if ranks.count == 1:
        return method
    if sharding == "ddp":
        return DistributedDataParallel(
            method,
            device_ids=None if ranks.device.type == "cpu" else [ranks.device],
            find_unused_parameters=method.skips_parameters,
            gradient_as_bucket_view=True,
            broadcast_buffers=False,  # `agree_on_statistics` does it when somebody looks
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.count,))
    for block in [*method.blocks(), method]:
        fully_shard(block, mesh=mesh, reshard_after_forward=sharding == "zero3")
    return method


def without_exchange(module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """For a micro-batch: DDP exchanges gradients with the ``last`` one of a step.

    FSDP does at each: to wait would be to hold whole gradients, and they were cut because they do not fit.
    """
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def is_cut(tensor: Tensor) -> bool:
    """Whether each rank has a part of it: a DTensor. The class itself takes seconds to import, and is there only if one is."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be cut, where it is. All ranks call it, in the same order."""
    tensor = tensor.detach()
    return tensor.full_tensor() if is_cut(tensor) else tensor  # type: ignore[attr-defined]


def cut_like(tensor: Tensor, model: Tensor) -> Tensor:
    """The first rank's ``tensor``, cut as ``model`` is and on its device. All ranks call it, in the same order."""
    tensor = tensor.to(model.device)
    if is_cut(model):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, model.device_mesh, model.placements)  # type: ignore[attr-defined]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast(tensor, src=0)
    return tensor


def hollow(method: Method) -> Method:
    """A copy without any numbers in it, nor memory for them; before sharding, for `filled`."""
    return copy.deepcopy(method).to("meta")


@contextmanager
def filled(empty: Method, method: Method) -> Iterator[Method]:
    """A `hollow` copy with all that ``method`` has, which may be cut among the ranks; then hollow again.

    Each rank may do with it what it likes: an evaluation uses parts of a method, and not as often on one rank as on another, which
    with what is cut would wait for the others for ever. All ranks enter, in the same order.
    """
    there = dict([*method.named_parameters(remove_duplicate=False), *method.named_buffers(remove_duplicate=False)])
    empty.to_empty(device=next(method.parameters()).device)
    here = [*empty.named_parameters(remove_duplicate=False), *empty.named_buffers(remove_duplicate=False)]
    with torch.no_grad():
        for name, tensor in here:
            tensor.copy_(whole(there[name]))
    try:
        yield empty.eval()
    finally:
        empty.to("meta")


def named_tensors(module: nn.Module, *, frozen: bool) -> Iterator[tuple[str, Tensor]]:
    """Parameters and lasting buffers by the names of `state_dict`; those of frozen parameters only if asked for."""
    untrained = {
        name for name, parameter in module.named_parameters(remove_duplicate=False) if not parameter.requires_grad
    }
    for name, tensor in module.state_dict().items():
        if frozen or name not in untrained:
            yield name, tensor


def statistics_of(module: nn.Module) -> list[Tensor]:
    """What layers keep besides parameters and change by themselves: running means and deviations."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    kept = module.state_dict(keep_vars=True)
    return [tensor for name, tensor in kept.items() if name not in parameters and tensor.is_floating_point()]


def agree_on_statistics(statistics: Sequence[Tensor], ranks: Ranks) -> None:
    """Every rank's become the mean of all: what one rank would have, had it seen all batches."""
    for tensor in statistics:
        ranks.add_up(tensor.div_(ranks.count))
