"""Loader: batch after batch of this rank, and a state that goes on exactly where the trainer was.

A global batch is ``batch_size`` consecutive positions of an epoch's order; every rank has its share of each. So neither the number
of ranks nor that of workers changes which examples make a step, nor how they are cut and turned.
"""

from __future__ import annotations

import functools
import signal
import weakref
from collections.abc import Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from pipeline.errors import ExpertLabelsError
from trainer.data.ahead import Ahead
from trainer.data.batch import Batch, collated
from trainer.data.dataset import Key, LabelDataset
from trainer.data.order import share


class Loader:
    """Iterating gives this rank's batches from where the state is to the end of the epoch; then the next epoch has begun.

    batch_size: examples of a step, over all ranks. drop_last: leave out the epoch's last examples where they do not fill a batch,
        as training does; else they make a smaller one, and a rank without a share of it has one batch less.
    workers: processes that read; 0 reads in this one. ahead: batches that each of them has in store.
    pin: in pinned memory, for a GPU. accumulated: micro-batches that `steps` makes of a batch.

    Raises ValueError for a batch size that ranks cannot share evenly, or that an epoch does not fill. While iterating it raises
    StoreError as LabelDataset does, whatever process it comes from.
    """

    def __init__(
        self,
        dataset: LabelDataset,
        *,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        drop_last: bool = True,
        workers: int = 0,
        ahead: int = 2,
        pin: bool = False,
        accumulated: int = 1,
    ) -> None:
        images = len(dataset.selection)
        if batch_size < 1 or (drop_last and batch_size % ranks):
            raise ValueError(f"a batch of {batch_size} for {ranks} ranks; expected a multiple of the number of ranks")
        if drop_last and images < batch_size:
            raise ValueError(
                f"an epoch has {images} examples, a batch {batch_size}; expected at least one batch: take smaller ones"
            )
        self.dataset = dataset
        self.epoch = 0
        self.batches = 0
        self._batch_size = batch_size
        self._rank, self._ranks = rank, ranks
        self._drop_last = drop_last
        self._accumulated = accumulated
        self._ahead = Ahead(dataset)
        self._torch_loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=_Keys(self),
            num_workers=workers,
            collate_fn=functools.partial(collated, specs=dataset.specs, label_size=dataset.label_resolution),
            pin_memory=pin,
            worker_init_fn=_leave_signals_to_the_trainer,
            prefetch_factor=ahead if workers else None,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # its own: torch draws a seed for workers, and the global one is the model's
        )
        # Before multiprocessing itself waits for processes that it has sent a signal, and that do not listen.
        weakref.finalize(self, _end_workers, weakref.ref(self._torch_loader))

    @property
    def per_epoch(self) -> int:
        """Global batches of an epoch."""
        images = len(self.dataset.selection)
        return images // self._batch_size if self._drop_last else -(-images // self._batch_size)

    def steps(self, first: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of global batch ``first`` (from 0, over all epochs), of the next one, and so on for ever."""
        self.epoch, self.batches = divmod(first, self.per_epoch)
        while True:
            for batch in self:
                yield batch.split(self._accumulated)

    def __iter__(self) -> Iterator[Batch]:
        if self._torch_loader.num_workers:
            # In this process, before others are forked from it: there they inherit it, and threads that OpenCV had here would be
            # waited for there for ever.
            cv2.setNumThreads(1)
        found = iter(self._torch_loader)
        self._ahead.start()  # workers are forked by now, and must not be while threads are at work
        while self.batches < self.per_epoch:
            # Counted before it is handed over: whoever asks for the state has done the step.
            self.batches += 1
            if self._share(self.batches - 1):
                batch = next(found)
                if isinstance(batch, ExpertLabelsError):
                    raise batch
                yield batch
        self.epoch, self.batches = self.epoch + 1, 0

    def _share(self, number: int) -> range:
        """This rank's positions of a batch of this epoch."""
        start = number * self._batch_size
        return share(range(start, min(start + self._batch_size, len(self.dataset.selection))), self._rank, self._ranks)

    def _keys(self, epoch: int, first: int) -> Iterator[list[Key]]:
        """What is still to come of the epoch, batch by batch; batches without a share of this rank are left out."""
        for number in range(first, self.per_epoch):
            if positions := self._share(number):
                self._ahead.reached(epoch, positions.start)
                yield [(epoch, position) for position in positions]

    def state_dict(self) -> dict[str, Any]:
        """What was handed out so far, to be saved after the step on the last batch. Plain values."""
        return {
            "epoch": self.epoch,
            "batches": self.batches,
            "examples": self.dataset.selection.fingerprint,
            "batch_size": self._batch_size,
            "seed": self.dataset.seed,
            "window": self.dataset.window,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on from there. ValueError where the examples that follow would be others."""
        now = self.state_dict()
        for name in ("examples", "batch_size", "seed", "window"):
            if state[name] != now[name]:
                raise ValueError(
                    f"the reader's state has {name} {state[name]}, this run {now[name]}; expected the same, or the steps that follow "
                    "would not be those that were to follow: restore the recipe and the store, or begin anew"
                )
        self.epoch, self.batches = int(state["epoch"]), int(state["batches"])

    def close(self) -> None:
        """Ends what works in the background."""
        self._ahead.close()
        _end_workers(weakref.ref(self._torch_loader))


class _Keys:
    """The batch sampler of torch's loader: begins wherever ``loader`` is."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[list[Key]]:
        return self._loader._keys(self._loader.epoch, self._loader.batches)

    def __len__(self) -> int:
        return self._loader.per_epoch


def _leave_signals_to_the_trainer(_worker: int) -> None:
    """A scheduler or a terminal tells the whole group to stop: the trainer finishes its step first, and then ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _end_workers(loader: weakref.ref[DataLoader[Any]]) -> None:
    found = loader()
    if found is not None and found._iterator is not None:
        found._iterator._shutdown_workers()  # type: ignore[attr-defined]
        found._iterator = None
