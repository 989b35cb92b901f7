"""Photos on a device: each goes there once, as uint8, for all experts of a pack, ahead of its turn and beside the computing.

A worker's reading threads may call `send` as soon as a photo is decoded: on CUDA the copy then runs on a stream of its own
from pinned memory while the model works on earlier photos. The tensor lives as long as the Photo does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from expert_zoo.expert import Photo

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Photo -> device -> (uint8 H x W x 3 there, the event that says that it has arrived).
_sent: WeakKeyDictionary[Photo, dict[str, tuple[Any, Any]]] = WeakKeyDictionary()
_streams: dict[str, Any] = {}
_lock = threading.Lock()


def send(device: torch.device, photo: Photo) -> None:
    """Begin to move ``photo`` to ``device``, if that has not begun. Any thread may call it; on a CPU there is nothing to do."""
    if device.type != "cuda" or str(device) in _sent.get(photo, ()):
        return
    import torch

    pinned_HW3 = _tensor(photo).pin_memory()  # takes milliseconds: for these the model's thread must not wait
    with _lock:
        there = _sent.setdefault(photo, {})
        if str(device) in there:
            return
        if str(device) not in _streams:
            _streams[str(device)] = torch.cuda.Stream(device)
        stream = _streams[str(device)]
        with torch.cuda.stream(stream):
            there[str(device)] = (pinned_HW3.to(device, non_blocking=True), stream.record_event())


def pixels_on(device: torch.device, photo: Photo) -> Tensor:
    """uint8 H x W x 3 of ``photo`` on ``device``, ready for the current stream. Not to be written on."""
    if device.type != "cuda":
        return _tensor(photo).to(device)
    import torch

    send(device, photo)
    pixels_HW3, arrived = _sent[photo][str(device)]
    torch.cuda.current_stream(device).wait_event(arrived)
    pixels_HW3.record_stream(torch.cuda.current_stream(device))
    return pixels_HW3


def forget() -> None:
    """Give back the device memory of all photos: what an out-of-memory error asks for. They are sent again when needed."""
    with _lock:
        _sent.clear()


def _tensor(photo: Photo) -> Tensor:
    import torch

    pixels_HW3 = np.ascontiguousarray(photo.pixels_HW3)
    if not pixels_HW3.flags.writeable:  # torch has no read-only tensors and warns
        pixels_HW3 = pixels_HW3.copy()
    return torch.from_numpy(pixels_HW3)
