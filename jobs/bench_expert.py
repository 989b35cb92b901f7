"""How fast an expert is, and how much of that speed its worker keeps: the bare network, the expert, the whole actor.

    network   the network alone: time inside its outermost modules, while the expert labels decoded photos
    expert    photo in memory -> label: upload, resizing, network, reading out, copy back
    actor     JPEG file -> committed cell: decoding, the expert, PNG encoding, writing, as a worker of a job does it

Actor over network is the figure of merit: what is lost around the network. The three are measured in turns, and the median of
the turns is reported, because machines are shared.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from expert_zoo.catalog import accepts, create
from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import Label
from jobs.trial import try_out
from manifests.record import ImageRecord, path_id
from pipeline.choices import ExpertChoice, Pack
from pipeline.errors import JobError
from pipeline.labeller import Effort
from pipeline.photos import Limits, read_photo

#: Of the rendered photos, and of the JPEG files that the actor reads.
PHOTO_SIDE = 640
PHOTO_SEED = 41
#: How many, where nobody says. A GPU needs some batches until reading, computing and encoding go on side by side.
PHOTOS_ON_CPU, BATCHES_ON_GPU = 16, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSpeed:
    """One expert. Rates in images a second; ``network`` is None where it is no torch network. ``input``: (h, w), likewise.

    ``seeded``: full or small random weights, None for real ones; ``parameters`` is None of a small network, which is not the
    card's. ``peak_bytes``: on CUDA the largest amount of device memory in use, else the largest resident set of the process.
    """

    expert: str
    device: str
    input: tuple[int, int] | None
    batch_size: int
    photos: int
    seeded: str | None
    parameters: int | None
    network: float | None
    expert_rate: float
    actor: float
    peak_bytes: int

    @property
    def kept(self) -> float | None:
        """Actor over network: the share of the bare network's speed that reaches the store."""
        return None if self.network is None else self.actor / self.network

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"actor_over_network": self.kept}


def bench_expert(
    name: str,
    *,
    options: Mapping[str, Any],
    device: str | None = None,
    photos: int | None = None,
    turns: int = 3,
    batch_size: int | None = None,
    seeded: str | None = None,
    threads: int | None = None,
) -> ExpertSpeed:
    """Measures the expert called ``name`` with the ``options`` of a job file, on scenes rendered at 640 pixels a side.

    device: "cpu" or "cuda:0"; None: the GPU if there is one. photos: None: PHOTOS_ON_CPU, or BATCHES_ON_GPU batches. seeded: "full" or "small", random weights in a folder that is
    removed afterwards, in place of real ones. threads: that read photos, and as many that encode labels, beside the model's.

    Raises JobError for an unknown name, option or device, where weights are missing, and where a photo fails: failing is fast.
    """
    device = _checked_device(device)
    with tempfile.TemporaryDirectory(prefix="expert-labels-") as scratch:
        options = dict(options)
        try:
            if seeded:
                _seed(name, options, Path(scratch) / "weights", small=seeded == "small")
            expert = create(name, options=options)
            _ = expert.card.version
        except ValueError as error:
            raise JobError(str(error)) from error
        batch = batch_size or expert.needs.batch_size
        photos = photos or (PHOTOS_ON_CPU if device == "cpu" else BATCHES_ON_GPU * batch)
        records = _photo_files(Path(scratch) / "photos", 2 * photos)
        try:
            return _measure(expert, options, records, device, turns, batch, threads, seeded, Path(scratch))
        except ValueError as error:
            raise JobError(f"expert {name!r}: {error}") from error


