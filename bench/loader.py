"""Samples a second of one worker, and bytes a sample: trainer.data against a loader like that of Prismer's authors, and webdataset.

    python -m bench.loader --loader-photos 96

All read the same photos and labels and augment alike. Each has one worker process with one thread and is timed by that process's
CPU seconds, by turns, so that other programs on the machine hardly count.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any library that reads it: one core is measured

import cv2
import psutil
import torch
from torch.utils.data import DataLoader

from bench.labelled_photos import LABELS, label_photos, write_photos
from bench.reference_loader import ReferenceLoader, write_files
from bench.report import Figure, Part, run_alone
from bench.tar_loader import Decode, TarExamples, by_pillow, quickly, write_tars
from pipeline.reader import LabelReader
from pipeline.store import LabelStore
from trainer.data.augmentation import Augmentation
from trainer.data.batch import collated
from trainer.data.dataset import LabelDataset

BATCH, EPOCHS = 16, 100
RESOLUTION = 224
SPEED_GOAL, BYTES_GOAL = 15.0, 50.0


@dataclass(frozen=True, slots=True)
class Running:
    """A worker at work. ``batches``: (samples, bytes of what they became) of one batch after the other; ``worker``: its process."""

    batches: Iterator[tuple[int, int]]
    worker: psutil.Process

    @classmethod
    def on(cls, loader: DataLoader[Any], size_of: Callable[[Any], tuple[int, int]]) -> Running:
        found = iter(loader)
        return cls(map(size_of, found), psutil.Process(found._workers[0].pid))  # type: ignore[attr-defined]

    def rate(self, seconds: float) -> tuple[float, float]:
        """(Samples per CPU second of the worker, bytes per sample), of about so many of its seconds."""
        samples, sent, start = 0, 0, self._spent()
        while (spent := self._spent() - start) < seconds:
            count, size = next(self.batches)
            samples, sent = samples + count, sent + size
        return samples / spent, sent / samples

    def _spent(self) -> float:
        used = self.worker.cpu_times()
        return used.user + used.system


def turn(begin: Callable[[], Running], seconds: float) -> tuple[float, float]:
    """The rate of a worker of its own, which ends with it: workers ahead of their readers would go on beside the others."""
    running = begin()
    running.rate(seconds / 4)
    return running.rate(seconds)


def ours(store: LabelStore) -> Running:
    """Epoch after epoch, so many that they last."""
    dataset = LabelDataset(store, labels=LABELS, view=Augmentation(), resolution=RESOLUTION, seed=0)
    keys = [(epoch, position) for epoch in range(EPOCHS) for position in range(len(dataset.selection))]
    put_together = functools.partial(collated, specs=dataset.specs, label_size=RESOLUTION)
    loader = DataLoader(dataset, batch_size=BATCH, sampler=keys, num_workers=1, collate_fn=put_together)
    return Running.on(loader, lambda batch: (len(batch), batch.nbytes))


def webdataset(paths: list[str], reader: LabelReader, decode: Decode) -> Running:
    specs = {modality: reader.cards[name].spec for modality, name in LABELS.items()}
    put_together = functools.partial(collated, specs=specs, label_size=RESOLUTION)
    dataset = TarExamples(paths, reader.cards, LABELS, decode=decode)
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=1, collate_fn=put_together)
    return Running.on(loader, lambda batch: (len(batch), batch.nbytes))


def reference(dataset: ReferenceLoader) -> Running:
    order = list(range(len(dataset))) * EPOCHS
    loader = DataLoader(dataset, batch_size=BATCH, sampler=order, num_workers=1)
    return Running.on(loader, lambda batch: (BATCH, sum(value.nbytes for value in batch.values())))


def measure(arguments: argparse.Namespace) -> Part:
    """All by turns."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    turns = arguments.loader_turns
    photos = Path(arguments.loader_from) if arguments.loader_from else None
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        folder = Path(place)
        paths = write_photos(folder / "photos", arguments.loader_photos, photos)
        store = label_photos(folder, paths, shard_size=arguments.loader_shard_size)
        reader = LabelReader(store)
        tars = write_tars(folder / "tars", reader)
        names = write_files(folder / "files", list(LabelReader(store).samples()), paths)
        ways: dict[str, Callable[[], Running]] = {
            "ours": lambda: ours(store),
            "like the authors'": lambda: reference(ReferenceLoader(folder / "files", paths, names)),
            "webdataset": lambda: webdataset(tars, reader, quickly),
            "webdataset, its own decoders": lambda: webdataset(tars, reader, by_pillow),
        }
        found = [{name: turn(begin, arguments.loader_seconds) for name, begin in ways.items()} for _ in range(turns)]
    rates = {name: statistics.median(turn[name][0] for turn in found) for name in ways}
    sizes = {name: found[0][name][1] for name in ways}

    def over(other: str) -> float:
        return statistics.median(turn["ours"][0] / turn[other][0] for turn in found)

    smaller = sizes["like the authors'"] / sizes["ours"]
    how = (
        f"{arguments.loader_photos} photos {'of a folder' if photos else '(rendered scenes)'} with at most 640 pixels along the "
        f"longer side as JPEG files, labels of six kinds with 480 (bench/labelled_photos.py), all in the store and in the page "
        f"cache, {RESOLUTION} x {RESOLUTION} pixels, Prismer's augmentation. {turns} turns of "
        f"{arguments.loader_seconds:g} CPU seconds for each. webdataset is given our decoders, cuts and tensors, so that only its "
        "reading differs; in the last line it decodes with Pillow, as it does by itself."
    )
    return Part(
        title="Loader",
        how=how,
        figures=[
            Figure(
                name="samples, ours over a loader like the authors'",
                value=over("like the authors'"),
                unit="ratio",
                goal="at least 15",
                met=over("like the authors'") >= SPEED_GOAL,
            ),
            Figure(
                name="bytes, a loader like the authors' over ours",
                value=smaller,
                unit="ratio",
                goal="at least 50",
                met=smaller >= BYTES_GOAL,
            ),
            Figure(
                name="samples, ours over webdataset",
                value=over("webdataset"),
                unit="ratio",
                goal="at least 1",
                met=over("webdataset") >= 1,
            ),
            *(Figure(name=f"samples, {name}", value=rates[name], unit="samples/s of a core") for name in ways),
            Figure(name="bytes, ours", value=sizes["ours"], unit="bytes/sample"),
            Figure(name="bytes, like the authors'", value=sizes["like the authors'"], unit="bytes/sample"),
        ],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--loader-photos", type=int, default=96, help="photos")
    parser.add_argument("--loader-shard-size", type=int, default=32)
    parser.add_argument("--loader-turns", type=int, default=5)
    parser.add_argument("--loader-seconds", type=float, default=4.0, help="CPU seconds a turn")
    parser.add_argument(
        "--loader-from", default=os.environ.get("EXPERT_LABELS_PHOTOS"), help="a folder of photos; without one, scenes"
    )


if __name__ == "__main__":
    run_alone(measure, add_arguments, __doc__ or "")
