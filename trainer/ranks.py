"""Ranks: the processes that train one model together, each with its device, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import ExpertLabelsError
from trainer.errors import TrainingError

T = TypeVar("T")
DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's ``rank`` of ``count``, and the device it trains on. One process is rank 0 of 1, and talks to nobody."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and speaks to the user."""
        return self.rank == 0

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place, without waiting for a device that works by itself."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def gathered(self, value: T) -> list[T]:
        """Every rank's ``value``, on every rank."""
        if self.count == 1:
            return [value]
        found: list[T | None] = [None] * self.count
        dist.all_gather_object(found, value)
        return found  # type: ignore[return-value]

    def from_first(self, value: T) -> T:
        """The first rank's ``value``, on every rank."""
        if self.count == 1:
            return value
        found = [value]
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def by_first(self, work: Callable[[], T]) -> T:
        """What the first rank's ``work`` returns, on every rank; and what it raises for the user is raised on every rank."""
        value, error = None, None
        if self.first:
            try:
                value = work()
            except ExpertLabelsError as raised:
                error = raised
        value, error = self.from_first((value, error))
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def joined(device: DeviceName = "auto") -> Iterator[Ranks]:
    """This process among those that torchrun or Ray Train started, or alone. Raises TrainingError for a device that is not there."""
    own_device = _device(device)
    if dist.is_initialized():  # Ray Train has done it, and will undo it
        yield Ranks(rank=dist.get_rank(), count=dist.get_world_size(), device=own_device)
        return
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(rank=0, count=1, device=own_device)
        return
    # Objects travel between CPUs, also where tensors travel between GPUs.
    dist.init_process_group("gloo" if own_device.type == "cpu" else "cpu:gloo,cuda:nccl")
    try:
        yield Ranks(rank=dist.get_rank(), count=count, device=own_device)
    finally:
        dist.destroy_process_group()


def _device(name: DeviceName) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device cuda: this machine has no GPU that torch can use; expected one, or `device: cpu`")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.index >= torch.cuda.device_count():
        raise TrainingError(
            f"rank {os.environ.get('RANK')} wants GPU {device.index} of {torch.cuda.device_count()}; start as many processes per "
            "machine as it has GPUs (torchrun --nproc-per-node)"
        )
    torch.cuda.set_device(device)
    return device