def _measure(
    expert: Expert,
    options: dict[str, Any],
    records: Sequence[ImageRecord],
    device: str,
    turns: int,
    batch: int,
    threads: int | None,
    seeded: str | None,
    scratch: Path,
) -> ExpertSpeed:
    name = expert.card.name
    decoded = [read_photo(record, Limits()) for record in records[len(records) // 2 :]]  # those that count in `try_out`
    threads = threads or (max(1, (os.cpu_count() or 2) // 2) if device != "cpu" else 1)
    pack = Pack(
        name="bench",
        experts=(ExpertChoice(name=name, options=options, batch_size=batch),),
        gpus=0.0 if device == "cpu" else 1.0,
        effort=Effort(read_threads=threads, encode_threads=threads),
    )
    expert.load(device)
    _label_all(expert, decoded[:batch], batch, device)
    inside, whole, actor = [], [], []
    for turn in range(turns):
        fresh = [replace(photo) for photo in decoded]  # whose pixels are not on the device yet
        seconds, within = _label_all(expert, fresh, batch, device)
        whole.append(len(fresh) / seconds)
        if within > 0:
            inside.append(len(fresh) / within)
        expert.release()
        last = try_out(pack, records, scratch / f"turn{turn}")[-1]
        if refused := last.results[0].refused:
            raise ValueError(refused)
        actor.append(last.images / last.seconds)
        expert.load(device)
    size = getattr(expert, "preprocess", None) and expert.preprocess.size(PHOTO_SIDE, PHOTO_SIDE)  # type: ignore[attr-defined]
    return ExpertSpeed(
        expert=name,
        device=_name_of(device),
        input=size or None,
        batch_size=batch,
        photos=len(decoded),
        seeded=seeded,
        parameters=None if seeded == "small" else expert.card.parameters,
        network=statistics.median(inside) if inside else None,
        expert_rate=statistics.median(whole),
        actor=statistics.median(actor),
        peak_bytes=_peak_bytes(device),
    )


def _label_all(expert: Expert, photos: Sequence[Photo], batch: int, device: str) -> tuple[float, float]:
    """(seconds in all, seconds inside the network)."""
    labels: list[Label] = []
    with _network_clock(device) as spans:
        start = time.perf_counter()
        for first in range(0, len(photos), batch):
            labels += expert.label(photos[first : first + batch])
        seconds = time.perf_counter() - start
        if failed := [label.reason for label in labels if label.status == "failed"]:
            raise ValueError(f"{len(failed)} of {len(labels)} photos failed: {failed[0]}")
        return seconds, sum(span() for span in spans)


@contextmanager
def _network_clock(device: str) -> Iterator[list[Any]]:
    """Collects one span (a function that gives its seconds) for each call of an outermost torch module."""
    import torch
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

    spans: list[Any] = []
    depth, begun = 0, None

    def now() -> Any:
        if device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(begin: Any, end: Any) -> float:
        if device == "cpu":
            return float(end - begin)
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1000

    def enter(*_: Any) -> None:
        nonlocal depth, begun
        if depth == 0:
            begun = now()
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            spans.append(partial(between, begun, now()))

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield spans
    finally:
        for hook in hooks:
            hook.remove()


def _seed(name: str, options: dict[str, Any], root: Path, *, small: bool) -> None:
    from expert_zoo.networks.seeding import seed

    if accepts(name, "weights_folder"):
        seed([name], root=root, small=small, options={name: options})
        options["weights_folder"] = str(root)


def _photo_files(folder: Path, count: int) -> list[ImageRecord]:
    from PIL import Image

    from manifests.scenes import render_uri, scene_uri

    folder.mkdir()
    records = []
    for index in range(count):
        path = folder / f"{index:04d}.jpg"
        Image.fromarray(render_uri(scene_uri(PHOTO_SEED, index, PHOTO_SIDE)).photo_HW3).save(path, quality=92)
        captions = ("a room with a ball and a box",)  # for experts that judge captions
        records.append(ImageRecord(image_id=path_id(path.name), source="bench", uri=path.as_uri(), captions=captions))
    return records


def _checked_device(device: str | None) -> str:
    """``device``; None: the GPU if there is one. Raises JobError unless torch can use it, as a worker would."""
    # As Ray does for a worker of one CPU; it counts only if it is set before torch is imported for the first time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    gpu = torch.cuda.is_available()
    if device is None:
        return "cuda:0" if gpu else "cpu"
    if device not in ("cpu", "cuda", "cuda:0"):
        raise JobError(
            f"device is {device!r}; expected cpu or cuda:0 (a worker sees one GPU; CUDA_VISIBLE_DEVICES chooses which)"
        )
    if device != "cpu" and not gpu:
        raise JobError(f"device is {device!r}; expected cpu, since torch finds no GPU here")
    return "cpu" if device == "cpu" else "cuda:0"


def _name_of(device: str) -> str:
    if device == "cpu":
        return f"CPU, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s)"
    import torch

    return torch.cuda.get_device_name(device)


def _peak_bytes(device: str) -> int:
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import torch

    return torch.cuda.max_memory_allocated(device)
